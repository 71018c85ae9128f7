# SPDX-License-Identifier: Apache-2.0
"""A scan of a plain step as a differentiable primitive.

`scan_p` has the operands (consts, init, xs) and the results (carry, ys), in the plain layout of
step.py: consts [G?, B?, ..], init and carry [G, B, ..], xs [T, G?, B?, ..], ys [T, G, B, ..]. Its
JVP gives the tangents as `tangent_p`, which is linear and runs as a `lax.scan`; reverse mode
transposes that into a scan of the backward step. `jax.vmap` adds groups where matrices are mapped,
and rows where they are not. The consts that `packed` names are the panels of matrices that
`jax_persistent.pack` has packed; a derivative unpacks them first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jax_persistent import compat, notices
from jax_persistent.ops.batching import folded, unfolded
from jax_persistent.problem.packed import PackedKernel, check_constant
from jax_persistent.programs import derivative, jaxprs
from jax_persistent.programs.rows import Unfit
from jax_persistent.programs.step import Step
from jax_persistent.programs.weight_gradients import outer_products

Flags = tuple[tuple[bool, bool], ...]  # of each operand: whether it has groups, and rows
Packed = tuple[tuple[int, int], ...]  # consts that are packed, and for vectors of how many lanes
_ALL = (True, True)


def _features(step: Step, n: int) -> tuple[int, ...]:
    return tuple(step.row.jaxpr.invars[n].aval.shape)


def sizes(step: Step, operands: Sequence[Any]) -> tuple[int, int]:
    """Groups and rows."""
    return operands[step.consts].shape[:2]


def kernels(step: Step, operands: Sequence[Any], packed: Packed) -> dict[int, PackedKernel]:
    """The consts that are packed, by their place."""
    found = {}
    for n, lanes in packed:
        rows, columns = _features(step, n)
        found[n] = PackedKernel(operands[n], 1, rows, columns, lanes)
    return found


def unpacked(step: Step, operands: Sequence[Any], packed: Packed) -> list[Any]:
    """All operands, the consts that are packed as they were before."""
    found = kernels(step, operands, packed)
    return [found[n].unpacked() if n in found else o for n, o in enumerate(operands)]


def reference(
    operands: Sequence[Any],
    *,
    step: Step,
    flags: Flags,
    steps: int,
    reverse: bool,
    packed: Packed = (),
) -> list[Array]:
    """The scan as a `lax.scan`."""
    operands = unpacked(step, operands, packed)
    consts, carry = step.consts, step.carry
    run = jaxprs.function_of(step.row)
    single = sizes(step, operands)[0] == 1
    if single:  # an axis of one group slows XLA's products
        at = [int(n >= consts + carry) for n in range(len(operands))]
        operands = [
            lax.squeeze(o, [n]) if f[0] else o for o, f, n in zip(operands, flags, at, strict=True)
        ]
    for axis in (1,) if single else (1, 0):
        run = jax.vmap(run, [0 if f[axis] else None for f in flags])

    def body(state: list[Array], x: list[Array]) -> tuple[list[Array], list[Array]]:
        found = run(*operands[:consts], *state, *x)
        return list(found[:carry]), list(found[carry:])

    init, xs = list(operands[consts : consts + carry]), list(operands[consts + carry :])
    final, ys = lax.scan(body, init, xs, length=steps, reverse=reverse)
    if single:
        final, ys = [lax.expand_dims(c, [0]) for c in final], [lax.expand_dims(y, [1]) for y in ys]
    return [*final, *ys]


def linearised(
    operands: Sequence[Any], tangents: Sequence[Any], *, step: Step, flags: Flags, **how: Any
) -> list[Array]:
    """The tangents of float results, given those of float operands; runs the scan once more."""
    count, consts, carry = len(operands), step.consts, step.carry
    avals = jaxprs.avals_of(step.row.jaxpr.invars)
    moves = [n for n in range(count) if derivative.is_float(avals[n])]
    outs = jaxprs.avals_of(step.row.jaxpr.outvars)
    gives = [n for n in range(len(outs)) if derivative.is_float(outs[n])]
    primal, linear = jaxprs.function_of(step.row), jaxprs.function_of(step.tangent)
    moved = dict(zip(moves, tangents, strict=True))

    def both(values: dict[int, Any], d_values: dict[int, Any]) -> tuple[list[Array], list[Array]]:
        flat = [values[n] for n in range(count)]
        return primal(*flat), linear(*flat, *(d_values[n] for n in moves))

    axes: Any = both
    for axis in (1, 0):
        mapped = {n: 0 if flags[n][axis] else None for n in range(count)}
        axes = jax.vmap(axes, (mapped, {n: mapped[n] for n in moves}))

    def part(low: int, high: int, of: Any) -> dict[int, Any]:
        return {n: of[n] for n in range(low, high) if n in of}

    whole = dict(enumerate(operands))

    def body(state: Any, x: Any) -> Any:
        values = part(0, consts, whole) | state[0] | x[0]
        d_values = part(0, consts, moved) | state[1] | x[1]
        found, d_found = axes(values, d_values)
        d_results = dict(zip(gives, d_found, strict=True))
        after = {consts + n: found[n] for n in range(carry)}
        d_after = {consts + n: d_results[n] for n in range(carry) if n in d_results}
        return (after, d_after), [d_results[n] for n in gives if n >= carry]

    of_carry, of_xs = (consts, consts + carry), (consts + carry, count)
    init = part(*of_carry, whole), part(*of_carry, moved)
    (_, d_carry), d_ys = lax.scan(
        body,
        init,
        (part(*of_xs, whole), part(*of_xs, moved)),
        length=how["steps"],
        reverse=how["reverse"],
    )
    return [*(d_carry[n] for n in sorted(d_carry)), *d_ys]


# --- the primitive


def result_types(*avals: Any, step: Step, steps: int, **how: Any) -> list[Any]:
    del how
    groups, rows = sizes(step, avals)
    found = []
    for n, v in enumerate(step.row.jaxpr.outvars):
        shape = (groups, rows, *v.aval.shape)
        shape = shape if n < step.carry else (steps, *shape)
        found.append(compat.result_aval(avals[step.consts], shape, v.aval.dtype))
    return found


def bind(operands: Sequence[Any], *, packed: Packed = (), **how: Any) -> list[Any]:
    return scan_p.bind(*compat.match_varying_axes(*operands), packed=packed, **how)


def _how(step: Step, flags: Flags, how: dict[str, Any]) -> dict[str, Any]:
    return {**how, "step": step, "flags": flags}


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, packed: Packed, **how: Any
) -> tuple[Any, Any]:
    step: Step = how["step"]
    check_constant(any(type(tangents[n]) is not ad.Zero for n, _ in packed))
    primals, tangents = unpacked(step, primals, packed), list(tangents)
    for n, _ in packed:
        tangents[n] = ad.Zero(jax.typeof(primals[n]).to_tangent_aval())
    try:
        keeping = step.backward.forward
    except Unfit as unfit:
        return _jvp_through_scan(unfit, primals, tangents, **how)
    results = bind(primals, **_how(keeping, how["flags"], how))
    own = len(step.row.jaxpr.outvars)
    results, kept = results[:own], results[own:]
    moving = tuple(n for n, t in enumerate(tangents) if type(t) is not ad.Zero)
    d_flat = tangent_p.bind(
        *compat.match_varying_axes(*primals, *kept, *(tangents[n] for n in moving)),
        moving=moving,
        **how,
    )
    given, d_results = iter(d_flat), []
    for v, r in zip(step.row.jaxpr.outvars, results, strict=True):
        moves = derivative.is_float(v.aval)
        d_results.append(next(given) if moves else ad.Zero(jax.typeof(r).to_tangent_aval()))
    return results, d_results


def _jvp_through_scan(
    unfit: Unfit, primals: Sequence[Any], tangents: Sequence[Any], *, backend: Any, **how: Any
) -> tuple[Any, Any]:
    """Where a derivative has no program: that of the `lax.scan`."""
    if backend == "native":
        raise NotImplementedError(
            f"backend='native': its gradient: {unfit}. Use backend=None or 'reference'"
        )
    notices.inform("the gradient of a jax_persistent.scan is that of a lax.scan", str(unfit))
    return _jvp_of_floats(lambda *full: reference(full, **how), primals, tangents)


def _jvp_of_floats(
    function: Callable[..., list[Array]], primals: Sequence[Any], tangents: Sequence[Any]
) -> tuple[Any, Any]:
    """`jax.jvp` of a function of which some operands are no floats."""
    floats = [n for n, p in enumerate(primals) if derivative.is_float(jax.typeof(p))]

    def run(*moved: Any) -> list[Array]:
        given = dict(zip(floats, moved, strict=True))
        return function(*(given.get(n, p) for n, p in enumerate(primals)))

    directions = [ad.instantiate_zeros(tangents[n]) for n in floats]
    return jax.jvp(run, [primals[n] for n in floats], directions)


def _split_tangent(flat: Sequence[Any], step: Step, moving: Sequence[int]) -> tuple[Any, ...]:
    """Operands, kept values and tangents of `tangent_p`."""
    operands = len(step.row.jaxpr.invars)
    at = len(flat) - len(moving)
    return flat[:operands], flat[operands:at], flat[at:]


def _tangent(*flat: Any, step: Step, moving: tuple[int, ...], **how: Any) -> list[Array]:
    how.pop("backend")
    operands, _, tangents = _split_tangent(flat, step, moving)
    given = dict(zip(moving, tangents, strict=True))
    floats = [
        given[n] if n in given else jnp.zeros(o.shape, o.dtype)
        for n, (o, v) in enumerate(zip(operands, step.row.jaxpr.invars, strict=True))
        if derivative.is_float(v.aval)
    ]
    return linearised(operands, floats, step=step, **how)


def _tangent_abstract(*avals: Any, moving: tuple[int, ...], **how: Any) -> list[Any]:
    step = how["step"]
    operands, _, _ = _split_tangent(avals, step, moving)
    whole = result_types(*operands, **how)
    return [a for a in whole if derivative.is_float(a)]


def _tangent_jvp(primals: Sequence[Any], tangents: Sequence[Any], **how: Any) -> tuple[Any, Any]:
    return _jvp_of_floats(partial(_tangent, **how), primals, tangents)


def _transpose(cotangents: Sequence[Any], *flat: Any, moving: tuple[int, ...], **how: Any) -> Any:
    step, flags = how["step"], how["flags"]
    operands, kept, _ = _split_tangent(flat, step, moving)
    row, plan = step.backward, step.backward.plan
    groups, rows = sizes(step, operands)
    given = list(map(ad.instantiate_zeros, cotangents))
    outs = jaxprs.avals_of(step.row.jaxpr.outvars)
    float_carry = sum(derivative.is_float(a) for a in outs[: step.carry])
    d_carry, d_ys = given[:float_carry], given[float_carry:]
    consts, xs = operands[: step.consts], operands[step.consts + step.carry :]
    backward = row.backward
    first = len(plan.read_consts) + float_carry
    zeros = [
        jnp.zeros((groups, rows, *v.aval.shape), v.aval.dtype)
        for v in backward.row.jaxpr.invars[first : first + row.same_as.count(None)]
    ]
    flat_in = [*(consts[n] for n in plan.read_consts), *d_carry, *zeros, *kept]
    flat_in += [*(xs[n] for n in plan.read_xs), *d_ys]
    how = {**how, "reverse": not how["reverse"]}
    found = bind(flat_in, **_how(backward, backward_flags(step, flags), how))
    d_init, found = found[:float_carry], found[float_carry:]
    in_carry, found = iter(found[: len(zeros)]), found[len(zeros) :]
    sums = [
        _summed(next(in_carry), flags[n], 0)
        if same is None
        else _summed_steps(found[same], flags[n])
        for n, same in zip(plan.moving_consts, row.same_as, strict=True)
    ]
    floats_xs = [
        n
        for n in range(step.consts + step.carry, len(operands))
        if derivative.is_float(step.row.jaxpr.invars[n].aval)
    ]
    d_xs, found = found[: len(floats_xs)], found[len(floats_xs) :]
    d_products, again = found[: len(plan.products)], iter(found[len(plan.products) :])
    factors = [kept[f] if f is not None else next(again) for f in plan.factors]

    gradients: dict[int, Any] = {}

    def add(n: int, gradient: Any) -> None:
        gradients[n] = gradient if n not in gradients else gradients[n] + gradient

    for n, gradient in zip(plan.moving_consts, sums, strict=True):
        add(n, gradient.reshape(_shape(step, flags[n], n, groups, rows)))
    float_init = [
        n
        for n in range(step.consts, step.consts + step.carry)
        if derivative.is_float(step.row.jaxpr.invars[n].aval)
    ]
    for n, gradient in zip(float_init, d_init, strict=True):
        add(n, gradient)
    for n, gradient in zip(floats_xs, d_xs, strict=True):
        add(n, _summed(gradient, flags[n], 1))
    for product, factor, d_product in zip(step.products, factors, d_products, strict=True):
        if product.const in moving:
            n = product.const
            add(n, _matrix_gradient(step, n, product, factor, d_product, flags[n]))
    return [
        *[None] * (len(flat) - len(moving)),
        *(gradients[n].astype(operands[n].dtype) for n in moving),
    ]


def backward_flags(step: Step, flags: Flags) -> Flags:
    """Those of the operands of the step that runs backward."""
    plan = step.backward.plan
    first_x, count = step.consts + step.carry, len(step.backward.backward.row.jaxpr.invars)
    found = [flags[n] for n in plan.read_consts]
    float_ys = sum(derivative.is_float(v.aval) for v in step.row.jaxpr.outvars[step.carry :])
    of_xs = [flags[first_x + n] for n in plan.read_xs]
    found += [_ALL] * (count - len(found) - len(of_xs) - float_ys)
    return (*found, *of_xs, *[_ALL] * float_ys)


def _shape(step: Step, flags: Any, n: int, groups: int, rows: int) -> tuple[int, ...]:
    lead = [size for size, there in zip((groups, rows), flags, strict=True) if there]
    return (*lead, *_features(step, n))


def _summed(array: Array, flags: tuple[bool, bool], first: int) -> Array:
    """Summed over the groups and rows that an operand has not."""
    axes = tuple(first + n for n in (0, 1) if not flags[n])
    if all(array.shape[n] == 1 for n in axes):
        return lax.squeeze(array, axes)
    return array.sum(axes)


def _summed_steps(array: Array, flags: tuple[bool, bool]) -> Array:
    """Summed over the steps, too: as a product with ones, which XLA's CPU client is faster at."""
    if flags[0] or array.dtype != jnp.float32:
        return _summed(array.sum(0), flags, 0)
    axes = tuple(range(2 if flags[1] else 3))
    ones = jnp.ones(array.shape[: len(axes)], array.dtype)
    return lax.dot_general(ones, array, ((axes, axes), ((), ())), precision=lax.Precision.HIGHEST)


