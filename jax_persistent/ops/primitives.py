# SPDX-License-Identifier: Apache-2.0
"""The recurrence as differentiable primitives.

`forward_p` is the sequence. Its JVP rule gives the tangents as `tangent_p`, which is linear and
runs as the reference; reverse mode transposes that into `backward_p`. So `jax.grad` costs two
kernel launches, and `jax.jvp` and derivatives of any order are right, through the reference.
(`jax.custom_vjp` would refuse forward mode.)

`jax.vmap` over weights becomes more groups, `jax.vmap` over inputs more batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jax_persistent import compat
from jax_persistent.backends import reference
from jax_persistent.ops import lowering
from jax_persistent.ops.batching import Axes, empty, fold, maps_weights, unfold
from jax_persistent.problem import Arrays, Problem, joining
from jax_persistent.problem.operands import Leaf
from jax_persistent.problem.packed import check_constant

_KERNELS = ("input_kernel", "recurrent_kernel")


def forward(problem: Problem, arrays: Arrays) -> Arrays:
    """Runs a forward problem of one layer, whose arrays have no axis n, and d only for two.

    Without rows or steps there is nothing for a kernel to do, whatever the backend.
    """

    def added(leaf: Leaf) -> tuple[int, ...]:
        new = "n" if len(problem.ways) > 1 else "nd"
        return tuple(axis for axis, d in enumerate(problem.dims_of(leaf)) if d in new)

    operands = zip(problem.operands(), problem.flat(arrays), strict=True)
    flat = [jnp.expand_dims(array, added(leaf)) for leaf, array in operands]
    if 0 in arrays.x.shape:
        results = reference.run(problem, compat.match_varying_axes(*flat))
    else:
        results = _bind(forward_p, problem, flat)
    found = zip(problem.results(), results, strict=True)
    return problem.named_results([jnp.squeeze(array, added(leaf)) for leaf, array in found])


def _bind(primitive: Primitive, problem: Problem, flat: Sequence[Any]) -> list[Any]:
    return primitive.bind(*compat.match_varying_axes(*flat), problem=problem)


def _abstract(*avals: Any, problem: Problem) -> list[Any]:
    return [
        compat.result_aval(avals[0], problem.shape_of(leaf), jnp.dtype(problem.dtype_of(leaf)))
        for leaf in problem.results()
    ]


def _size_of(operands: Sequence[Any], axes: Axes) -> int:
    return next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)


def _batch(
    primitive: Primitive, operands: Sequence[Any], axes: Axes, *, problem: Problem
) -> tuple[Sequence[Any], Sequence[int]]:
    size = _size_of(operands, axes)
    if size == 0:
        return empty(problem)
    folded, arrays, into = fold(problem, size, operands, axes)
    return unfold(problem, size, _bind(primitive, folded, arrays), into)


def _batch_backward(
    operands: Sequence[Any], axes: Axes, *, problem: Problem
) -> tuple[Sequence[Any], Sequence[int]]:
    """Mapped data, shared weights: all examples are one batch, their weights' gradients apart."""
    shared = problem.has("d_weights") and not maps_weights(problem, axes)
    if not shared or _size_of(operands, axes) == 0:
        return _batch(backward_p, operands, axes, problem=problem)
    apart = jax.vmap(partial(_in_parts, problem), tuple(axes))(*operands)
    return apart, [0] * len(apart)


def _in_parts(problem: Problem, *flat: Array) -> list[Array]:
    """`backward_p` as the steps by themselves, and the sums of weight gradients after them."""
    parts = set(problem.parts) - {"d_weights", "d_bias", "d_recurrent_bias"} | {"d_gates"}
    if problem.cell.reset_after:
        parts.add("d_recurrent_gates")
    steps, arrays = problem.having("backward", parts), problem.arrays(flat)
    found = steps.named_results(_bind(backward_p, steps, steps.flat(arrays)))
    of_recurrent_gates = found.d_recurrent_gates
    if of_recurrent_gates is None:
        of_recurrent_gates = found.d_input_gates

    def sums(d_input_gates: Array, d_recurrent_gates: Array, *layer: Array) -> dict[str, Array]:
        operands = problem.arrays(layer)
        return reference.weight_gradients(problem, operands, d_input_gates, d_recurrent_gates)

    summed = reference.each_layer(sums, found.d_input_gates, of_recurrent_gates, *flat)
    return problem.flat_results(found | joining.cut(problem, summed))


def _primitive(name: str) -> Primitive:
    primitive = Primitive(f"jax_persistent_{name}")
    primitive.multiple_results = True
    primitive.def_impl(partial(compat.apply_primitive, primitive))
    primitive.def_abstract_eval(_abstract)
    batching.primitive_batchers[primitive] = partial(_batch, primitive)
    return primitive


forward_p = _primitive("forward")
tangent_p = _primitive("tangent")
backward_p = _primitive("backward")
batching.primitive_batchers[backward_p] = _batch_backward


def _without_residuals(used: Sequence[bool], equation: Any) -> tuple[list[bool], Any]:
    """`jax.checkpoint` runs the sequence a second time: nothing need be kept in the first run."""
    if not any(used):
        return [False] * len(equation.invars), None
    problem: Problem = equation.params["problem"]
    kept = [leaf.part != "residuals" for leaf in problem.results()]
    if all(kept) or any(u and not k for u, k in zip(used, kept, strict=True)):
        return [True] * len(equation.invars), equation
    left = [var for var, k in zip(equation.outvars, kept, strict=True) if k]
    less = problem.having("forward", set(problem.parts) - {"residuals"})
    return [True] * len(equation.invars), equation.replace(outvars=left, params={"problem": less})


compat.leave_out_unread(forward_p, _without_residuals)


