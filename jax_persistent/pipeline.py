# SPDX-License-Identifier: Apache-2.0
"""Stacked layers across devices: layer l on device l, as a wavefront over chunks of time.

While layer l works on chunk c, layer l - 1 works on chunk c + 1, and what a layer has computed goes
to the next device alone (`jax.lax.ppermute`). The backward pass is the same wavefront in reverse.

Legend: L layers, T time steps, B batch, H hidden units, C chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jax_persistent import compat
from jax_persistent.ops.explicit_sharding import in_auto_axes
from jax_persistent.ops.validation import check_lengths


def wavefront(
    op: Callable[..., tuple[Array, Any]],
    x: ArrayLike,
    weights: Mapping[str, ArrayLike],
    initial_state: Any = None,
    *,
    axis: str,
    chunks: int,
    mesh: Mesh | None = None,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    bidirectional: bool = False,
    time_major: bool = False,
    **options: Any,
) -> tuple[Array, Any]:
    """L recurrent layers, each on one device of a mesh axis, each reading the outputs of the last.

        >>> weights = {"input_kernel": w, "recurrent_kernel": r}  # [L, H, 4*H], [L, H, 4*H]
        >>> outputs, (h, c) = wavefront(jp.lstm, x, weights, mesh=mesh, axis="layers", chunks=16)

    Results and gradients are those of the L calls one after another. It takes C + L - 1 turns of
    one chunk each, of which a device idles L - 1; a turn loads the weights anew. Other axes of the
    mesh are left to XLA: a batch that is split over one stays so.

    In a function under `jax.shard_map` over `axis`, L is 1 in the shapes below: the device's own
    layer. With the batch split in the same `shard_map` the weights' gradients are summed once, not
    once a turn.

    Args:
      op: `jax_persistent.lstm`, `gru` or `elman`, or a function of the same arguments.
      x: [B, T, H], or [T, B, H] with `time_major`. As wide as the layers: project it first.
      weights: the arguments of `op` by name, each with a leading axis L, best placed as
        `PartitionSpec(axis)`; those that are on no mesh yet are placed so.
      initial_state: as for `op`, each state [L, B, H]; zeros if not given.
      axis: the mesh axis that the layers are spread over; its size is L.
      chunks: C, the number of parts that time is cut into, from 1 to T; need not divide T.
      mesh: the mesh; the one of `jax.set_mesh` if not given.
      lengths: [B] integers in 0..T, as for `op`.
      reverse: run every layer from the last step to the first.
      bidirectional: refused, as nothing would overlap: a layer that runs backwards starts with what
        the layer below computes last.
      time_major: whether x and the outputs are time-major.
      **options: further arguments of `op` that are the same for every layer and step, such as
        `activation` and `backend`; not `resets`.

    Returns:
      (outputs of the last layer, shaped as x, final state as from `op`, each [L, B, H]).

    Raises:
      ValueError: an argument is wrong; says what was expected and what was given.
      NotImplementedError: `bidirectional`, or resets.
    """
    if bidirectional:
        raise NotImplementedError(
            "bidirectional=True: a layer that runs backwards starts with what the layer below "
            "computes last, so no two layers of a bidirectional stack work at the same time. Run "
            "the layers one after another, and split the batch over the devices instead"
        )
    x = jnp.asarray(x)
    if x.ndim != 3:
        layout = "[T, B, H]" if time_major else "[B, T, H]"
        raise ValueError(f"x: expected rank 3, {layout}; got shape {x.shape}")
    batch, steps = (x.shape[1], x.shape[0]) if time_major else x.shape[:2]
    for name in ("resets", "reset_state"):
        if options.get(name) is not None:
            raise NotImplementedError(
                f"{name}: each layer of a wavefront is given all of the options, and no part of "
                f"them for its chunk of time. Run the layers one after another to use {name}"
            )
    is_count = isinstance(chunks, (int, np.integer)) and not isinstance(chunks, bool)
    if not is_count or not 1 <= chunks <= steps:
        raise ValueError(f"chunks: expected an integer in 1..T = 1..{steps}; got {chunks!r}")
    manual = axis in jax.sharding.get_abstract_mesh().manual_axes
    layers = _layers(weights, mesh, axis, manual)
    arrays = {name: jnp.asarray(array) for name, array in weights.items()}
    if mesh is not None and not manual:
        arrays = {name: _placed(array, mesh, axis) for name, array in arrays.items()}
    one_layer = partial(op, time_major=time_major, reverse=reverse, **options)
    state = _initial_state(one_layer, x, arrays, initial_state, 1 if manual else layers)
    length = -(-steps // chunks)
    schedule = _Schedule(axis, layers, -(-steps // length), length, reverse, 0 if time_major else 1)

    states, structure = jax.tree.flatten(state)
    of_x, of_states = ("T B H" if time_major else "B T H"), ["L B H"] * len(states)
    operands = {"x": (of_x, x), "lengths": ("B", _lengths(lengths, batch, steps))}
    for n, each in enumerate(states):
        operands[f"initial_state[{n}]"] = ("L B H", each)
    for name, array in arrays.items():
        operands[f"weights[{name!r}]"] = (" ".join("LHG"[: array.ndim]), array)

    def run(x: Array, lengths: Array, *flat: Array) -> tuple[Array, Any]:
        state = jax.tree.unflatten(structure, flat[: len(states)])
        given = dict(zip(arrays, flat[len(states) :], strict=True))
        turns = partial(_turns, schedule, one_layer)
        everywhere = turns if manual else _spread(turns, axis, mesh)
        parts, final = everywhere(schedule.cut(x), given, state, lengths)
        return schedule.join(parts, steps), final

    return in_auto_axes(run, operands, (of_x, jax.tree.unflatten(structure, of_states)), axis)


def _lengths(given: ArrayLike | None, batch: int, steps: int) -> Array:
    return (
        jnp.full((batch,), steps, jnp.int32)
        if given is None
        else check_lengths(given, batch, steps)
    )


@dataclass(frozen=True)
class _Schedule:
    """Who works on what when."""

    axis: str
    layers: int
    chunks: int
    length: int  # of a chunk, in steps
    reverse: bool
    time_axis: int

    def start(self, chunk: Array) -> Array:
        """The first step of the chunk that comes at this place in order."""
        return self.length * (self.chunks - 1 - chunk if self.reverse else chunk)

    def cut(self, x: Array) -> Array:
        """Time in chunks, in order, zeros at the end where they don't fit: [C, .., length, ..]."""
        at, steps = self.time_axis, self.chunks * self.length
        padding = [(0, steps - size if axis == at else 0) for axis, size in enumerate(x.shape)]
        shape = (*x.shape[:at], self.chunks, self.length, *x.shape[at + 1 :])
        parts = jnp.moveaxis(jnp.pad(x, padding).reshape(shape), at, 0)
        return jnp.flip(parts, 0) if self.reverse else parts

    def join(self, parts: Array, steps: int) -> Array:
        """The inverse of `cut`."""
        parts = jnp.flip(parts, 0) if self.reverse else parts
        before, after = parts.shape[1 : self.time_axis + 1], parts.shape[self.time_axis + 2 :]
        shape = (*before, self.chunks * self.length, *after)
        whole = jnp.moveaxis(parts, 0, self.time_axis).reshape(shape)
        return lax.slice_in_dim(whole, 0, steps, axis=self.time_axis)


