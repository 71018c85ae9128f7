# SPDX-License-Identifier: Apache-2.0
"""The specification: every recurrence as a matrix product and a plain `jax.lax.scan`.

`forward` says what a recurrence computes. `tangent` is its linearisation and `backward` the
transpose of that, both from what `forward` kept: they run where no kernel exists, and they are what
the kernels are tested against.

One group at a time: [T,B,F] time-major sequences, else [B,T,F]. What a layer's directions have in
common, the sums of gradients, is [T,B,D,F] or [B,T,D,F]. Sums run in float32 for narrower
types, and so do the cell's private states; h is rounded to the operands' type at every step,
because that is the value that the next step multiplies.

A row runs at the times before its length, from the last to the first in a reversed problem. Where a
reset is set and the row runs, the states before the step are the reset state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_persistent.cells import States
from jax_persistent.problem import Arrays, PackedKernel, Problem, joining


def run(problem: Problem, flat: Sequence[Array]) -> list[Array]:
    """A problem's results from its operands, both flat."""
    if problem.weights != "one":
        return joining.joined(problem, flat, run)
    problem, flat = unpacked(problem, flat)
    function = {"forward": forward, "tangent": tangent, "backward": backward}[problem.pass_]

    def layer(*flat: Array) -> list[Array]:
        arrays = problem.arrays(flat)
        found = _each_way(problem, function, arrays)
        if problem.has("d_x") and problem.pass_ == "backward":
            found["d_x"] = input_gradient(found.d_input_gates, arrays.input_kernel)
        if problem.has("d_weights") and problem.pass_ == "backward":
            gates = found.d_input_gates, found.d_recurrent_gates
            found |= weight_gradients(problem, arrays, *gates)
        return problem.flat_results(found)

    return each_layer(layer, *flat)


def unpacked(problem: Problem, flat: Sequence[Array]) -> tuple[Problem, Sequence[Array]]:
    """The same problem and operands with its kernels as they were before they were packed."""
    if not problem.packed_lanes:
        return problem, flat
    arrays = problem.arrays(flat)
    for name, rows in (("input_kernel", problem.inputs), ("recurrent_kernel", problem.hidden)):
        sizes = problem.cell.gates, rows, problem.hidden, problem.packed_lanes
        arrays[name] = PackedKernel(arrays[name], *sizes).unpacked()
    plain = replace(problem, packed_lanes=0)
    return plain, plain.flat(arrays)


def each_layer(function: Callable[..., Any], *arrays: Array | None) -> Any:
    """Runs a function over the axis n of its arguments, in which None stays None."""
    if jax.tree.leaves(arrays)[0].shape[0] != 1:
        return jax.vmap(function)(*arrays)
    one = jax.tree.map(lambda a: jnp.squeeze(a, 0), arrays)
    return jax.tree.map(lambda r: jnp.expand_dims(r, 0), function(*one))


def _each_way(
    problem: Problem, function: Callable[[Problem, Arrays], Mapping[str, Any]], arrays: Arrays
) -> Arrays:
    """Runs a function of one direction for each that a layer has."""

    def of_way(way: int, name: str, array: Any) -> Any:
        axis = problem.way_axis(name)
        if axis is None:
            return array
        return jax.tree.map(lambda a: lax.index_in_dim(a, way, axis, keepdims=False), array)

    def joined(name: str, parts: tuple[Any, ...]) -> Any:
        axis = problem.way_axis(name)
        assert axis is not None
        return jax.tree.map(lambda *each: jnp.stack(each, axis), *parts)

    found = [
        function(problem.one_way(way), Arrays((n, of_way(way, n, a)) for n, a in arrays.items()))
        for way in range(len(problem.ways))
    ]
    return Arrays((name, joined(name, tuple(f[name] for f in found))) for name in found[0])