def _forward_jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, problem: Problem
) -> tuple[list[Any], list[Any]]:
    if problem.packed_lanes:
        return _jvp_of_packed(primals, tangents, problem)
    kept = {"residuals"} if problem.cell.residuals else set()
    keeping = problem.having("forward", set(problem.parts) | kept)
    arrays, d = problem.arrays(primals), problem.arrays(tangents)
    results = keeping.named_results(_bind(forward_p, keeping, primals))
    of_tangent = problem.having("tangent", _differentiated(problem, d) | kept)
    operands = arrays | results | {f"d_{name}": tangent for name, tangent in d.items()}
    flat = list(map(_instantiate, of_tangent.flat(operands)))
    if problem.has_wide_states:  # of which only the values are wide
        flat = _in_types(of_tangent, of_tangent.operands(), flat)
    d_results = of_tangent.named_results(_bind(tangent_p, of_tangent, flat))
    of_results = {name.removeprefix("d_"): tangent for name, tangent in d_results.items()}
    d_flat = _in_types(problem, problem.results(), problem.flat_results(of_results))
    return problem.flat_results(results), d_flat


def _in_types(problem: Problem, leaves: Sequence[Leaf], flat: Sequence[Array]) -> list[Array]:
    """The arrays in the dtypes that a problem has for them."""
    dtypes = [jnp.dtype(problem.dtype_of(leaf)) for leaf in leaves]
    return [a if a.dtype == d else a.astype(d) for a, d in zip(flat, dtypes, strict=True)]


def _jvp_of_packed(
    primals: Sequence[Any], tangents: Sequence[Any], problem: Problem
) -> tuple[list[Any], list[Any]]:
    """Packed kernels are constants; what else is differentiated goes through the kernels."""
    d = problem.arrays(tangents)
    check_constant(_moves(d.input_kernel) or _moves(d.recurrent_kernel))
    plain, operands = reference.unpacked(problem, primals)
    zeros = {n: ad.Zero(jax.typeof(plain.arrays(operands)[n]).to_tangent_aval()) for n in _KERNELS}
    return _forward_jvp(operands, plain.flat(d | zeros), problem=plain)


def _differentiated(problem: Problem, d: Arrays) -> set[str]:
    """The parts of the tangent's problem: what is differentiated, and how rows run."""
    parts = {"lengths", "resets", "reset_state"} & set(problem.parts)
    if _moves(d.x):
        parts.add("d_x")
    if any(_moves(d[leaf.name]) for leaf in problem.operands() if leaf.is_weight):
        parts.add("d_weights")
        parts |= {f"d_{name}" for name in ("bias", "recurrent_bias") if problem.has(name)}
    return parts


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, ad.Zero)


def _moves(tangent: Any) -> bool:
    """Whether it is there and not zero; of several, whether one is."""
    if isinstance(tangent, tuple):
        return any(map(_moves, tangent))
    return tangent is not None and not _is_zero(tangent)


def _instantiate(tangent: Any) -> Any:
    return ad.instantiate_zeros(tangent) if _is_zero(tangent) else tangent


def _tangent_transpose(cotangents: Sequence[Any], *flat: Any, problem: Problem) -> list[Any]:
    linear = [ad.is_undefined_primal(a) for a in flat]
    ct = problem.named_results(cotangents)
    if _moves(ct.d_residuals):
        return _transpose_through_reference(cotangents, flat, linear, problem)
    of_backward = problem.having("backward", problem.parts)
    operands: Mapping[str, Any] = problem.arrays(flat) | {
        "d_outputs": ct.d_outputs,
        "d_final_state": ct.d_final_state,
    }
    given = list(map(_instantiate, of_backward.flat(operands)))
    gradients = of_backward.named_results(_bind(backward_p, of_backward, given))
    constants = problem.arrays([None] * len(flat))
    found = problem.flat(constants | gradients)
    return [d if is_linear else None for d, is_linear in zip(found, linear, strict=True)]


def _transpose_through_reference(
    cotangents: Sequence[Any], flat: Sequence[Any], linear: Sequence[bool], problem: Problem
) -> list[Any]:
    """Cotangents of residuals arise only where a derivative is itself differentiated."""

    def tangent(*moving: Array) -> list[Array]:
        left = iter(moving)
        full = [next(left) if moves else a for a, moves in zip(flat, linear, strict=True)]
        return reference.run(problem, full)

    anywhere = [
        ad.instantiate_zeros(ad.Zero(a.aval))
        for a, moves in zip(flat, linear, strict=True)
        if moves
    ]
    pull = jax.vjp(tangent, *anywhere)[1]
    moved = iter(pull(list(map(_instantiate, cotangents))))
    return [next(moved) if moves else None for moves in linear]


def _jvp_through_reference(
    primitive: Primitive, primals: Sequence[Any], tangents: Sequence[Any], *, problem: Problem
) -> tuple[Sequence[Any], Sequence[Any]]:
    moving = [leaf.is_element for leaf in problem.operands()]

    def run(*moved: Array) -> list[Array]:
        left = iter(moved)
        full = [next(left) if m else p for p, m in zip(primals, moving, strict=True)]
        return reference.run(problem, full)

    points = [p for p, m in zip(primals, moving, strict=True) if m]
    directions = [_instantiate(t) for t, m in zip(tangents, moving, strict=True) if m]
    _, d_results = jax.jvp(run, points, directions)
    return primitive.bind(*primals, problem=problem), d_results


ad.primitive_jvps[forward_p] = _forward_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
for _p in (tangent_p, backward_p):
    ad.primitive_jvps[_p] = partial(_jvp_through_reference, _p)

lowering.register(forward_p)
lowering.register(backward_p, _in_parts)
lowering.register_reference(tangent_p)
