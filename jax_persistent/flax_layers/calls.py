# SPDX-License-Identifier: Apache-2.0
"""A call of a kernel in flax's conventions, and what flax's own path needs beside it.

`kernel_dtypes` says whether a call of a cell's `CellWeights` fits the kernels, and `run_cell` makes
it. Whatever is unusual raises `NoKernel`, which says why, and the layer takes flax's own path,
which is right for everything; `fallback` has its scan be ours.

Legend: T time steps, I input features, H hidden units, G gates; rows are all batch axes folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.recurrent import flip_sequences
from jax import Array

from jax_persistent.fallback import NoKernel
from jax_persistent.flax_layers.arguments import CallOptions
from jax_persistent.flax_layers.cell_weights import CellWeights
from jax_persistent.ops import functions
from jax_persistent.ops.validation import check_lengths
from jax_persistent.problem import DTYPES, Arrays, PackedKernel


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