def forward(problem: Problem, arrays: Arrays) -> Arrays:
    """Runs the recurrence over the whole sequence.

    Where a row does not run its states stay, and `outputs` and `residuals` are zero.
    """
    dtype, wide = jnp.dtype(problem.dtype), accumulation_dtype(problem.dtype)
    input_gates = arrays.input_gates
    if input_gates is None:
        x = _zero_in_padding(problem, arrays, arrays.x)
        input_gates = project(x, arrays.input_kernel, arrays.bias)

    def step(states: States, inputs: Any) -> Any:
        (runs, reset), x = inputs
        before = _replaced(reset, states, _reset_state(arrays, states))
        recurrent_gates = _dot(before[0].astype(dtype), arrays.recurrent_kernel)
        if arrays.recurrent_bias is not None:
            recurrent_gates += arrays.recurrent_bias.astype(wide)[None, :]
        (h, *rest), residuals = problem.cell.step(x.astype(wide), recurrent_gates, before)
        after = (h.astype(dtype).astype(wide), *rest)
        ys = _zero_unless(runs, after[0]).astype(dtype), _zero_unless(runs, residuals).astype(dtype)
        return _replaced(_negated(runs), after, states), ys

    initial = tuple(s.astype(wide) for s in arrays.initial_state)
    final, (outputs, residuals) = _scan(problem, arrays, step, initial, input_gates)
    kept = wide if problem.has_wide_states else dtype
    return Arrays(
        outputs=outputs, final_state=tuple(s.astype(kept) for s in final), residuals=residuals
    )


def tangent(problem: Problem, arrays: Arrays) -> Arrays:
    """The tangents of `forward`'s results; linear in the operands named d_*."""
    dtype, wide = jnp.dtype(problem.dtype), accumulation_dtype(problem.dtype)

    def step(d_states: States, inputs: Any) -> Any:
        (runs, reset), d_input_gates, moved, before, residuals, h = inputs
        d_reset = None if arrays.d_reset_state is None else _widen(arrays.d_reset_state)
        d_before = _replaced(reset, d_states, d_reset)
        d_recurrent_gates = _dot(d_before[0].astype(dtype), arrays.recurrent_kernel)
        if moved is not None:
            d_recurrent_gates += moved
        if arrays.d_recurrent_bias is not None:
            d_recurrent_gates += arrays.d_recurrent_bias.astype(wide)[None, :]
        constant = _widen((residuals, before, h))
        d_after, d_residuals = problem.cell.step_tangent(
            *constant, _widen(d_input_gates), d_recurrent_gates, d_before
        )
        ys = (
            _zero_unless(runs, d_after[0]).astype(dtype),
            _zero_unless(runs, d_residuals).astype(dtype),
        )
        return _replaced(_negated(runs), d_after, d_states), ys

    columns = arrays.recurrent_kernel.shape[1]
    d_input_gates = jnp.zeros((*arrays.outputs.shape[:2], columns), dtype)
    if arrays.d_x is not None:
        d_input_gates += project(arrays.d_x, arrays.input_kernel)
    if arrays.d_input_kernel is not None:
        x = _zero_in_padding(problem, arrays, arrays.x)
        d_input_gates += project(x, arrays.d_input_kernel)
    if arrays.d_bias is not None:
        d_input_gates += arrays.d_bias[None, None, :]
    before, residuals, h = _kept_by_forward(problem, arrays)
    moved = None
    if arrays.d_recurrent_kernel is not None:  # of all steps at once, so that sums of it are wide
        moved = _product(before[0], arrays.d_recurrent_kernel)
    inputs = (d_input_gates, moved, before, residuals, h)
    d_initial = _widen(arrays.d_initial_state)
    d_final, (d_outputs, d_residuals) = _scan(problem, arrays, step, d_initial, *inputs)
    return Arrays(
        d_outputs=d_outputs,
        d_final_state=tuple(s.astype(dtype) for s in d_final),
        d_residuals=d_residuals,
    )