def _matrix_gradient(
    step: Step, n: int, product: Any, factor: Array, d: Array, flags: tuple[bool, bool]
) -> Array:
    """Sum over steps and rows of the outer products of factor and gradient."""
    contracted, batch = product.dimension_numbers
    matrix = len(_features(step, n))
    letters = iter("abcdefghijklmnopqrsuvwxyz")
    side, other = product.side, 1 - product.side
    of_matrix = [next(letters) for _ in range(matrix)]
    of_factor = [""] * (factor.ndim - 3)
    for a, b in zip(contracted[side], contracted[other], strict=True):
        of_factor[b] = of_matrix[a]
    for a, b in zip(batch[side], batch[other], strict=True):
        of_factor[b] = of_matrix[a]
    of_factor = [name or next(letters) for name in of_factor]

    def free(names: Sequence[str], s: int) -> list[str]:
        return [x for k, x in enumerate(names) if k not in contracted[s] and k not in batch[s]]

    names = of_matrix, of_factor
    left, right = (free(names[s != side], s) for s in (0, 1))
    of_d = [of_matrix[a] for a in batch[side]] + left + right
    lead = "XYZ"
    to = ("Y" if flags[0] else "") + "".join(of_matrix)
    rule = f"{lead}{''.join(of_factor)},{lead}{''.join(of_d)}->{to}"
    return outer_products(rule, factor, d)


