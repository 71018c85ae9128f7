"""What both flax layers share: which cells have a kernel, and a call of it in flax's conventions.

A layer describes its cell as `CellWeights`; `plan_call` says whether this call fits the op, and
`run_cell` makes it. Whatever is unusual raises `NoKernel`, which says why, and the layer takes
flax's own path, which is right for everything.

Legend: T time steps, I input features, H hidden units, G gates; rows are all batch axes folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.recurrent import flip_sequences
from jax import Array

from jax_persistent.ops import api
from jax_persistent.ops.spec import DTYPES, check_lengths

_OPS: dict[str, tuple[Callable[..., Any], int]] = {
    "lstm": (api.lstm, 4),
    "gru": (api.gru, 3),
    "elman": (api.elman, 1),
}
_SIGMOIDS = (jax.nn.sigmoid, jax.lax.logistic)
_TANHS = (jnp.tanh, jax.nn.tanh, jax.lax.tanh)


class NoKernel(Exception):
    """Why only flax's own code knows what to do."""


@dataclass(frozen=True)
class CellWeights:
    """One cell's parameters in an op's layout, not yet cast to the dtype of the computation."""

    op: str  # a key of _OPS
    input_kernel: Array  # [I, G*H]
    recurrent_kernel: Array  # [H, G*H]
    bias: Array | None  # [G*H]
    input_dtype: Any  # of the input product; None: inferred from its operands, as flax does
    recurrent_dtype: Any  # of the recurrent product; likewise
    recurrent_bias: Array | None = None  # [G*H], GRU only
    activation: str | None = None  # Elman only

    @property
    def arrays(self) -> list[Array]:
        every = (self.input_kernel, self.recurrent_kernel, self.bias, self.recurrent_bias)
        return [array for array in every if array is not None]


@dataclass(frozen=True)
class Layout:
    """How one call reads and returns its sequences, in the words of flax's RNN."""

    time_major: bool
    reverse: bool
    keep_order: bool
    return_carry: bool
    mask_outputs: bool

    def batch_shape(self, inputs: Array) -> tuple[int, ...]:
        """The axes of `inputs` that are neither time nor features."""
        return inputs.shape[1:-1] if self.time_major else inputs.shape[:-2]

    def step_shape(self, inputs: Array) -> tuple[int, ...]:
        """The shape of one step of `inputs`."""
        return (*self.batch_shape(inputs), inputs.shape[-1])


@dataclass(frozen=True)
class Dtypes:
    """Of one call: the products, and the state with the outputs.

    flax keeps the state in the dtype of the initial carry, usually that of the parameters, and
    casts it to the cell's `dtype` for each product. Where the two differ the whole recurrence runs
    in `compute` here, and what it returns is cast to `state`.
    """

    compute: Any
    state: Any


def check_gated_cell(cell: Any) -> None:
    """Whether an LSTM or a GRU cell has the functions that its op has."""
    gated = any(cell.gate_fn is f for f in _SIGMOIDS)
    if not gated or activation_name(cell.activation_fn) != "tanh":
        raise NoKernel(
            f"{type(cell).__name__}: a kernel has sigmoid as gate_fn and tanh as activation_fn; "
            f"got {_named(cell.gate_fn)} and {_named(cell.activation_fn)}"
        )


def activation_of_simple_cell(cell: Any) -> str:
    """The Elman op's name for what a cell without gates does."""
    activation = activation_name(cell.activation_fn)
    if activation is None:
        got = _named(cell.activation_fn)
        raise NoKernel(f"SimpleCell: a kernel has tanh or relu as activation_fn; got {got}")
    if cell.residual:
        raise NoKernel("SimpleCell: there is no kernel for residual=True")
    return activation


def _named(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)


def gatherer(cell: Any, gatherers: Mapping[type, Callable[[Any], CellWeights]]) -> Any:
    """The function that gathers this cell's weights."""
    if type(cell) not in gatherers:
        names = ", ".join(known.__name__ for known in gatherers)
        raise NoKernel(f"{type(cell).__name__} has no kernel; {names} have, without subclasses")
    return gatherers[type(cell)]


def activation_name(function: Any) -> str | None:
    """The Elman op's name for a function, None for one it doesn't have."""
    if any(function is f for f in _TANHS):
        return "tanh"
    return "relu" if function is jax.nn.relu else None


