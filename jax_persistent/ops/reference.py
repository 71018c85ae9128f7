"""The specification: every recurrence as a matrix product and a plain `jax.lax.scan`.

`forward` says what a recurrence computes. `tangent` is its linearisation and `backward` the
transpose of that, both from what `forward` saved: they run where no kernel exists, and they are
what the kernels are tested against.

One problem at a time; `time_major` sequences are [T, B, F], others [B, T, F]. Sums run in
float32 for narrower types, and so do the cell's private states; h is rounded to the operands'
type at every step, because that is the value the next step multiplies.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_persistent.ops.spec import (
    Backward,
    BackwardSteps,
    Gradients,
    Problem,
    Projected,
    Result,
    Spec,
    StepGradients,
    Tangent,
)


def forward(spec: Spec, problem: Problem) -> Result:
    """Runs the recurrence over the whole sequence.

    Steps at or past a row's length leave its states alone and put zeros in `outputs` and `saved`.
    With `spec.reverse` time runs from T-1 down to 0, so that each row starts at its own end.
    """
    cell, dtype = spec.cell, problem.x.dtype
    gates_x = projected(spec, problem).gates_x
    wide = accumulation_dtype(dtype)

    def step(states, inputs):
        t, x = inputs
        product = _dot(states[0].astype(dtype), problem.recurrent_kernel)
        if problem.recurrent_bias is not None:
            product += problem.recurrent_bias.astype(wide)[None, :]
        (h, *rest), saved = cell.step(x.astype(wide), product, states)
        new = (h.astype(dtype).astype(wide), *rest)
        valid = (t < problem.lengths)[:, None]
        kept = tuple(jnp.where(valid, n, o) for n, o in zip(new, states, strict=True))
        ys = (_zero_unless(valid, new[0]).astype(dtype), _zero_unless(valid, saved).astype(dtype))
        return kept, ys

    initial = tuple(s.astype(wide) for s in problem.initial)
    final, (outputs, saved) = _scan(spec, step, initial, gates_x)
    return Result(
        outputs, tuple(s.astype(dtype) for s in final), saved if spec.cell.saved else None
    )


def projected(spec: Spec, problem: Problem) -> Projected:
    """The part of `forward` that needs no state: one matrix product over all steps."""
    del spec
    gates_x = project(problem.x, problem.input_kernel, problem.bias)
    return Projected(
        gates_x,
        problem.recurrent_kernel,
        problem.recurrent_bias,
        problem.lengths,
        problem.initial,
    )


def project(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """x W + b over the last axis, summed in float32 for narrower types: [.., I] to [.., G*H]."""
    wide = accumulation_dtype(x.dtype)
    product = lax.dot_general(x, kernel, (((2,), (0,)), ((), ())), preferred_element_type=wide)
    if bias is not None:
        product += bias.astype(wide)[None, None, :]
    return product.astype(x.dtype)


def tangent(spec: Spec, operands: Tangent) -> Result:
    """The tangents of `forward`'s results; linear in the fields of `operands` named d_*."""
    cell, dtype = spec.cell, operands.outputs.dtype
    wide = accumulation_dtype(dtype)
    previous, saved = _previous_states(spec, operands), _saved(operands.outputs, operands.saved)

    def step(d_states, inputs):
        t, dx, previous, saved, h = inputs
        d_product = _dot(d_states[0].astype(dtype), operands.recurrent_kernel)
        if operands.d_recurrent_kernel is not None:
            d_product += _dot(previous[0], operands.d_recurrent_kernel)
        if operands.d_recurrent_bias is not None:
            d_product += operands.d_recurrent_bias.astype(wide)[None, :]
        args = (_widen(saved), _widen(previous), _widen(h), _widen(dx), d_product)
        d_new, d_saved = cell.step_tangent(*args, d_states)
        valid = (t < operands.lengths)[:, None]
        kept = tuple(jnp.where(valid, n, o) for n, o in zip(d_new, d_states, strict=True))
        ys = (
            _zero_unless(valid, d_new[0]).astype(dtype),
            _zero_unless(valid, d_saved).astype(dtype),
        )
        return kept, ys

    columns = operands.recurrent_kernel.shape[1]
    d_gates_x = jnp.zeros((*operands.outputs.shape[:2], columns), dtype)
    if operands.d_x is not None and operands.input_kernel is not None:
        d_gates_x += project(operands.d_x, operands.input_kernel)
    if operands.x is not None and operands.d_input_kernel is not None:
        d_gates_x += project(operands.x, operands.d_input_kernel, operands.d_bias)
    inputs = (d_gates_x, previous, saved, operands.outputs)
    d_initial = tuple(map(_widen, operands.d_initial))
    d_final, (d_outputs, d_saved) = _scan(spec, step, d_initial, inputs)
    return Result(
        d_outputs, tuple(s.astype(dtype) for s in d_final), d_saved if spec.cell.saved else None
    )


def backward(spec: Spec, operands: Backward) -> Gradients:
    """The transpose of `tangent`."""
    steps = BackwardSteps(*operands[1:])
    return sum_weights(spec, operands, backward_steps(spec, steps))


