# SPDX-License-Identifier: Apache-2.0
"""What both flax layers share: which cells have a kernel, and a call of it in flax's conventions.

A layer describes its cell as `CellWeights`; `kernel_dtypes` says whether this call fits the
kernels, and `run_cell` makes it. Whatever is unusual raises `NoKernel`, which says why, and the
layer takes flax's own path, which is right for everything; `fallback` has its scan be ours.

Legend: T time steps, I input features, H hidden units, G gates; rows are all batch axes folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.recurrent import flip_sequences
from jax import Array

from jax_persistent.cells import Cell
from jax_persistent.cells.elman import ELMAN
from jax_persistent.cells.library import StepCell
from jax_persistent.fallback import NoKernel
from jax_persistent.ops import functions, packing
from jax_persistent.ops.validation import check_flags, check_lengths, check_range
from jax_persistent.problem import DTYPES, Arrays, PackedKernel

_SIGMOIDS = (jax.nn.sigmoid, jax.lax.logistic)
_TANHS = (jnp.tanh, jax.nn.tanh, jax.lax.tanh)


Gates = tuple[Array, ...]


def joined(gates: Gates) -> Array:
    """The gates' arrays as one."""
    return gates[0] if len(gates) == 1 else jnp.concatenate(gates, axis=-1)


@dataclass(frozen=True)
class CellWeights:
    """One cell's parameters as they lie, not yet cast to the computation's dtype.

    Each is of as many arrays as the others: of one that has all gates, or of one for each gate.
    """

    cell: Cell
    input_kernel: Gates  # [I, G*H] or [I, H]
    recurrent_kernel: Gates  # [H, G*H] or [H, H]
    bias: Gates | None  # [G*H] or [H]
    input_dtype: Any  # of the input product; None: inferred from its operands, as flax does
    recurrent_dtype: Any  # of the recurrent product; likewise
    recurrent_bias: Gates | None = None  # like bias, cells that reset after the product
    mixes_states: bool = True  # whether a step promotes its result with the state before it
    packed: dict[str, PackedKernel] | None = None  # of both kernels, by name

    @property
    def arrays(self) -> dict[str, Gates]:
        every = {
            "input_kernel": self.input_kernel,
            "recurrent_kernel": self.recurrent_kernel,
            "bias": self.bias,
            "recurrent_bias": self.recurrent_bias,
        }
        return {name: array for name, array in every.items() if array is not None}

    def pack(self) -> dict[str, PackedKernel]:
        """Both kernels packed, in the dtype of a call whose inputs have that of the parameters."""
        found = {}
        dtypes = {"input_kernel": self.input_dtype, "recurrent_kernel": self.recurrent_dtype}
        for name, dtype in dtypes.items():
            kernel = joined(self.arrays[name])
            kernel = kernel if dtype is None else kernel.astype(dtype)
            found[name] = packing.pack_kernel(self.cell, name, kernel)
        return found

    def in_dtype(self, dtype: Any) -> dict[str, tuple[Any, ...]]:
        """The arrays of one dtype; if the kernels are packed, those, and what else is joined."""
        arrays: dict[str, tuple[Any, ...]] = {
            name: tuple(array.astype(dtype) for array in gates)
            for name, gates in self.arrays.items()
        }
        if self.packed is None:
            return arrays
        for name, gates in arrays.items():
            packed = self.packed.get(name)
            if packed is None:
                arrays[name] = (joined(gates),)
                continue
            kernel = jax.eval_shape(joined, gates)
            if (packed.shape, packed.dtype) != (kernel.shape, kernel.dtype):
                raise ValueError(
                    f"packed {name}: expected {kernel.dtype.name} of shape {kernel.shape}, as this "
                    f"call computes in; got {packed.dtype.name} of shape {packed.shape}. Pack the "
                    "layer again, or cast its inputs"
                )
            arrays[name] = (packing.in_place_of(gates, packed),)
        return arrays