def _batch(
    primitive: Primitive, operands: Sequence[Any], axes: Sequence[Any], **how: Any
) -> tuple[Any, Any]:
    """A mapped axis is one of groups if a matrix has it, else one of rows."""
    step, flags = how["step"], how["flags"]
    size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    kinds = _kinds(step, how.get("moving"), len(operands))
    own, matrices = [n for n, _ in kinds], step.matrices()
    into = 0 if any(a is not None and n in matrices for n, a in zip(own, axes, strict=True)) else 1
    new_flags = list(flags)
    for n, a in zip(own, axes, strict=True):
        if n is not None and a is not None:
            f = new_flags[n]
            new_flags[n] = (True, f[1]) if into == 0 else (f[0], True)
    lengths = _lengths(operands[step.consts].shape, axes[step.consts])
    arrays = []
    for (n, is_sequence), operand, axis in zip(kinds, operands, axes, strict=True):
        before, after = (_ALL, _ALL) if n is None else (flags[n], new_flags[n])
        if after[into]:
            at = int(is_sequence) + (before[0] if into == 1 else 0)
            if not before[into]:
                operand, axis = _with_axis(operand, axis, at, lengths[into])
            operand = folded(operand, axis, size, at)
        arrays.append(operand)
    results = primitive.bind(*arrays, **{**how, "flags": tuple(new_flags)})
    carry = _carry_results(primitive, step)
    places = [(0 if k < carry else 1) + into for k in range(len(results))]
    return [unfolded(r, size, at) for r, at in zip(results, places, strict=True)], places