def _layers(weights: Mapping[str, Any], mesh: Mesh | None, axis: str, manual: bool) -> int:
    """L, which the mesh and every array have to agree on."""
    sizes = dict((jax.sharding.get_abstract_mesh() if mesh is None else mesh).shape)
    if axis not in sizes:
        known = ", ".join(map(repr, sizes)) or "none: pass mesh=, or call under jax.set_mesh"
        raise ValueError(f"axis: expected an axis of the mesh ({known}); got {axis!r}")
    expected = 1 if manual else sizes[axis]
    for name, array in weights.items():
        shape = jnp.shape(array)
        if not shape or shape[0] != expected:
            raise ValueError(
                f"weights[{name!r}]: expected a leading axis L = {expected}, "
                + ("this device's own layer" if manual else "a layer for each device")
                + f" of mesh axis {axis!r}; got shape {shape}"
            )
    return sizes[axis]


def _placed(array: Array, mesh: Mesh, axis: str) -> Array:
    """The array with its layers spread over a mesh axis that is part of types, if it is on none."""
    if axis not in mesh.abstract_mesh.explicit_axes or not jax.typeof(array).sharding.mesh.empty:
        return array
    return jax.sharding.reshard(array, NamedSharding(mesh, PartitionSpec(axis)))


def _initial_state(
    op: Callable[..., Any], x: Array, weights: Mapping[str, Array], given: Any, layers: int
) -> Any:
    """The states that the layers start from; checks that a layer's outputs can be its inputs."""
    first = {name: jax.ShapeDtypeStruct(w.shape[1:], w.dtype) for name, w in weights.items()}
    outputs, state = jax.eval_shape(lambda x, w: op(x, **w), x, first)
    if (outputs.shape, outputs.dtype) != (x.shape, x.dtype):
        raise ValueError(
            "x: expected as many features as a layer has units, since each layer reads what the "
            f"one below returns; got x {x.dtype.name}{list(x.shape)}, which a layer turns into "
            f"{outputs.dtype.name}{list(outputs.shape)}. Project x to the layers' width first"
        )
    if given is None:
        return jax.tree.map(lambda s: jnp.zeros((layers, *s.shape), s.dtype), state)
    expected = jax.tree.map(lambda s: (layers, *s.shape), state)
    shapes = jax.tree.map(jnp.shape, given)
    if shapes != expected:
        raise ValueError(f"initial_state: expected [L, B, H], {expected}; got {shapes}")
    return jax.tree.map(jnp.asarray, given)