@dataclass(frozen=True)
class CallOptions:
    """How one call reads and returns its sequences, in the words of flax's RNN."""

    time_major: bool
    reverse: bool
    keep_order: bool
    return_carry: bool
    mask_outputs: bool
    feature_axes: int  # behind those of batch and time; kernels take one
    backend: str | None

    @classmethod
    def of(cls, rnn: Any, seq_lengths: Any, **overrides: bool | None) -> CallOptions:
        """A layer's options, except for those that the call gives."""
        given = {name: getattr(rnn, name) if o is None else o for name, o in overrides.items()}
        masked = rnn.mask_outputs and seq_lengths is not None
        check_flags(rnn.backend)
        axes = rnn.cell.num_feature_axes
        return cls(**given, mask_outputs=masked, feature_axes=axes, backend=rnn.backend)

    def batch_shape(self, inputs: Array) -> tuple[int, ...]:
        """The axes of `inputs` that are neither time nor features."""
        if self.time_major:
            return inputs.shape[1 : -self.feature_axes]
        return inputs.shape[: -self.feature_axes - 1]

    def step_shape(self, inputs: Array) -> tuple[int, ...]:
        """The shape of one step of `inputs`."""
        return (*self.batch_shape(inputs), *inputs.shape[-self.feature_axes :])

    def steps(self, inputs: Array) -> int:
        return inputs.shape[0 if self.time_major else -self.feature_axes - 1]

    def stops_at_lengths(self, inputs: Array) -> bool:
        """Whether nothing that flax computes past a row's length is returned."""
        return self.mask_outputs or self.steps(inputs) == 0


@dataclass(frozen=True)
class KernelDtypes:
    """Of one call: the products, and the state with the outputs.

    flax keeps the state in the dtype of the initial carry, usually that of the parameters, and
    casts it to the cell's `dtype` for each product. Where the two differ the whole recurrence runs
    in `compute` here, and what it returns is cast to `state`.
    """

    compute: Any
    state: Any


@dataclass(frozen=True)
class KernelCall:
    """One call of a layer that has a kernel: whose weights, from which carry, and how."""

    weights: CellWeights
    dtypes: KernelDtypes
    carry: Any
    options: CallOptions

    @classmethod
    def of(
        cls, weights: CellWeights, inputs: Array, carry: Any, seq_lengths: Any, options: CallOptions
    ) -> KernelCall:
        """Raises NoKernel if none can answer the call for flax."""
        dtypes = kernel_dtypes(weights, inputs, carry, seq_lengths, options)
        return cls(weights, dtypes, carry, options)

    @property
    def hidden(self) -> int:
        return self.weights.recurrent_kernel[0].shape[0]

    def states_of(self, carry: Any) -> tuple[Array, ...]:
        """A carry as the functions' states [rows, H]."""
        # flax's LSTM carry is (c, h), the functions' state is (h, c).
        leaves = [jnp.asarray(s, self.dtypes.compute) for s in jax.tree.leaves(carry)]
        rows = math.prod(jnp.shape(leaves[0])[:-1])
        return tuple(s.reshape(rows, self.hidden) for s in leaves[::-1])

    @property
    def arrays(self) -> dict[str, tuple[Any, ...]]:
        """The weights, in tuples, and the initial state."""
        weights = self.weights.in_dtype(self.dtypes.compute)
        return weights | {"initial_state": self.states_of(self.carry)}

    def sequences(self, inputs: Array, seq_lengths: Any) -> tuple[Array, Array | None]:
        """x [rows, T, I], or time-major, and the lengths [rows]."""
        steps, batch = self.options.steps(inputs), self.options.batch_shape(inputs)
        rows = math.prod(batch)
        folded = (steps, rows) if self.options.time_major else (rows, steps)
        x = jnp.asarray(inputs, self.dtypes.compute).reshape(*folded, inputs.shape[-1])
        if seq_lengths is None:
            return x, None
        # Reshaping a known array would make it a traced one under `jax.jit`.
        one_axis = jnp.ndim(seq_lengths) == 1
        lengths = seq_lengths if one_axis else seq_lengths.reshape(rows)
        return x, check_lengths(lengths, rows, steps)

    def carry_of(self, inputs: Array, states: Sequence[Array]) -> Any:
        """The functions' states as a carry."""
        batch = self.options.batch_shape(inputs)
        leaves = [s.astype(self.dtypes.state).reshape(*batch, self.hidden) for s in states[::-1]]
        return jax.tree.unflatten(jax.tree.structure(self.carry), leaves)


