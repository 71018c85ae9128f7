"""The recurrence as differentiable primitives.

`forward_p` is the sequence. Its JVP rule gives the tangents as `tangent_p`, which is linear and
runs as the reference; reverse mode transposes that into `backward_p`, the backward kernel, and one
matrix product for the weights. So `jax.grad` costs two kernel launches, and `jax.jvp` and
derivatives of any order are right, through the reference. (`jax.custom_vjp` would refuse forward
mode.)

All operands have a leading axis N of independent groups, each with its own weights: `jax.vmap` over
weights becomes more groups, `jax.vmap` over inputs more batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jax_persistent import compat
from jax_persistent.ffi import call
from jax_persistent.ffi.sharding import partitioned, register
from jax_persistent.ops import reference
from jax_persistent.ops.batching import fold, unfold
from jax_persistent.ops.cells import CELLS
from jax_persistent.ops.spec import Backward, Gradients, Problem, Result, Spec, Tangent

# Dimensions by the name of a field: n groups, b batch, t time; h, g and s count features.
_DIMS = {
    **dict.fromkeys(("gates_x", "d_gates_x", "d_product"), "n b t g"),
    **dict.fromkeys(("outputs", "d_outputs"), "n b t h"),
    "saved": "n b t s",
    **dict.fromkeys(("recurrent_kernel", "d_recurrent_kernel"), "n h g"),
    **dict.fromkeys(("recurrent_bias", "d_recurrent_bias"), "n g"),
    "lengths": "n b",
    **dict.fromkeys(("initial", "final", "d_initial", "d_final"), "n b h"),
}


def recurrence(spec: Spec, problem: Problem) -> Result:
    """Runs one recurrence; `saved` is None, as it is the backward pass's own affair."""
    if spec.backend == "reference":
        return reference.forward(spec, problem)._replace(saved=None)
    grouped = jax.tree.map(lambda a: jnp.expand_dims(a, 0), problem)
    result = _bind(forward_p, spec, grouped, save=False)
    return jax.tree.map(lambda a: jnp.squeeze(a, 0), result)


# Operands and results travel through primitives as flat lists; these are their shapes as trees.


def _tree(kind: Any, spec: Spec, *, save: bool = True) -> Any:
    """A `kind` whose leaves are the names of their fields, None where this cell has none."""
    cell = spec.cell
    absent = set()
    if not cell.separate_recurrent_gradient:
        absent |= {"recurrent_bias", "d_recurrent_bias", "d_product"}
    if not (cell.saved and save):
        absent.add("saved")
    per_state = {"initial", "final", "d_initial", "d_final"}
    return kind(
        **{
            name: None
            if name in absent
            else (name,) * len(cell.states)
            if name in per_state
            else name
            for name in kind._fields
        }
    )


def _unflatten(kind: type, spec: Spec, leaves: Any, *, save: bool = True) -> Any:
    return jax.tree.unflatten(jax.tree.structure(_tree(kind, spec, save=save)), leaves)


def _names(kind: type, spec: Spec, *, save: bool = True) -> list[str]:
    return jax.tree.leaves(_tree(kind, spec, save=save))


def _dims(kind: type, spec: Spec, *, save: bool = True) -> list[str]:
    """The dimensions of each leaf, in the order in which they are in memory."""
    dims = [_DIMS[name] for name in _names(kind, spec, save=save)]
    return [d.replace("b t", "t b") for d in dims] if spec.time_major else dims


def _bind(primitive: Primitive, spec: Spec, operands: Any, **params: Any) -> Any:
    flat = compat.match_varying_axes(*jax.tree.leaves(operands))
    results = primitive.bind(*flat, spec=spec, **params)
    return _unflatten(_RESULTS[primitive], spec, results, save=params.get("save", True))


def _per_group(function, spec: Spec, operands: Any) -> Any:
    """Runs a one-problem function over the group axis."""
    if jax.tree.leaves(operands)[0].shape[0] == 1:
        result = function(spec, jax.tree.map(lambda a: jnp.squeeze(a, 0), operands))
        return jax.tree.map(lambda a: jnp.expand_dims(a, 0), result)
    return jax.vmap(partial(function, spec))(operands)


def _reference(kind: type, function, *flat: Array, spec: Spec, save: bool = True) -> list[Array]:
    result = _per_group(function, spec, _unflatten(kind, spec, flat))
    if not save:
        result = result._replace(saved=None)
    return jax.tree.leaves(result)