def backward_steps(spec: Spec, operands: BackwardSteps) -> StepGradients:
    """The transpose of `tangent` in the inputs and the initial states, and what else it takes."""
    cell, dtype = spec.cell, operands.outputs.dtype
    previous, saved = _previous_states(spec, operands), _saved(operands.outputs, operands.saved)

    def step(d_states, inputs):
        t, d_output, previous, saved, h = inputs
        linear = partial(cell.step_tangent, _widen(saved), _widen(previous), _widen(h))
        anywhere = jnp.concatenate([d_states[0]] * cell.gates, axis=-1)  # the map is linear
        _, transpose = jax.vjp(lambda *d: linear(*d)[0], anywhere, anywhere, d_states)
        dx, d_product, d_direct = transpose((d_states[0] + _widen(d_output), *d_states[1:]))
        valid = (t < operands.lengths)[:, None]
        dx, d_product = (_zero_unless(valid, d).astype(dtype) for d in (dx, d_product))
        d_h = d_direct[0] + _dot(d_product, operands.recurrent_kernel.T)
        d_previous = (d_h, *d_direct[1:])
        kept = tuple(jnp.where(valid, n, o) for n, o in zip(d_previous, d_states, strict=True))
        return kept, (dx, d_product)

    inputs = (operands.d_outputs, previous, saved, operands.outputs)
    d_final = tuple(map(_widen, operands.d_final))
    d_initial, (d_gates_x, d_product) = _scan(spec, step, d_final, inputs, backwards=True)
    d_x = None
    if operands.input_kernel is not None:
        d_x = input_gradient(d_gates_x, operands.input_kernel)
    return StepGradients(
        d_x,
        d_gates_x,
        d_product if cell.separate_recurrent_gradient else None,
        tuple(s.astype(dtype) for s in d_initial),
    )


def sum_weights(spec: Spec, operands: Backward, steps: StepGradients) -> Gradients:
    """The transpose of `tangent` in the weights: one matrix product over all steps for each kernel.

    Past a row's length the gradients of the gates are zero.
    """
    if operands.x is None:
        return Gradients(steps.d_x, None, None, None, None, steps.d_initial)
    separate = steps.d_product is not None
    d_product = steps.d_product if steps.d_product is not None else steps.d_gates_x
    previous = previous_sequence(spec, operands.lengths, operands.initial[0], operands.outputs)
    return Gradients(
        steps.d_x,
        _sum_over_steps(operands.x, steps.d_gates_x),
        _sum_of_rows(steps.d_gates_x),
        _sum_over_steps(previous, d_product),
        _sum_of_rows(d_product) if separate else None,
        steps.d_initial,
    )


def _sum_over_steps(left: Array, right: Array) -> Array:
    """sum over rows and steps of left^T right: [.., F] and [.., G*H] to [F, G*H]."""
    wide = accumulation_dtype(left.dtype)
    over = (((0, 1), (0, 1)), ((), ()))
    return lax.dot_general(left, right, over, preferred_element_type=wide).astype(left.dtype)


def _sum_of_rows(right: Array) -> Array:
    wide = accumulation_dtype(right.dtype)
    return jnp.sum(right, axis=(0, 1), dtype=wide).astype(right.dtype)


def input_gradient(d_gates_x: Array, input_kernel: Array) -> Array:
    """The transpose of `project` in x: [.., G*H] to [.., I]."""
    return project(d_gates_x, input_kernel.T)


def previous_sequence(spec: Spec, lengths: Array, initial: Array, sequence: Array) -> Array:
    """The value each step started from: `sequence` one step earlier, `initial` at a row's first."""
    axis, steps = spec.time_axis, sequence.shape[spec.time_axis]
    start = jnp.expand_dims(initial, axis).astype(sequence.dtype)
    if not spec.reverse:
        return lax.concatenate([start, lax.slice_in_dim(sequence, 0, -1, axis=axis)], axis)
    later = lax.concatenate([lax.slice_in_dim(sequence, 1, None, axis=axis), start], axis)
    t = jnp.expand_dims(jnp.arange(steps, dtype=lengths.dtype), 1 - axis)
    is_first = t == jnp.expand_dims(lengths - 1, axis)
    return jnp.where(jnp.expand_dims(is_first, 2), start, later)


def accumulation_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """float32 for float16 and bfloat16, otherwise the type itself."""
    dtype = jnp.dtype(dtype)
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def _previous_states(spec: Spec, operands: Tangent | BackwardSteps) -> tuple[Array, ...]:
    """Sequences of every state before each step; the private states are the last of `saved`."""
    sequences = [operands.outputs]
    if len(operands.initial) > 1:
        assert operands.saved is not None
        private = jnp.split(operands.saved, spec.cell.saved, axis=-1)
        sequences += private[-(len(operands.initial) - 1) :]
    return tuple(
        previous_sequence(spec, operands.lengths, start, sequence)
        for start, sequence in zip(operands.initial, sequences, strict=True)
    )


def _saved(outputs: Array, saved: Array | None) -> Array:
    return outputs[..., :0] if saved is None else saved


def _scan(spec: Spec, step, carry, sequences, *, backwards: bool = False):
    """Scans `step` over (t, slices of `sequences`), in the recurrence's direction or against it."""
    if not spec.time_major:
        sequences = jax.tree.map(lambda s: jnp.swapaxes(s, 0, 1), sequences)
    flat = sequences if isinstance(sequences, tuple) else (sequences,)
    steps = jnp.arange(flat[0].shape[0], dtype=jnp.int32)
    carry, ys = lax.scan(step, carry, (steps, *flat), reverse=spec.reverse != backwards)
    if not spec.time_major:
        ys = jax.tree.map(lambda s: jnp.swapaxes(s, 0, 1), ys)
    return carry, ys


def _dot(a: Array, b: Array) -> Array:
    return lax.dot(a, b, preferred_element_type=accumulation_dtype(a.dtype))


def _widen(tree):
    return jax.tree.map(lambda a: a.astype(accumulation_dtype(a.dtype)), tree)


def _zero_unless(valid: Array, value: Array) -> Array:
    return jnp.where(valid, value, jnp.zeros_like(value))