def unpackable(cell: Any, reason: NoKernel) -> NotImplementedError:
    """The error of a layer that has nothing to pack."""
    return NotImplementedError(
        f"pack: expected a cell with a kernel of its own; got {type(cell).__name__}: {reason}"
    )


def check_gated_cell(cell: Any) -> None:
    """Raises NoKernel unless an LSTM or a GRU cell of flax's has the kernels' functions."""
    gated = any(cell.gate_fn is f for f in _SIGMOIDS)
    if not gated or activation_name(cell.activation_fn) != "tanh":
        raise NoKernel(
            f"{type(cell).__name__}: a kernel has sigmoid as gate_fn and tanh as activation_fn; "
            f"got {_named(cell.gate_fn)} and {_named(cell.activation_fn)}"
        )


def elman_of(cell: Any) -> Cell:
    """The Elman cell that does what flax's SimpleCell does, or NoKernel."""
    activation = activation_name(cell.activation_fn)
    if activation is None:
        got = _named(cell.activation_fn)
        raise NoKernel(f"SimpleCell: a kernel has tanh or relu as activation_fn; got {got}")
    if cell.residual:
        raise NoKernel("SimpleCell: there is no kernel for residual=True")
    return ELMAN[activation]


def _named(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)


def activation_name(function: Any) -> str | None:
    """The name of a function that an Elman cell can have, None for others."""
    if any(function is f for f in _TANHS):
        return "tanh"
    return "relu" if function is jax.nn.relu else None


def check_cell(cell: Any, package: str) -> None:
    """Raises for a cell of flax's other package, and for one of `jax_persistent.cells`.

    Args:
      cell: of a layer.
      package: the layer's, "linen" or "nnx".
    """
    name, other = type(cell).__name__, {"linen": "nnx", "nnx": "linen"}[package]
    bases = [base.__module__.split(".")[:2] for base in type(cell).__mro__]
    if ["flax", package] in bases:  # flax's bridges have modules of both
        return
    if ["flax", other] in bases:
        got = f"flax.{other}'s {name}. Use jax_persistent.{other}.RNN"
    elif isinstance(cell, StepCell):
        got = f"jax_persistent.cells.{name}. Use jax_persistent.{package}.{name}Cell(..)"
    else:
        return
    raise ValueError(f"cell: expected a cell of flax.{package}; got {got}")


def check_sequence(inputs: Any) -> None:
    """Raises NoKernel unless `inputs` is one real array [*batch, T, I] with any features."""
    if not isinstance(inputs, (jax.Array, np.ndarray)):
        raise NoKernel(f"a kernel takes one array; got inputs {type(inputs).__name__}")
    number = jnp.issubdtype(inputs.dtype, jnp.number)
    if inputs.ndim < 2 or inputs.shape[-1] == 0 or not number:
        got = f"{inputs.dtype.name}{list(inputs.shape)}"
        raise NoKernel(f"a kernel takes numbers [*batch, T, I]; got inputs {got}")


def check_resets(resets: Any, inputs: Array, options: CallOptions) -> Array | None:
    """`resets` of a layer's call, checked: [*batch, T], or [T, *batch] time-major, bool."""
    if resets is None:
        return None
    batch, steps = options.batch_shape(inputs), options.steps(inputs)
    shape = (steps, *batch) if options.time_major else (*batch, steps)
    resets = jnp.asarray(resets)
    if resets.shape != shape or resets.dtype != jnp.bool_:
        letters = "[T, *batch]" if options.time_major else "[*batch, T]"
        raise ValueError(
            f"resets: expected bool {letters} = {shape}; got {resets.dtype.name} of shape "
            f"{resets.shape}. Compare other dtypes first: resets != 0"
        )
    return resets