def _abstract(kind: type, like: str, *avals, spec: Spec, save: bool = True) -> list[Any]:
    """Result types of a primitive with operands `kind`; `like` names its widest sequence."""
    operands = _unflatten(kind, spec, avals)
    hidden = operands.recurrent_kernel.shape[1]
    sequence = getattr(operands, like)
    widths = {
        "outputs": hidden,
        "saved": spec.cell.saved * hidden,
        "d_gates_x": spec.cell.gates * hidden,
        "d_product": spec.cell.gates * hidden,
    }
    return [
        compat.result_aval(sequence, (*sequence.shape[:-1], widths[name]))
        if name in widths
        else compat.result_aval(operands.initial[0], operands.initial[0].shape)
        for name in _names(_RESULTS_OF[kind], spec, save=save)
    ]


def _batch(primitive: Primitive, kind: type, operands, axes, *, spec: Spec, **params: Any):
    (size,) = {o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None}
    folded, into = fold(_dims(kind, spec), size, operands, axes)
    results = primitive.bind(*folded, spec=spec, **params)
    of_results = _dims(_RESULTS_OF[kind], spec, save=params.get("save", True))
    return unfold(of_results, size, results, into)


def _native(
    platform: str, kind: type, target: str, function, *flat: Array, spec: Spec, save: bool = True
):
    """The kernel, or the reference where there is none and the caller left us the choice."""
    operands = _unflatten(kind, spec, flat)
    (groups, hidden, _), dtype = operands.recurrent_kernel.shape, operands.recurrent_kernel.dtype
    batch = operands.lengths.shape[1]
    sizes = call.Sizes(spec.cell.name, target, dtype, groups, batch, hidden, spec.tf32)
    reason = call.refusal(platform, sizes)
    if reason is not None:
        if spec.backend == "native":
            message = f"backend='native': {reason}. Use backend=None or 'reference'"
            raise NotImplementedError(message)
        return _reference(kind, function, *flat, spec=spec, save=save)
    static = {
        "platform": platform,
        "target": target,
        "cell": spec.cell.name,
        "reverse": spec.reverse,
        "time_major": spec.time_major,
        "tf32": spec.tf32,
        "exchange": call.cuda_exchange(),
        "save": save,
    }
    dims = _dims(kind, spec), _dims(_RESULTS_OF[kind], spec, save=save)
    return partitioned("recurrence", static, *dims)(*flat)


def _kernel(static: Mapping[str, Any], *local: Array) -> list[Array]:
    """The custom call, on the whole problem or on one device's part of it."""
    target, save = static["target"], static["save"]
    spec = Spec(CELLS[static["cell"]], static["reverse"], static["time_major"])
    kind, like = (Problem, "gates_x") if target == call.FORWARD else (Backward, "outputs")
    shapes = _abstract(kind, like, *map(jax.typeof, local), spec=spec, save=save)
    attributes = call.attributes(static["platform"], static)
    return call.kernel_call(target, local, shapes, attributes)


register("recurrence", _kernel)


def _refuse_or_reference(kind: type, function, *flat: Array, spec: Spec, save: bool = True):
    if spec.backend == "native":
        raise NotImplementedError(
            "backend='native': no kernel for this platform; kernels exist for "
            f"{', '.join(call.PLATFORMS)}. Use backend=None or 'reference'"
        )
    return _reference(kind, function, *flat, spec=spec, save=save)


def _primitive(name: str, kind: type, like: str, function, static: tuple[str, ...]) -> Primitive:
    primitive = Primitive(f"jax_persistent_{name}")
    primitive.multiple_results = True
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=static))
    primitive.def_abstract_eval(partial(_abstract, kind, like))
    batching.primitive_batchers[primitive] = partial(_batch, primitive, kind)
    fallback = _reference if kind is Tangent else _refuse_or_reference
    rule = mlir.lower_fun(partial(fallback, kind, function), multiple_results=True)
    mlir.register_lowering(primitive, rule)
    return primitive


_RESULTS_OF = {Problem: Result, Tangent: Result, Backward: Gradients}

forward_p = _primitive("forward", Problem, "gates_x", reference.forward, ("spec", "save"))
tangent_p = _primitive("tangent", Tangent, "outputs", reference.tangent, ("spec",))
backward_p = _primitive("backward", Backward, "outputs", reference.backward, ("spec",))

_RESULTS = {forward_p: Result, tangent_p: Result, backward_p: Gradients}