def _spread(turns: Callable[..., Any], axis: str, mesh: Mesh | None) -> Callable[..., Any]:
    """`turns`, a device's own work, on global arrays."""
    everywhere, spread = PartitionSpec(), PartitionSpec(axis)
    return jax.shard_map(
        turns,
        mesh=mesh if jax.sharding.get_abstract_mesh().empty else None,
        in_specs=(everywhere, spread, spread, everywhere),
        out_specs=(everywhere, spread),
        axis_names={axis},
    )


def _turns(
    schedule: _Schedule,
    op: Callable[..., Any],
    parts: Array,
    weights: Mapping[str, Array],
    state: Any,
    lengths: Array,
) -> tuple[Array, Any]:
    """One device's work: the last layer's outputs [C, ..], and its own layer's final state."""
    axis, last = schedule.axis, schedule.layers - 1
    layer = lax.axis_index(axis)
    weights, state = jax.tree.map(lambda a: jnp.squeeze(a, 0), (weights, state))
    # Varying over the same axes from the start, so that gradients are summed once, at the end.
    flat, structure = jax.tree.flatten((parts, weights, state, lengths))
    parts, weights, state, lengths = jax.tree.unflatten(structure, compat.match_varying_axes(*flat))

    def turn(carry: Any, inputs: tuple[Array, Array]) -> Any:
        received, state = carry
        t, from_x = inputs
        chunk = t - layer  # the one that is here now; where there is none, no step is taken
        here = (chunk >= 0) & (chunk < schedule.chunks)
        steps = jnp.clip(lengths - schedule.start(chunk), 0, schedule.length)
        steps = jnp.where(here, steps, 0)
        source = jnp.where(layer == 0, from_x, received)
        outputs, state = op(source, **weights, initial_state=state, lengths=steps)
        onward = lax.ppermute(outputs, axis, [(n, n + 1) for n in range(last)])
        return (onward, state), outputs

    turns = jnp.arange(schedule.chunks + last, dtype=jnp.int32)
    parts = jnp.pad(parts, [(0, last), *[(0, 0)] * (parts.ndim - 1)])
    (_, final), outputs = lax.scan(turn, (jnp.zeros_like(parts[0]), state), (turns, parts))
    outputs = lax.psum(jnp.where(layer == last, outputs[last:], 0), axis)
    return outputs, jax.tree.map(lambda a: jnp.expand_dims(a, 0), final)