def check_reset_carry(reset_carry: Any, resets: Array | None, carry: Any) -> None:
    """Raises unless what a reset row starts from is shaped as the carry, or not given."""
    if reset_carry is None:
        return
    if resets is None:
        raise ValueError("reset_carry: expected with resets, which say where it counts")
    expected, got = (jax.tree.map(jnp.shape, tree) for tree in (carry, reset_carry))
    if expected != got:
        raise ValueError(f"reset_carry: expected the carry's shapes, {expected}; got {got}")


def check_seq_lengths(seq_lengths: Any, inputs: Any, options: CallOptions) -> None:
    """Raises unless they are numbers [*batch], or broadcast to it; in 0..T where they are known.

    flax itself runs on with lengths of another shape, and with a mask; its results mean nothing.
    """
    if seq_lengths is None or not hasattr(inputs, "shape"):
        return
    batch, shape = options.batch_shape(inputs), jnp.shape(seq_lengths)
    dtype = jnp.result_type(seq_lengths)
    sides = [*zip(shape[::-1], batch[::-1], strict=False)]
    fits = len(shape) <= len(batch) and all(own in (1, other) for own, other in sides)
    if not fits or dtype == jnp.bool_:
        hint = ". Of a mask of padding at the end: mask.sum(-1)" if dtype == jnp.bool_ else ""
        raise ValueError(
            f"seq_lengths: expected integers [*batch] = {batch}, as inputs are {inputs.shape} and "
            f"time_major={options.time_major}; got {dtype.name} of shape {shape}{hint}"
        )
    check_range("seq_lengths", seq_lengths, options.steps(inputs))


def with_flags(inputs: Array, resets: Array) -> Array:
    """Inputs with the resets as one feature more, as which they reach a cell of flax's."""
    flags = jnp.expand_dims(resets.astype(inputs.dtype), tuple(range(resets.ndim, inputs.ndim)))
    return jnp.concatenate([inputs, jnp.broadcast_to(flags, (*inputs.shape[:-1], 1))], axis=-1)


def without_flags(step: Array, batch_axes: int) -> tuple[Array, Array]:
    """Of one step of `with_flags`: which rows are reset, [*batch], and the inputs."""
    reset = step[..., -1] != 0
    return reset.reshape(*reset.shape[:batch_axes], -1)[..., 0], step[..., :-1]


def replace_carry(reset: Array, carry: Any, reset_carry: Any) -> Any:
    """A cell's carry, each leaf [*batch, ..], with the rows of `reset` [*batch] replaced."""

    def replace(kept: Array, other: Array) -> Array:
        further = tuple(range(reset.ndim, jnp.ndim(kept)))
        return jnp.where(jnp.expand_dims(reset, further), other.astype(kept.dtype), kept)

    return jax.tree.map(replace, carry, reset_carry)


def kernel_dtypes(
    weights: CellWeights, inputs: Array, carry: Any, seq_lengths: Any, options: CallOptions
) -> KernelDtypes:
    """The dtypes of this call on a kernel; raises NoKernel if none can answer it for flax."""
    batch = options.batch_shape(inputs)
    if seq_lengths is not None:
        shape, dtype = jnp.shape(seq_lengths), jnp.result_type(seq_lengths)
        if shape != batch or not jnp.issubdtype(dtype, jnp.integer):
            got = f"{dtype.name}{list(shape)}"
            raise NoKernel(f"a kernel takes integer seq_lengths {list(batch)}; got {got}")
    features, hidden = inputs.shape[-1], weights.recurrent_kernel[0].shape[0]
    columns = weights.cell.gates * hidden // len(weights.recurrent_kernel)
    shapes = {"input_kernel": (features, columns), "recurrent_kernel": (hidden, columns)}
    if any(
        array.shape != shapes.get(name, (columns,))
        for name, gates in weights.arrays.items()
        for array in gates
    ):
        raise NoKernel(f"the cell's parameters are not those for {features} features")
    structure: Any = jax.tree.structure((0,) * len(weights.cell.states))
    if len(weights.cell.states) == 1:
        structure = jax.tree.structure(0)
    states = jax.tree.leaves(carry)
    if jax.tree.structure(carry) != structure or any(
        jnp.shape(state) != (*batch, hidden) for state in states
    ):
        expected = f"{structure.num_leaves} of {[*batch, hidden]}"
        got = jax.tree.map(jnp.shape, carry)
        raise NoKernel(f"a kernel takes a carry of {expected}; got {got}")
    return _dtypes(weights, inputs, states)


