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
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jax_persistent import compat
from jax_persistent.ffi import call
from jax_persistent.ops import lowering, reference
from jax_persistent.ops.batching import fold, unfold
from jax_persistent.ops.operands import (
    NO_INPUTS,
    NO_SAVED,
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
from jax_persistent.ops.spec import Backward, Problem, Result, Spec, Tangent


def recurrence(spec: Spec, problem: Problem) -> Result:
    """Runs one recurrence; `saved` is None, as it is the backward pass's own affair."""
    if spec.backend == "reference":
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
    folded, into = fold(dims(kind, spec, without), size, operands, axes)
    results = primitive.bind(*folded, spec=spec, without=without)
    return unfold(dims(RESULTS[kind], spec, without), size, results, into)


def _primitive(name: str, kind: type, function) -> Primitive:
    primitive = Primitive(f"jax_persistent_{name}")
    primitive.multiple_results = True
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("spec", "without")))
    primitive.def_abstract_eval(partial(_abstract, kind))
    batching.primitive_batchers[primitive] = partial(_batch, primitive, kind)
    fallback = run_reference if kind is Tangent else lowering.elsewhere
    rule = mlir.lower_fun(partial(fallback, kind, function), multiple_results=True)
    mlir.register_lowering(primitive, rule)
    return primitive


forward_p = _primitive("forward", Problem, reference.forward)
tangent_p = _primitive("tangent", Tangent, reference.tangent)
backward_p = _primitive("backward", Backward, reference.backward)

for _p, _kind, _function in (
    (forward_p, Problem, reference.forward),
    (backward_p, Backward, reference.backward),
):
    for _platform in call.PLATFORMS:
        _lowering = partial(lowering.native, _platform, _kind, _function)
        _rule = mlir.lower_fun(_lowering, multiple_results=True)
        mlir.register_lowering(_p, _rule, platform=_platform)


def _forward_jvp(primals, tangents, *, spec: Spec, without):
    problem = unflatten(Problem, spec, primals)
    result = _bind(forward_p, Problem, spec, problem)
    d = unflatten(Problem, spec, tangents)
    moves = not isinstance(d.x, ad.Zero)
    operands = Tangent(
        problem.input_kernel if moves else None,
        problem.recurrent_kernel,
        problem.lengths,
        problem.initial,
        result.outputs,
        result.saved,
        d.x if moves else None,
        _projected_tangent(spec, problem, d),
        _instantiate(d.recurrent_kernel),
        None if d.recurrent_bias is None else _instantiate(d.recurrent_bias),
        tuple(map(_instantiate, d.initial)),
    )
    d_result = _bind(tangent_p, Tangent, spec, operands, () if moves else NO_INPUTS)
    if without:
        result, d_result = result._replace(saved=None), d_result._replace(saved=None)
    return jax.tree.leaves(result), jax.tree.leaves(d_result)


def _projected_tangent(spec: Spec, problem: Problem, d: Problem) -> Array:
    """What the tangents of the input kernel and the bias add to every step's projected inputs."""

    def one(_, moved: tuple[Array, Array, Array]) -> Array:
        return reference.project(*moved)

    d_kernel, d_bias = _instantiate(d.input_kernel), _instantiate(d.bias)
    if isinstance(d.input_kernel, ad.Zero):
        wide = jnp.expand_dims(d_bias, (1, 2))
        return jnp.broadcast_to(wide, (*problem.x.shape[:3], d_bias.shape[-1]))
    return per_group(one, spec, (problem.x, d_kernel, d_bias))


def _tangent_transpose(cotangents, *flat, spec: Spec, without):
    linear = [ad.is_undefined_primal(a) for a in flat]
    of = names(Tangent, spec, without)
    ct = unflatten(Result, spec, cotangents)
    if ct.saved is not None and not isinstance(ct.saved, ad.Zero):
        return _transpose_through_reference(cotangents, flat, linear, spec, without)
    operands = unflatten(Tangent, spec, flat, without)
    ct = jax.tree.map(_instantiate, ct, is_leaf=lambda c: isinstance(c, ad.Zero))
    gradients = _bind(
        backward_p,
        Backward,
        spec,
        Backward(
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
    d_product = gradients.d_product
    if d_product is None:
        d_product = gradients.d_gates_x
    weights = (operands.outputs, operands.initial[0], operands.lengths, d_product)
    wanted = {name for name, is_linear in zip(of, linear, strict=True) if is_linear}
    found = {"d_x": gradients.d_x, "d_gates_x": gradients.d_gates_x}
    if "d_recurrent_kernel" in wanted:
        found["d_recurrent_kernel"] = per_group(_recurrent_gradient, spec, weights)
    if "d_recurrent_bias" in wanted:
        wide = reference.accumulation_dtype(d_product.dtype)
        d_bias = jnp.sum(d_product, axis=(1, 2), dtype=wide).astype(d_product.dtype)
        found["d_recurrent_bias"] = d_bias
    states = iter(gradients.d_initial)
    results = [next(states) if n == "d_initial" else found.get(n) for n in of]
    return [r if is_linear else None for r, is_linear in zip(results, linear, strict=True)]


def _recurrent_gradient(spec: Spec, operands) -> Array:
    """sum over steps of h_{t-1}^T d_product_t: [H, G*H]. Past a row's length d_product is 0."""
    outputs, h0, lengths, d_product = operands
    axis, steps = spec.time_axis, outputs.shape[spec.time_axis]
    kept = partial(lax.slice_in_dim, outputs, axis=axis)
    h0 = jnp.expand_dims(h0, axis)
    # The states are shifted, not the gradients, which have G times as many values.
    if spec.reverse:
        later = jnp.concatenate([kept(1, steps), h0], axis)
        t = jnp.expand_dims(jnp.arange(steps, dtype=lengths.dtype), 1 - axis)
        begins = t == jnp.expand_dims(lengths - 1, axis)
        previous = jnp.where(jnp.expand_dims(begins, 2), h0, later)
    else:
        previous = jnp.concatenate([h0, kept(0, steps - 1)], axis)
    over_rows_and_steps = (((0, 1), (0, 1)), ((), ()))
    wide = reference.accumulation_dtype(outputs.dtype)
    total = lax.dot_general(previous, d_product, over_rows_and_steps, preferred_element_type=wide)
    return total.astype(outputs.dtype)


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
    return ad.instantiate_zeros(tangent) if isinstance(tangent, ad.Zero) else tangent


ad.primitive_jvps[forward_p] = _forward_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_jvps[tangent_p] = partial(
    _jvp_through_reference, tangent_p, Tangent, reference.tangent
)
ad.primitive_jvps[backward_p] = partial(
    _jvp_through_reference, backward_p, Backward, reference.backward
)
