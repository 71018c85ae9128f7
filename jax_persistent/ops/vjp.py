"""The recurrence as differentiable primitives.

`forward_p` is the sequence. Its JVP rule gives the tangents as `tangent_p`, which is linear and
runs as the reference; reverse mode transposes that into `backward_p`, the backward kernel, and one
matrix product for each kernel of weights. So `jax.grad` costs two kernel launches, and `jax.jvp`
and derivatives of any order are right, through the reference. (`jax.custom_vjp` would refuse
forward mode.)

`jax.vmap` over weights becomes more groups, `jax.vmap` over inputs more batch.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, partial_eval

from jax_persistent import compat
from jax_persistent.ops import reference
from jax_persistent.ops.batching import BATCH, fold, of_none, unfold
from jax_persistent.ops.lowering import register_backward, register_lowerings
from jax_persistent.ops.operands import (
    NO_INPUTS,
    NO_SAVED,
    NO_WEIGHTS,
    RESULTS,
    add_group,
    dims,
    drop_group,
    names,
    per_group,
    result_avals,
    run_reference,
    unflatten,
)
from jax_persistent.ops.spec import (
    Backward,
    BackwardSteps,
    Gradients,
    Problem,
    Result,
    Spec,
    Tangent,
)


def recurrence(spec: Spec, problem: Problem) -> Result:
    """Runs one recurrence; `saved` is None, as it is the backward pass's own affair.

    Without rows or steps there is nothing for a kernel to do, whatever the backend.
    """
    if spec.backend == "reference" or 0 in problem.x.shape:
        return reference.forward(spec, problem)._replace(saved=None)
    if problem.bias is None:
        zeros = lax.full(problem.recurrent_kernel.shape[1:], 0, problem.x.dtype)
        problem = problem._replace(bias=zeros)
    return drop_group(_bind(forward_p, Problem, spec, add_group(problem), NO_SAVED))


def _bind(primitive: Primitive, kind: type, spec: Spec, operands, without: tuple[str, ...] = ()):
    flat = compat.match_varying_axes(*jax.tree.leaves(operands))
    results = primitive.bind(*flat, spec=spec, without=without)
    return unflatten(RESULTS[kind], spec, results, without)


def _abstract(kind: type, *avals, spec: Spec, without: tuple[str, ...]):
    return result_avals(kind, avals, spec, without)


def _batch(primitive: Primitive, kind: type, operands, axes, *, spec: Spec, without):
    (size,) = {o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None}
    if size == 0:
        return of_none(partial(primitive.bind, spec=spec, without=without), operands, axes)
    folded, into = fold(dims(kind, spec, without), size, operands, axes)
    results = primitive.bind(*folded, spec=spec, without=without)
    return unfold(dims(RESULTS[kind], spec, without), size, results, into)


def _batch_backward(operands, axes, *, spec: Spec, without):
    """With shared weights, their gradients are apart, but the steps are one larger batch still."""
    letters = dims(Backward, spec, without)
    if any(BATCH not in d.split() and a is not None for d, a in zip(letters, axes, strict=True)):
        return _batch(backward_p, Backward, operands, axes, spec=spec, without=without)
    apart = jax.vmap(partial(_in_parts, spec, without), tuple(axes))(*operands)
    return apart, [0] * len(apart)


def _in_parts(spec: Spec, without, *flat):
    """`backward_p` as the recurrence by itself and products after it."""
    operands = unflatten(Backward, spec, flat, without)
    kept = tuple(name for name in without if name in NO_INPUTS)
    steps = _bind(steps_p, BackwardSteps, spec, BackwardSteps(*operands[1:]), kept)

    def sums(spec, both) -> Gradients:
        return reference.sum_weights(spec, *both)

    return jax.tree.leaves(per_group(sums, spec, (operands, steps)))


def _primitive(name: str, kind: type) -> Primitive:
    primitive = Primitive(f"jax_persistent_{name}")
    primitive.multiple_results = True
    primitive.def_impl(compat.compiled_by_itself(primitive))
    primitive.def_abstract_eval(partial(_abstract, kind))
    batching.primitive_batchers[primitive] = partial(_batch, primitive, kind)
    return primitive


forward_p = _primitive("forward", Problem)
tangent_p = _primitive("tangent", Tangent)
backward_p = _primitive("backward", Backward)
steps_p = _primitive("backward_steps", BackwardSteps)

batching.primitive_batchers[backward_p] = _batch_backward
_rule = mlir.lower_fun(partial(run_reference, Tangent, reference.tangent), multiple_results=True)
mlir.register_lowering(tangent_p, _rule)
register_lowerings(forward_p, Problem, reference.forward)
register_lowerings(steps_p, BackwardSteps, reference.backward_steps)
register_backward(backward_p, _in_parts)


def _drop_saved(used, equation):
    """`jax.checkpoint` runs the sequence a second time: nothing need be saved in the first run."""
    if not any(used):
        return [False] * len(equation.invars), None
    spec, without = equation.params["spec"], equation.params["without"]
    kept = [name != "saved" for name in names(Result, spec, without)]
    if all(kept) or any(u and not k for u, k in zip(used, kept, strict=True)):
        return [True] * len(equation.invars), equation
    left = [var for var, k in zip(equation.outvars, kept, strict=True) if k]
    params = equation.params | {"without": NO_SAVED}
    return [True] * len(equation.invars), equation.replace(outvars=left, params=params)


partial_eval.dce_rules[forward_p] = _drop_saved


def _forward_jvp(primals, tangents, *, spec: Spec, without):
    problem = unflatten(Problem, spec, primals)
    result = _bind(forward_p, Problem, spec, problem)
    d = unflatten(Problem, spec, tangents)
    constant: tuple[str, ...] = () if _moves(d.x) else NO_INPUTS
    of_weights = d.input_kernel, d.bias, d.recurrent_kernel, d.recurrent_bias
    if not any(map(_moves, of_weights)):
        constant += NO_WEIGHTS
    operands = Tangent(
        problem.x,
        problem.input_kernel,
        problem.recurrent_kernel,
        problem.lengths,
        problem.initial,
        result.outputs,
        result.saved,
        d.x,
        *of_weights,
        d.initial,
    )
    operands = operands._replace(**dict.fromkeys(constant))  # type: ignore[arg-type]
    operands = jax.tree.map(_instantiate, operands, is_leaf=_is_zero)
    d_result = _bind(tangent_p, Tangent, spec, operands, constant)
    if without:
        result, d_result = result._replace(saved=None), d_result._replace(saved=None)
    return jax.tree.leaves(result), jax.tree.leaves(d_result)


def _is_zero(tangent) -> bool:
    return isinstance(tangent, ad.Zero)


def _moves(tangent) -> bool:
    return tangent is not None and not _is_zero(tangent)


def _tangent_transpose(cotangents, *flat, spec: Spec, without):
    linear = [ad.is_undefined_primal(a) for a in flat]
    of = names(Tangent, spec, without)
    ct = unflatten(Result, spec, cotangents)
    if _moves(ct.saved):
        return _transpose_through_reference(cotangents, flat, linear, spec, without)
    operands = unflatten(Tangent, spec, flat, without)
    ct = jax.tree.map(_instantiate, ct, is_leaf=_is_zero)
    gradients = _bind(
        backward_p,
        Backward,
        spec,
        Backward(
            operands.x,
            operands.input_kernel,
            operands.recurrent_kernel,
            operands.lengths,
            operands.initial,
            operands.outputs,
            operands.saved,
            ct.outputs,
            ct.final,
        ),
        without,
    )
    states = iter(gradients.d_initial)
    found = gradients._asdict()
    results = [next(states) if n == "d_initial" else found.get(n) for n in of]
    return [r if is_linear else None for r, is_linear in zip(results, linear, strict=True)]


def _transpose_through_reference(cotangents, flat, linear, spec: Spec, without):
    """Cotangents of `saved` arise only where a derivative is itself differentiated."""
    cotangents = [_instantiate(c) for c in cotangents]

    def tangent(*moving):
        left = iter(moving)
        full = [next(left) if moves else a for a, moves in zip(flat, linear, strict=True)]
        return run_reference(Tangent, reference.tangent, *full, spec=spec, without=without)

    anywhere = [
        jnp.zeros(a.aval.shape, a.aval.dtype)
        for a, moves in zip(flat, linear, strict=True)
        if moves
    ]
    moved = iter(jax.vjp(tangent, *compat.match_varying_axes(*anywhere))[1](cotangents))
    return [next(moved) if moves else None for moves in linear]


def _jvp_through_reference(
    primitive: Primitive, kind: type, function, primals, tangents, *, spec, without
):
    moving = [name != "lengths" for name in names(kind, spec, without)]

    def run(*moved):
        left = iter(moved)
        full = [next(left) if m else p for p, m in zip(primals, moving, strict=True)]
        return run_reference(kind, function, *full, spec=spec, without=without)

    points = [p for p, m in zip(primals, moving, strict=True) if m]
    directions = [_instantiate(t) for t, m in zip(tangents, moving, strict=True) if m]
    _, d_results = jax.jvp(run, points, directions)
    return primitive.bind(*primals, spec=spec, without=without), d_results


def _instantiate(tangent):
    return ad.instantiate_zeros(tangent) if _is_zero(tangent) else tangent


ad.primitive_jvps[forward_p] = _forward_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
for _p, _kind, _function in (
    (tangent_p, Tangent, reference.tangent),
    (backward_p, Backward, reference.backward),
    (steps_p, BackwardSteps, reference.backward_steps),
):
    ad.primitive_jvps[_p] = partial(_jvp_through_reference, _p, _kind, _function)