def _carry_results(primitive: Primitive, step: Step) -> int:
    outs = jaxprs.avals_of(step.row.jaxpr.outvars)[: step.carry]
    return step.carry if primitive is scan_p else sum(map(derivative.is_float, outs))


def _kinds(step: Step, moving: Any, count: int) -> list[tuple[int | None, bool]]:
    """For each operand: which one of the step's it is like, if any, and whether it has steps."""
    own = len(step.row.jaxpr.invars)
    of_xs = step.consts + step.carry
    found: list[tuple[int | None, bool]] = [(n, n >= of_xs) for n in range(own)]
    if moving is not None:
        found += [(None, True)] * (count - own - len(moving))
        found += [(n, n >= of_xs) for n in moving]
    return found


def _lengths(shape: Sequence[int], mapped: int | None) -> Sequence[int]:
    """Groups and rows of a carry without its mapped axis."""
    return shape if mapped is None else (*shape[:mapped], *shape[mapped + 1 :])


def _with_axis(operand: Any, mapped: int | None, at: int, length: int) -> tuple[Any, int | None]:
    """An operand, and where its mapped axis is, with one more axis at `at` of the others."""
    if mapped is not None:
        operand, at = jnp.moveaxis(operand, mapped, 0), at + 1
    operand = jnp.expand_dims(operand, at)
    shape = (*operand.shape[:at], length, *operand.shape[at + 1 :])
    return jnp.broadcast_to(operand, shape), None if mapped is None else 0


