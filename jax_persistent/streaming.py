# SPDX-License-Identifier: Apache-2.0
"""`stream`: a recurrence over sequences that arrive in chunks, with the bits of the whole sequence.

Legend: T time steps of a chunk, B batch, I input features, H hidden units, G gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_persistent.backends.reference import accumulation_dtype
from jax_persistent.cells import Cell
from jax_persistent.ops import chunks, packing, validation
from jax_persistent.ops.chunks import Layer, States
from jax_persistent.ops.plan import cell_of
from jax_persistent.problem import PackedKernel

State = tuple[Any, ...]

# A chunk is padded by at most half of its steps, and there are few programs to compile.
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_KERNELS = ("input_kernel", "recurrent_kernel")


def stream(
    cell: str,
    layers: Mapping[str, Any] | Sequence[Any],
    *,
    chunk_sizes: Sequence[int] = _SIZES,
    time_major: bool = False,
    reverse: bool = False,
) -> Stream:
    """A recurrence, or a stack of them, over sequences that arrive in chunks of any length.

        >>> session = jp.stream("lstm", {"input_kernel": w, "recurrent_kernel": r, "bias": b})
        >>> state = session.start(batch)
        >>> for x in chunks:  # [B, T, I], with another T each time
        ...     outputs, state = session(x, state)

    On a CPU the kernels are packed once, here (see `pack`), and in float32 and bfloat16 outputs and
    state do not depend on how a sequence is cut, to the bit: they are those of one call with all of
    it, in any batch of so many rows, though a row waits, begins or ends while others go on. The
    cell's function agrees with them but for rounding: it may add up a product in another order from
    step to step, to find weights in the cache. Elsewhere all of this holds but for rounding.

    Args:
      cell: "lstm", "gru" or "elman" (with "elman-relu", as `plan` takes them).
      layers: for each layer its arrays by the names of the function's arguments: `input_kernel`
        [I, G*H], `recurrent_kernel` [H, G*H] and, if there are any, `bias` [G*H] and
        `recurrent_bias` [G*H] (GRU). Or one layer's; or what `weights.from_pytorch` returns.
        Kernels may be packed already. A layer reads the outputs of the one before.
      chunk_sizes: numbers of steps that a program is compiled for, when first needed. A chunk of
        another length is padded to the next of them, a longer one is cut.
      time_major: whether chunks and outputs are [T, B, ..].
      reverse: only False, as a reversed recurrence begins at the end of the sequence.

    Raises:
      ValueError: an argument is wrong, a layer runs in reverse, or has parts without a kernel.
    """
    known = cell_of(cell)
    if reverse:
        raise _reversed("reverse: expected False")
    validation.check_bools(time_major=time_major)
    given = [layers] if isinstance(layers, Mapping) else list(layers)
    if not given:
        raise ValueError("layers: expected at least one layer; got none")
    checked: list[Layer] = []
    for n, layer in enumerate(given):
        checked.append(_checked_layer(known, f"layers[{n}]", layer))
        inputs, before = checked[n]["input_kernel"].shape[0], checked[n - 1]["recurrent_kernel"]
        if n and inputs != before.shape[0]:
            raise ValueError(
                f"layers[{n}]: expected input_kernel [{before.shape[0]}, ..], as the layer before "
                f"has that many units; got {checked[n]['input_kernel'].shape}"
            )
    dtypes = {array.dtype.name for layer in checked for array in layer.values()}
    if len(dtypes) > 1:
        raise ValueError(f"layers: expected arrays of one dtype; got {', '.join(sorted(dtypes))}")
    known_sizes = [isinstance(size, (int, np.integer)) and size > 0 for size in chunk_sizes]
    if not all(known_sizes) or not known_sizes:
        raise ValueError(
            f"chunk_sizes: expected numbers of steps, each at least 1; got {chunk_sizes!r}"
        )
    sizes = tuple(sorted({int(size) for size in chunk_sizes}))
    return Stream(tuple(checked), known, sizes, bool(time_major))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["layers"],
    meta_fields=["cell", "chunk_sizes", "time_major"],
)
@dataclass(frozen=True)
class Stream:
    """What `stream` returns: weights, and how chunks are run. It keeps no state of its own.

    The state is a tuple with an entry for each layer, as the cell's function returns it: (h, c) of
    an LSTM, h of the others; arrays [B, H], float32 where the weights have 16 bits, so that nothing
    is rounded between chunks. It is saved, restored, sliced by rows or joined as any pytree of
    arrays. A call uses up the state that it is given, which saves a copy: read before the call what
    is to be kept (`jax.device_get(state)`).
    """

    layers: tuple[Layer, ...]
    cell: Cell
    chunk_sizes: tuple[int, ...]
    time_major: bool

    def start(self, batch: int) -> State:
        """The state of `batch` rows before their first step: zeros."""
        return tuple(
            self._joined([jnp.zeros((batch, units), self._dtype) for _ in self.cell.states])
            for units in self._units
        )

    def reset(self, state: State, rows: ArrayLike) -> State:
        """The state with some rows, [B] bool, as at the start; `state` is used up."""
        states = self._checked(state, None)
        chosen = jnp.asarray(rows)
        batch = states[0][0].shape[0]
        if chosen.dtype != jnp.bool_ or chosen.shape != (batch,):
            raise ValueError(
                f"rows: expected bool [B] = {(batch,)}; got {chosen.dtype.name} {chosen.shape}"
            )
        return tuple(map(self._joined, chunks.reset(states, chosen)))

    def __call__(
        self,
        x: ArrayLike,
        state: State,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> tuple[Array, State]:
        """Runs a chunk.

        Args:
          x: [B, T, I], or [T, B, I] time-major, of the weights' dtype; T may be 0.
          state: what the last call returned, or `start`.
          lengths: [B] integers in 0..T, for rows that have fewer new steps: a row of length 0 waits
            and keeps its state. Its further outputs are zeros.
          resets: [B, T], or [T, B] time-major; bool. Where true, and the row runs at that step, it
            begins anew: the state before that step is zeros.

        Returns:
          (outputs [B, T, H] or [T, B, H] of the last layer, state).

        Raises:
          ValueError: an argument is wrong; says what was expected and what was given.
        """
        x = jnp.asarray(x) if not isinstance(x, (np.ndarray, Array)) else x
        batch, steps = self._check_chunk(x)
        states = self._checked(state, batch)
        if lengths is not None:
            lengths = validation.check_lengths(lengths, batch, steps)
        if resets is not None:
            resets = validation.check_resets(resets, batch, steps, self.time_major)
        arrays = (self.layers, states, x, lengths, resets)
        how: dict[str, Any] = {"cell": self.cell, "time_major": self.time_major}
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays))
        if traced or steps in self.chunk_sizes:
            outputs, states = chunks.run(*arrays, **how)
        else:
            outputs, states = chunks.run_in_parts(*arrays, sizes=self.chunk_sizes, **how)
        return outputs, tuple(map(self._joined, states))

    @property
    def _units(self) -> list[int]:
        return [layer["recurrent_kernel"].shape[0] for layer in self.layers]

    @property
    def _dtype(self) -> Any:
        return accumulation_dtype(self.layers[0]["recurrent_kernel"].dtype)

    def _joined(self, states: Sequence[Array]) -> Any:
        return tuple(states) if len(self.cell.states) > 1 else states[0]

    def _check_chunk(self, x: Any) -> tuple[int, int]:
        kernel = self.layers[0]["input_kernel"]
        layout = "[T, B, I]" if self.time_major else "[B, T, I]"
        if x.ndim != 3 or x.shape[2] != kernel.shape[0]:
            raise ValueError(
                f"x: expected a chunk {layout} with I = {kernel.shape[0]}; got shape {x.shape}"
            )
        if x.dtype != kernel.dtype:
            raise ValueError(
                f"x: expected {kernel.dtype.name}, the dtype of the weights; got {x.dtype.name}. "
                f"Cast it with .astype({kernel.dtype.name!r})"
            )
        return (x.shape[1], x.shape[0]) if self.time_major else x.shape[:2]

    def _checked(self, state: Any, batch: int | None) -> States:
        """The states of each layer, [B, H] with the chunk's B, or that of the first."""
        if not isinstance(state, (tuple, list)) or len(state) != len(self.layers):
            got = type(state).__name__
            got += f" of {len(state)}" if isinstance(state, (tuple, list)) else ""
            raise ValueError(
                f"state: expected a tuple with an entry for each of {len(self.layers)} layers, as "
                f"`start` returns it; got a {got}"
            )
        if any(isinstance(s, Array) and _is_used_up(s) for s in jax.tree.leaves(state)):
            raise ValueError(
                "state: expected one that no call has used up; got one that was passed to an "
                "earlier call. Go on from what that call returned, or keep a copy before it: "
                "jax.device_get(state)"
            )
        dtype = self._dtype
        like: Any = jax.ShapeDtypeStruct((), dtype)
        if batch is None:
            batch = jnp.shape(jax.tree.leaves(state)[0])[0]
        checked: list[tuple[Array, ...]] = []
        for n, (units, of_layer) in enumerate(zip(self._units, state, strict=True)):
            states = of_layer if isinstance(of_layer, tuple) else (of_layer,)
            if len(states) != len(self.cell.states) or any(
                not isinstance(s, Array) or s.dtype != dtype or s.shape != (batch, units)
                for s in states
            ):
                wide = jax.tree.map(self._widened, of_layer)
                states = validation.check_state(f"state[{n}]", self.cell, wide, like, batch, units)
            checked.append(states)
        return tuple(checked)

    def _widened(self, state: Any) -> Any:
        narrow = self.layers[0]["input_kernel"].dtype
        return state.astype(self._dtype) if getattr(state, "dtype", None) == narrow else state