for _p, _kind, _target, _function in (
    (forward_p, Problem, call.FORWARD, reference.forward),
    (backward_p, Backward, call.BACKWARD, reference.backward),
):
    for _platform in call.PLATFORMS:
        _lowering = partial(_native, _platform, _kind, _target, _function)
        _rule = mlir.lower_fun(_lowering, multiple_results=True)
        mlir.register_lowering(_p, _rule, platform=_platform)


def _forward_jvp(primals, tangents, *, spec: Spec, save: bool):
    problem = _unflatten(Problem, spec, primals)
    result = _bind(forward_p, spec, problem, save=True)
    d = _unflatten(Problem, spec, [_instantiate(t) for t in tangents])
    operands = Tangent(
        problem.recurrent_kernel,
        problem.lengths,
        problem.initial,
        result.outputs,
        result.saved,
        d.gates_x,
        d.recurrent_kernel,
        d.recurrent_bias,
        d.initial,
    )
    d_result = _bind(tangent_p, spec, operands)
    if not save:
        result, d_result = result._replace(saved=None), d_result._replace(saved=None)
    return jax.tree.leaves(result), jax.tree.leaves(d_result)


def _tangent_transpose(cotangents, *flat, spec: Spec):
    linear = [ad.is_undefined_primal(a) for a in flat]
    names = _names(Tangent, spec)
    ct = _unflatten(Result, spec, cotangents)
    if ct.saved is not None and not isinstance(ct.saved, ad.Zero):
        return _transpose_through_reference(cotangents, flat, linear, spec)
    operands = _unflatten(Tangent, spec, flat)
    ct = jax.tree.map(_instantiate, ct, is_leaf=lambda c: isinstance(c, ad.Zero))
    gradients = _bind(
        backward_p,
        spec,
        Backward(
            operands.recurrent_kernel,
            operands.lengths,
            operands.initial,
            operands.outputs,
            operands.saved,
            ct.outputs,
            ct.final,
        ),
    )
    d_product = gradients.d_product
    if d_product is None:
        d_product = gradients.d_gates_x
    weights = (operands.outputs, operands.initial[0], operands.lengths, d_product)
    wanted = {name for name, is_linear in zip(names, linear, strict=True) if is_linear}
    d_kernel = d_bias = None
    if "d_recurrent_kernel" in wanted:
        d_kernel = _per_group(_kernel_gradient, spec, weights)
    if "d_recurrent_bias" in wanted:
        wide = reference.accumulation_dtype(d_product.dtype)
        d_bias = jnp.sum(d_product, axis=(1, 2), dtype=wide).astype(d_product.dtype)
    found = {"d_gates_x": gradients.d_gates_x, "d_recurrent_kernel": d_kernel}
    found["d_recurrent_bias"] = d_bias
    states = iter(gradients.d_initial)
    results = [next(states) if n == "d_initial" else found.get(n) for n in names]
    return [r if is_linear else None for r, is_linear in zip(results, linear, strict=True)]


def _kernel_gradient(spec: Spec, operands) -> Array:
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


def _transpose_through_reference(cotangents, flat, linear, spec: Spec):
    """Cotangents of `saved` arise only where a derivative is itself differentiated."""
    cotangents = [_instantiate(c) for c in cotangents]

    def tangent(*moving):
        left = iter(moving)
        full = [next(left) if moves else a for a, moves in zip(flat, linear, strict=True)]
        return _reference(Tangent, reference.tangent, *full, spec=spec)

    anywhere = [
        jnp.zeros(a.aval.shape, a.aval.dtype)
        for a, moves in zip(flat, linear, strict=True)
        if moves
    ]
    moved = iter(jax.vjp(tangent, *compat.match_varying_axes(*anywhere))[1](cotangents))
    return [next(moved) if moves else None for moves in linear]


def _jvp_through_reference(primitive: Primitive, kind: type, function, primals, tangents, *, spec):
    names = _names(kind, spec)
    moving = [name != "lengths" for name in names]

    def run(*moved):
        left = iter(moved)
        full = [next(left) if m else p for p, m in zip(primals, moving, strict=True)]
        return _reference(kind, function, *full, spec=spec)

    points = [p for p, m in zip(primals, moving, strict=True) if m]
    directions = [_instantiate(t) for t, m in zip(tangents, moving, strict=True) if m]
    _, d_results = jax.jvp(run, points, directions)
    return primitive.bind(*primals, spec=spec), d_results


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