def _prune(used: Sequence[bool], equation: Any) -> tuple[list[bool], Any]:
    """Leaves out ys that nobody reads, as `jax.checkpoint` has none of the kept values read."""
    if not any(used):
        return [False] * len(equation.invars), None
    step: Step = equation.params["step"]
    kept = [n < step.carry or u for n, u in enumerate(used)]
    if all(kept):
        return [True] * len(equation.invars), equation
    left = [v for v, k in zip(equation.outvars, kept, strict=True) if k]
    less = step.with_results(tuple(n for n, k in enumerate(kept) if k))
    params = {**equation.params, "step": less}
    return [True] * len(equation.invars), equation.replace(outvars=left, params=params)


def _primitive(name: str, abstract: Any) -> Primitive:
    primitive = Primitive(f"jax_persistent_{name}")
    primitive.multiple_results = True
    primitive.def_impl(partial(compat.apply_primitive, primitive))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = partial(_batch, primitive)
    return primitive


scan_p = _primitive("scan", result_types)
tangent_p = _primitive("scan_tangent", _tangent_abstract)
ad.primitive_jvps[scan_p] = _jvp
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_transposes[tangent_p] = _transpose
compat.leave_out_unread(scan_p, _prune)
mlir.register_lowering(tangent_p, mlir.lower_fun(_tangent, multiple_results=True))