def _dtypes(weights: CellWeights, inputs: Array, states: list[Any]) -> KernelDtypes:
    """The dtypes that flax arrives at; NoKernel if it would refuse, or no kernel has them."""
    with jax.numpy_dtype_promotion("standard"):
        biases = [gates[0] for name, gates in weights.arrays.items() if name.endswith("bias")]
        of_inputs, of_state = weights.input_dtype, weights.recurrent_dtype
        if of_inputs is None:
            of_inputs = jnp.result_type(inputs, weights.input_kernel[0], *biases)
        if of_state is None:
            of_state = jnp.result_type(states[-1], weights.recurrent_kernel[0], *biases)
        compute = jnp.result_type(of_inputs, of_state)
        mixed = {jnp.result_type(compute, state) for state in states}
        after_a_step = mixed if weights.mixes_states else {jnp.dtype(compute)}
    state = max(after_a_step, key=lambda dtype: jnp.dtype(dtype).itemsize)
    # lax.scan takes a carry whose dtype a step would change only if it is weakly typed.
    kept = all(jax.typeof(s).weak_type or jnp.result_type(s) == state for s in states)
    known = {jnp.dtype(compute).name, jnp.dtype(state).name} <= set(DTYPES)
    if not kept or not known or len(after_a_step) > 1:
        names = ", ".join(jnp.result_type(s).name for s in states)
        raise NoKernel(f"no kernel computes in {jnp.dtype(compute).name} from a carry of {names}")
    return KernelDtypes(compute, state)


def run_cell(
    call: KernelCall,
    inputs: Array,
    seq_lengths: Any,
    resets: Array | None = None,
    reset_carry: Any = None,
) -> Any:
    """What flax's RNN returns for this cell, `outputs` or `(carry, outputs)`, from one call.

    flax goes on past a row's length, feeding the padding to the cell, so the recurrence runs
    without lengths unless the outputs are masked; the LSTM's c at a row's length takes a second run
    then (which XLA removes when nothing reads it). The other cells' state is one of their outputs.
    """
    options, arrays = call.options, Arrays(call.arrays)
    for name in call.weights.arrays:  # of all gates, or for each
        arrays[name] = arrays[name][0] if len(arrays[name]) == 1 else arrays[name]
    x, lengths = call.sequences(inputs, seq_lengths)
    if resets is not None:
        resets = resets.reshape(x.shape[:2])
        if reset_carry is not None:
            arrays["reset_state"] = call.states_of(reset_carry)

    def flip(sequences: Array) -> Array:
        return flip_sequences(sequences, lengths, num_batch_dims=1, time_major=options.time_major)

    def run(x: Array, resets: Array | None, lengths: Array | None, reverse: bool) -> Any:
        optional = {"resets": resets, "lengths": lengths}
        given = {name: array for name, array in optional.items() if array is not None}
        return functions.run(
            call.weights.cell,
            Arrays(arrays | given | {"x": x}),
            directions="reverse" if reverse else "forward",
            time_major=options.time_major,
            backend=options.backend,
        )

    if lengths is None or options.stops_at_lengths(inputs):
        outputs, final = run(x, resets, lengths, options.reverse)
        if options.reverse and not options.keep_order:
            outputs = flip(outputs)
    else:
        if options.reverse:
            x, resets = flip(x), None if resets is None else flip(resets)
        outputs, final = run(x, resets, None, False)
        if not options.return_carry:
            pass
        elif len(call.weights.cell.states) > 1:
            _, final = run(x, resets, lengths, False)
        else:
            time_axis = 0 if options.time_major else 1
            final = (_at_lengths(outputs, arrays.initial_state[0], lengths, time_axis),)
        if options.reverse and options.keep_order:
            outputs = flip(outputs)

    outputs = outputs.astype(call.dtypes.state).reshape(*inputs.shape[:-1], call.hidden)
    return (call.carry_of(inputs, final), outputs) if options.return_carry else outputs