def backward(problem: Problem, arrays: Arrays) -> Arrays:
    """The transpose of `tangent` up to the gates, of whose gradients the others are made."""
    cell, dtype = problem.cell, jnp.dtype(problem.dtype)

    def step(carry: Any, inputs: Any) -> Any:
        d_states, d_reset_state = carry
        (runs, reset), d_output, before, residuals, h = inputs
        linear = partial(cell.step_tangent, *_widen((residuals, before, h)))
        anywhere = jnp.concatenate([d_states[0]] * cell.gates, axis=-1)  # the map is linear
        _, transpose = jax.vjp(lambda *d: linear(*d)[0], anywhere, anywhere, d_states)
        gates = transpose((d_states[0] + _widen(d_output), *d_states[1:]))
        d_input_gates, d_recurrent_gates = (_zero_unless(runs, d).astype(dtype) for d in gates[:2])
        d_h = gates[2][0] + _dot(d_recurrent_gates, arrays.recurrent_kernel.T)
        d_before = _replaced(_negated(runs), (d_h, *gates[2][1:]), d_states)
        if d_reset_state is not None:
            d_reset_state = tuple(
                sum_ + _zero_unless(reset, d)
                for sum_, d in zip(d_reset_state, d_before, strict=True)
            )
        d_before = _replaced(reset, d_before, None)
        return (d_before, d_reset_state), (d_input_gates, d_recurrent_gates)

    d_final = _widen(arrays.d_final_state)
    sums = None if arrays.reset_state is None else jax.tree.map(jnp.zeros_like, d_final)
    inputs = (arrays.d_outputs, *_kept_by_forward(problem, arrays))
    (d_initial, d_reset), (d_input_gates, d_recurrent_gates) = _scan(
        problem, arrays, step, (d_final, sums), *inputs, backwards=True
    )
    found = Arrays(
        d_input_gates=d_input_gates,
        d_recurrent_gates=d_recurrent_gates,
        d_initial_state=tuple(s.astype(dtype) for s in d_initial),
    )
    if d_reset is not None:
        found["d_reset_state"] = tuple(s.astype(dtype) for s in d_reset)
    return found


def weight_gradients(
    problem: Problem, arrays: Arrays, d_input_gates: Array, d_recurrent_gates: Array
) -> dict[str, Array]:
    """The transpose of `tangent` in a layer's weights: one product over all steps for each kernel.

    Where a row does not run the gradients of the gates are zero.
    """

    def h_before(one_way: Problem, arrays: Arrays) -> dict[str, Array]:
        before = _before(one_way, arrays, 0, arrays.outputs)
        return {"outputs": _zero_in_padding(one_way, arrays, before)}

    x = _zero_in_padding(problem, arrays, arrays.x)
    h = _each_way(problem, h_before, arrays).outputs
    return {
        "d_input_kernel": jnp.swapaxes(_sum_over_steps(x, d_input_gates), 0, 1),
        "d_bias": _sum_of_rows(d_input_gates),
        "d_recurrent_kernel": _sum_over_steps(h, d_recurrent_gates, 2),
        "d_recurrent_bias": _sum_of_rows(d_recurrent_gates),
    }