def _is_used_up(array: Array) -> bool:
    return not isinstance(array, jax.core.Tracer) and array.is_deleted()


def _reversed(what: str) -> ValueError:
    return ValueError(
        f"{what}; got a recurrence that runs in reverse, from the end of a sequence, which a "
        "stream has not seen yet. Stream the forward direction, or run whole sequences"
    )


def _checked_layer(cell: Cell, name: str, layer: Any) -> Layer:
    """A layer's arrays with its kernels packed, where there are kernels that read them."""
    if isinstance(layer, (list, tuple)):  # of directions
        if len(layer) != 1:
            raise _reversed(f"{name}: expected one direction")
        (layer,) = layer
    names = (*_KERNELS, "bias", *(["recurrent_bias"] if cell.reset_after else []))
    if not isinstance(layer, Mapping) or not set(layer) <= {*names} or not {*_KERNELS} <= {*layer}:
        got = sorted(layer) if isinstance(layer, Mapping) else type(layer).__name__
        raise ValueError(
            f"{name}: expected arrays by name, {', '.join(names)}, of which the kernels are "
            f"needed, for cell {cell.name!r}; got {got}"
        )
    arrays = {
        n: a if isinstance(a, PackedKernel) else jnp.asarray(a)
        for n, a in layer.items()
        if a is not None
    }
    kernel = arrays["input_kernel"]
    features = kernel.shape[0] if kernel.ndim else 0
    try:
        x = jnp.zeros((1, 1, features), kernel.dtype)
        validation.check_weights(cell, False, {"x": x} | arrays)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if jax.default_backend() == "cpu" and packing.is_packable(kernel.dtype):
        for n in _KERNELS:
            if not isinstance(arrays[n], PackedKernel):
                arrays[n] = packing.pack_kernel(cell, f"{name} {n}", arrays[n])
    return arrays