def check_sequence(inputs: Any) -> None:
    """Whether `inputs` is one real array [*batch, T, I] with any features: what an op takes."""
    if not isinstance(inputs, (jax.Array, np.ndarray)):
        raise NoKernel(f"a kernel takes one array; got inputs {type(inputs).__name__}")
    number = jnp.issubdtype(inputs.dtype, jnp.number)
    if inputs.ndim < 2 or inputs.shape[-1] == 0 or not number:
        got = f"{inputs.dtype.name}{list(inputs.shape)}"
        raise NoKernel(f"a kernel takes numbers [*batch, T, I]; got inputs {got}")


def plan_call(
    weights: CellWeights, inputs: Array, carry: Any, seq_lengths: Any, layout: Layout
) -> Dtypes:
    """The dtypes of this call of an op; raises NoKernel if the op can't answer it for flax."""
    batch = layout.batch_shape(inputs)
    if seq_lengths is not None:
        shape, dtype = jnp.shape(seq_lengths), jnp.result_type(seq_lengths)
        if shape != batch or not jnp.issubdtype(dtype, jnp.integer):
            got = f"{dtype.name}{list(shape)}"
            raise NoKernel(f"a kernel takes integer seq_lengths {list(batch)}; got {got}")
    features, hidden = inputs.shape[-1], weights.recurrent_kernel.shape[0]
    columns = _OPS[weights.op][1] * hidden
    shapes = [(features, columns), (hidden, columns), (columns,), (columns,)]
    if any(a.shape != s for a, s in zip(weights.arrays, shapes, strict=False)):
        raise NoKernel(f"the cell's parameters are not those for {features} features")
    structure: Any = jax.tree.structure((0, 0) if weights.op == "lstm" else 0)
    states = jax.tree.leaves(carry)
    if jax.tree.structure(carry) != structure or any(
        jnp.shape(state) != (*batch, hidden) for state in states
    ):
        expected = f"{structure.num_leaves} of {[*batch, hidden]}"
        raise NoKernel(
            f"a kernel takes a carry of {expected}; got {jax.tree.map(jnp.shape, carry)}"
        )
    return _dtypes(weights, inputs, states)


def _dtypes(weights: CellWeights, inputs: Array, states: list[Any]) -> Dtypes:
    """The dtypes that flax would arrive at; raises NoKernel if it wouldn't or no op has them."""
    with jax.numpy_dtype_promotion("standard"):
        biases = weights.arrays[2:]
        of_inputs, of_state = weights.input_dtype, weights.recurrent_dtype
        if of_inputs is None:
            of_inputs = jnp.result_type(inputs, weights.input_kernel, *biases)
        if of_state is None:
            of_state = jnp.result_type(states[-1], weights.recurrent_kernel, *biases)
        compute = jnp.result_type(of_inputs, of_state)
        after_a_step = {jnp.result_type(compute, state) for state in states}
    state = max(after_a_step, key=lambda dtype: jnp.dtype(dtype).itemsize)
    # lax.scan takes a carry whose dtype a step would change only if it is weakly typed.
    kept = all(jax.typeof(s).weak_type or jnp.result_type(s) == state for s in states)
    if weights.op == "elman":
        kept = kept and state == compute
    known = {jnp.dtype(compute).name, jnp.dtype(state).name} <= set(DTYPES)
    if not kept or not known or len(after_a_step) > 1:
        names = ", ".join(jnp.result_type(s).name for s in states)
        raise NoKernel(f"no kernel computes in {jnp.dtype(compute).name} from a carry of {names}")
    return Dtypes(compute, state)