def project(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """x W + b over the last axis, summed in float32 for narrower types: [.., I] to [.., G*H].

    With kernels of D directions, side by side in one product, to [.., D, G*H].
    """
    product = _product(x, kernel)
    if bias is not None:
        product += bias.astype(product.dtype)[None, None]
    return product.astype(x.dtype)


def input_gradient(d_input_gates: Array, input_kernel: Array) -> Array:
    """The transpose of `project` in x, of all directions: [.., D, G*H] to [.., I]."""
    wide = accumulation_dtype(d_input_gates.dtype)
    over = (((2, 3), (0, 2)), ((), ()))
    product = lax.dot_general(d_input_gates, input_kernel, over, preferred_element_type=wide)
    return product.astype(d_input_gates.dtype)


def accumulation_dtype(dtype: Any) -> jnp.dtype:
    """float32 for float16 and bfloat16, otherwise the type itself."""
    dtype = jnp.dtype(dtype)
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


# --- when rows run, and what their steps start from


def _rows(problem: Problem, arrays: Arrays, t: Array) -> tuple[Array | None, Array | None]:
    """At times t [T]: which rows run there, and which are reset, [T, B]; None: all, and none."""
    runs = None if arrays.lengths is None else t[:, None] < arrays.lengths[None, :]
    if arrays.resets is None:
        return runs, None
    resets = arrays.resets if problem.time_major else arrays.resets.T
    return runs, resets if runs is None else resets & runs


def _zero_in_padding(problem: Problem, arrays: Arrays, x: Array) -> Array:
    """x with zeros past each row's length: a NaN there would reach gradients as 0 * NaN."""
    if arrays.lengths is None:
        return x
    steps = lax.broadcasted_iota(arrays.lengths.dtype, x.shape, problem.time_axis)
    runs = steps < lax.broadcast_in_dim(arrays.lengths, x.shape, (1 - problem.time_axis,))
    return lax.select(runs, x, lax.full_like(x, 0))


def _before(problem: Problem, arrays: Arrays, state: int, after: Array) -> Array:
    """The values of a state before each step, from those after each: one step earlier, the initial
    one at a row's first step, the reset state where it is reset."""
    axis, steps = problem.time_axis, after.shape[problem.time_axis]
    start = jnp.expand_dims(arrays.initial_state[state], axis).astype(after.dtype)
    if problem.directions == "forward":
        before = lax.concatenate([start, lax.slice_in_dim(after, 0, -1, axis=axis)], axis)
    else:
        before = lax.concatenate([lax.slice_in_dim(after, 1, None, axis=axis), start], axis)
        if arrays.lengths is not None:
            t = jnp.expand_dims(jnp.arange(steps, dtype=arrays.lengths.dtype), 1 - axis)
            is_first = t == jnp.expand_dims(arrays.lengths - 1, axis)
            before = jnp.where(jnp.expand_dims(is_first, 2), start, before)
    if arrays.resets is None:
        return before
    reset = jnp.zeros_like(start)
    if arrays.reset_state is not None:
        reset = jnp.expand_dims(arrays.reset_state[state], axis).astype(after.dtype)
    return jnp.where(jnp.expand_dims(arrays.resets, 2), reset, before)


def _kept_by_forward(problem: Problem, arrays: Arrays) -> tuple[States, Array, Array]:
    """Of every step: the states before it, the residuals, and h after it."""
    residuals = arrays.outputs[..., :0] if arrays.residuals is None else arrays.residuals
    after = [arrays.outputs]
    if len(problem.cell.states) > 1:  # the private states are the last of the residuals
        parts = jnp.split(residuals, problem.cell.residuals, axis=-1)
        after += parts[-(len(problem.cell.states) - 1) :]
    before = tuple(_before(problem, arrays, n, sequence) for n, sequence in enumerate(after))
    return before, residuals, arrays.outputs


def _reset_state(arrays: Arrays, states: States) -> States | None:
    if arrays.reset_state is None:
        return None
    return tuple(r.astype(s.dtype) for r, s in zip(arrays.reset_state, states, strict=True))


def _replaced(rows: Array | None, states: States, others: States | None) -> States:
    """`states`, but in these rows `others`, or zeros if that is None."""
    if rows is None:
        return states
    other = jax.tree.map(jnp.zeros_like, states) if others is None else others
    return tuple(jnp.where(rows[:, None], o, s) for s, o in zip(states, other, strict=True))


def _negated(rows: Array | None) -> Array | None:
    return None if rows is None else ~rows


def _zero_unless(rows: Array | None, value: Array) -> Array:
    return value if rows is None else jnp.where(rows[:, None], value, jnp.zeros_like(value))


# --- products, sums and the scan


def _scan(
    problem: Problem,
    arrays: Arrays,
    step: Callable[[Any, Any], Any],
    carry: Any,
    *sequences: Any,
    backwards: bool = False,
) -> Any:
    """Scans `step` over (which rows run and are reset, slices of `sequences`).

    In the recurrence's direction, or against it.
    """
    if not problem.time_major:
        sequences = jax.tree.map(lambda s: jnp.swapaxes(s, 0, 1), sequences)
    t = jnp.arange(jax.tree.leaves(sequences)[0].shape[0], dtype=jnp.int32)
    rows = _rows(problem, arrays, t)
    reverse = (problem.directions == "reverse") != backwards
    carry, ys = lax.scan(step, carry, (rows, *sequences), reverse=reverse)
    if not problem.time_major:
        ys = jax.tree.map(lambda s: jnp.swapaxes(s, 0, 1), ys)
    return carry, ys


def _product(x: Array, kernel: Array) -> Array:
    """x W over the last axis of x and the last but one of W, in the type of the sums."""
    wide = accumulation_dtype(x.dtype)
    over = (((2,), (kernel.ndim - 2,)), ((), ()))
    return lax.dot_general(x, kernel, over, preferred_element_type=wide)


def _sum_over_steps(left: Array, right: Array, *of_each: int) -> Array:
    """The sum over rows and steps of left^T right, for each index of the axes `of_each`."""
    wide = accumulation_dtype(left.dtype)
    over = (((0, 1), (0, 1)), (of_each, of_each))
    return lax.dot_general(left, right, over, preferred_element_type=wide).astype(left.dtype)


def _sum_of_rows(right: Array) -> Array:
    wide = accumulation_dtype(right.dtype)
    return jnp.sum(right, axis=(0, 1), dtype=wide).astype(right.dtype)


def _dot(a: Array, b: Array) -> Array:
    return lax.dot(a, b, preferred_element_type=accumulation_dtype(a.dtype))


def _widen(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(accumulation_dtype(a.dtype)), tree)