def run_both(
    both: Sequence[KernelCall],
    inputs: Array,
    seq_lengths: Any,
    merge: Callable[[Array, Array], Array] | None,
) -> Any:
    """What flax's Bidirectional returns, (both carries, outputs), from one call.

    The outputs are merged by a function or, if that is None, side by side as the call has them.

    None where they take two: they differ in more than their values, or go on past a row's length,
    which flax's reversed layer does on another x.
    """
    forward, backward = both
    arrays = [call.arrays for call in both]
    types = [jax.tree.map(lambda a: (a.shape, a.dtype), each) for each in arrays]
    alike = (
        forward.weights.cell == backward.weights.cell
        and forward.dtypes == backward.dtypes
        and types[0] == types[1]
        and forward.options.backend == backward.options.backend
    )
    if not alike or not (
        seq_lengths is None or all(call.options.stops_at_lengths(inputs) for call in both)
    ):
        return None
    x, lengths = forward.sequences(inputs, seq_lengths)
    given = {"x": x} if lengths is None else {"x": x, "lengths": lengths}
    outputs, final = functions.run(
        forward.weights.cell,
        Arrays(_of_both(*arrays) | given),
        directions="both",
        time_major=forward.options.time_major,
        backend=forward.options.backend,
    )
    carries = tuple(
        call.carry_of(inputs, [state[way] for state in final]) for way, call in enumerate(both)
    )
    outputs = outputs.astype(forward.dtypes.state)
    if merge is None:
        return carries, outputs.reshape(*inputs.shape[:-1], 2 * forward.hidden)
    shape = (*inputs.shape[:-1], forward.hidden)
    return carries, merge(*(outputs[:, :, way].reshape(shape) for way in range(2)))


def _of_both(forward: dict[str, Any], backward: dict[str, Any]) -> dict[str, Any]:
    """Arrays of both directions: weights as they lie, unless they are packed; states stacked."""

    def stacked(name: str) -> Any:
        return jax.tree.map(lambda *each: jnp.stack(each), forward[name], backward[name])

    weights = [name for name in forward if name != "initial_state"]
    if isinstance(forward["recurrent_kernel"][0], PackedKernel):
        both = {name: stacked(name)[0] for name in weights}
    else:
        both = {name: forward[name] + backward[name] for name in weights}
    return both | {"initial_state": stacked("initial_state")}


def mask_padding(result: Any, seq_lengths: Any, options: CallOptions) -> Any:
    """What flax's own path returned, with zero outputs past each row's length if asked for."""
    if not options.mask_outputs:
        return result
    carry, outputs = result if options.return_carry else (None, result)
    lengths = jnp.asarray(seq_lengths)
    time_axis = 0 if options.time_major else lengths.ndim
    ends = jnp.expand_dims(lengths, time_axis)

    def mask(sequence: Array) -> Array:
        further = tuple(range(ends.ndim, sequence.ndim))
        times = jax.lax.broadcasted_iota(ends.dtype, (*sequence.shape[: ends.ndim],), time_axis)
        return jnp.where(jnp.expand_dims(times < ends, further), sequence, 0)

    outputs = jax.tree.map(mask, outputs)
    return (carry, outputs) if options.return_carry else outputs


def _at_lengths(outputs: Array, initial: Array, lengths: Array, time_axis: int) -> Array:
    """The output at each row's last step, or its initial state where its length is 0: [rows, H]."""
    last = jnp.expand_dims(jnp.maximum(lengths - 1, 0), (time_axis, 2))
    taken = jnp.take_along_axis(outputs, last, axis=time_axis).squeeze(time_axis)
    return jnp.where(lengths[:, None] > 0, taken, initial)