def run_cell(
    weights: CellWeights,
    dtypes: Dtypes,
    inputs: Array,
    carry: Any,
    seq_lengths: Any,
    layout: Layout,
) -> Any:
    """What flax's RNN returns for this cell, `outputs` or `(carry, outputs)`, from one op.

    flax goes on past a row's length, feeding the padding to the cell, so the op runs without
    lengths unless the outputs are masked; the LSTM's c at a row's length takes a second run then
    (which XLA removes when nothing reads it). The other cells' state is one of their outputs.
    """
    batch = layout.batch_shape(inputs)
    rows, time_axis = math.prod(batch), 0 if layout.time_major else 1
    steps = inputs.shape[0 if layout.time_major else -2]
    folded = (steps, rows) if layout.time_major else (rows, steps)
    x = jnp.asarray(inputs, dtypes.compute).reshape(*folded, inputs.shape[-1])
    # flax's LSTM carry is (c, h), the op's state is (h, c).
    hidden = weights.recurrent_kernel.shape[0]
    states = [
        jnp.asarray(s, dtypes.compute).reshape(rows, hidden) for s in jax.tree.leaves(carry)[::-1]
    ]
    op = _bound_op(weights, dtypes.compute, states, layout.time_major)
    lengths = None
    if seq_lengths is not None:
        # Reshaping a known array would make it a traced one under `jax.jit`.
        one_axis = jnp.ndim(seq_lengths) == 1
        lengths = check_lengths(seq_lengths if one_axis else seq_lengths.reshape(rows), rows, steps)

    def flip(sequences: Array) -> Array:
        return flip_sequences(sequences, lengths, num_batch_dims=1, time_major=layout.time_major)

    if lengths is None or layout.mask_outputs or steps == 0:
        outputs, final = op(x, lengths=lengths, reverse=layout.reverse)
        if layout.reverse and not layout.keep_order:
            outputs = flip(outputs)
    else:
        x = flip(x) if layout.reverse else x
        outputs, _ = op(x)
        if not layout.return_carry:
            final = None
        elif weights.op == "lstm":
            _, final = op(x, lengths=lengths)
        else:
            final = _at_lengths(outputs, states[0], lengths, time_axis)
        if layout.reverse and layout.keep_order:
            outputs = flip(outputs)

    outputs = outputs.astype(dtypes.state).reshape(*inputs.shape[:-1], hidden)
    if not layout.return_carry:
        return outputs
    finals = [s.astype(dtypes.state).reshape(*batch, hidden) for s in jax.tree.leaves(final)][::-1]
    return jax.tree.unflatten(jax.tree.structure(carry), finals), outputs


def mask_padding(result: Any, seq_lengths: Any, layout: Layout) -> Any:
    """What flax's own path returned, with zero outputs past each row's length if asked for."""
    if not layout.mask_outputs:
        return result
    carry, outputs = result if layout.return_carry else (None, result)
    lengths = jnp.asarray(seq_lengths)
    time_axis = 0 if layout.time_major else lengths.ndim
    ends = jnp.expand_dims(lengths, time_axis)

    def mask(sequence: Array) -> Array:
        further = tuple(range(ends.ndim, sequence.ndim))
        times = jax.lax.broadcasted_iota(ends.dtype, (*sequence.shape[: ends.ndim],), time_axis)
        return jnp.where(jnp.expand_dims(times < ends, further), sequence, 0)

    outputs = jax.tree.map(mask, outputs)
    return (carry, outputs) if layout.return_carry else outputs


def _bound_op(
    weights: CellWeights, dtype: Any, states: list[Array], time_major: bool
) -> Callable[..., Any]:
    """The op as a function of (x, lengths, reverse), everything else filled in and cast."""
    function, _ = _OPS[weights.op]
    arguments: dict[str, Any] = {
        "input_kernel": weights.input_kernel.astype(dtype),
        "recurrent_kernel": weights.recurrent_kernel.astype(dtype),
        "bias": None if weights.bias is None else weights.bias.astype(dtype),
        "initial_state": tuple(states) if weights.op == "lstm" else states[0],
    }
    if weights.recurrent_bias is not None:
        arguments["recurrent_bias"] = weights.recurrent_bias.astype(dtype)
    if weights.activation is not None:
        arguments["activation"] = weights.activation

    def op(x: Array, lengths: Array | None = None, reverse: bool = False) -> Any:
        return function(x, **arguments, lengths=lengths, reverse=reverse, time_major=time_major)

    return op


def _at_lengths(outputs: Array, initial: Array, lengths: Array, time_axis: int) -> Array:
    """The output at each row's last step, or its initial state where its length is 0: [rows, H]."""
    last = jnp.expand_dims(jnp.maximum(lengths - 1, 0), (time_axis, 2))
    taken = jnp.take_along_axis(outputs, last, axis=time_axis).squeeze(time_axis)
    return jnp.where(lengths[:, None] > 0, taken, initial)
