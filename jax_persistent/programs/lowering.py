# SPDX-License-Identifier: Apache-2.0
"""What a scan becomes on a platform: the call of its core with what is around it, or a `lax.scan`.

`core_p` is that call, which a backend makes, split over devices by groups and rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jax_persistent import compat, notices
from jax_persistent.backends import registry
from jax_persistent.backends.base import ONE_STEP, Backend
from jax_persistent.ffi import sharding
from jax_persistent.ops.lowering import unreadable
from jax_persistent.problem.packed import PackedKernel, unpack_p
from jax_persistent.programs import jaxprs
from jax_persistent.programs.around import SequenceProduct, Value
from jax_persistent.programs.primitive import (
    Flags,
    Packed,
    bind,
    kernels,
    reference,
    result_types,
    scan_p,
    sizes,
    unpacked,
)
from jax_persistent.programs.rows import Unfit
from jax_persistent.programs.step import Step

# Operands of a core that its call makes: of what is given in their place and a matrix behind all
# operands, multiplied in this way.
Products = tuple[tuple[int, tuple[tuple[str, Any], ...]], ...]


def why_not(step: Step, flags: Flags) -> Unfit | None:
    """Why a scan of the step has no program, or None if it has one."""
    try:
        step.program  # noqa: B018
        if any(flags[n][1] for n in step.matrices()):
            raise Unfit("its matrices differ from row to row")
    except Unfit as error:
        return error
    return None


def why_plain(
    choice: str | None,
    backend: Backend,
    operands: Sequence[Any],
    *,
    step: Step,
    flags: Flags,
    steps: int,
    packed: Packed,
    **how: Any,
) -> str | None:
    """Why a scan is a `lax.scan`, or None where it is the call of a program."""
    del how
    if choice == "reference":
        return "backend='reference' asks for it"
    if (unfit := why_not(step, flags)) is not None:
        return str(unfit)
    is_packed = not step.packable.isdisjoint(n for n, _ in packed)
    if choice == "native" or is_packed:
        return None
    if step.trains:
        return ONE_STEP if steps == 1 else None
    rows = sizes(step, operands)[1]
    avals = jaxprs.avals_of([step.row.jaxpr.invars[n] for n in step.matrices()])
    matrices = sum(a.size * a.dtype.itemsize for a in avals)
    return backend.slower_than_scan(steps, rows, matrices)


def described(
    operands: Sequence[Any],
    *,
    step: Step,
    flags: Flags,
    steps: int,
    reverse: bool,
    packed: Packed,
    products: Products,
) -> dict[str, Any]:
    """What a call of a core is, as JSON has it; operands are arrays or their types."""
    groups, rows = sizes(step, operands)
    lanes = dict(packed)
    if len(set(lanes.values())) > 1:
        raise unreadable("they were packed on machines with vectors of several sizes")
    code, literals = step.program_with(frozenset(lanes)).encoded()
    layouts = [g + 2 * b + 4 * (n in lanes) for n, (g, b) in enumerate(flags)]
    for n, how in products:
        layouts[n] += 8 * dict(how)["right_transposed"] + 16 * operands[n].shape[-1]
    return {
        "code": code.tolist(),
        "literals": literals.tolist(),
        "layouts": layouts,
        "packed_lanes": max(lanes.values(), default=0),
        "steps": steps,
        "reverse": reverse,
        "tf32": compat.tf32_is_asked_for(),
        "groups": groups,
        "rows": rows,
    }


def described_core(
    backend: Backend, operands: Sequence[Any], *, packed: Packed, **how: Any
) -> tuple[dict[str, Any], int]:
    """What the call in a scan is, as JSON has it, and how many packed matrices it unpacks."""

    def around(*flat: Any) -> list[Array]:
        read = backend.reads_packed
        given = flat if read else unpacked(how["step"], flat, packed)
        how["packed"] = packed if read else ()
        return _around(*given, flat=True, backend=None, multiplies=backend.multiplies, **how)

    whole = jax.make_jaxpr(around)(*operands)
    (core,) = (e for e in whole.jaxpr.eqns if e.primitive is core_p)
    params = {name: value for name, value in core.params.items() if name != "backend"}
    unpacks = sum(e.primitive is unpack_p for e in whole.jaxpr.eqns)
    return described(jaxprs.avals_of(core.invars), **params), unpacks


def _around(
    *operands: Any,
    step: Step,
    flags: Flags,
    steps: int,
    reverse: bool,
    packed: Packed,
    flat: bool,
    multiplies: bool,
    backend: str | None,
) -> list[Array]:
    """A scan: the call of its core, and what is computed for all steps before and after it.

    `flat` makes one dimension of steps and rows in products, which XLA can't split over devices.
    With `multiplies`, the call makes such products of xs itself.
    """
    parts, of_xs = step.around, step.consts + step.carry
    matrices = kernels(step, operands, packed)
    values = [
        Value(matrices.get(n, o), (n >= of_xs, *f))
        for n, (o, f) in enumerate(zip(operands, flags, strict=True))
    ]
    # One that trains keeps more than products, in memory that XLA has for other arrays later.
    known = parts.operands(values, flat, multiplies and not step.trains)
    packable = step.core.packable
    consts = [known[v] for v in parts.core_consts]
    consts = [v if n in packable else v.unpacked() for n, v in enumerate(consts)]
    lanes = {n: v.array.lanes for n, v in enumerate(consts) if isinstance(v.array, PackedKernel)}
    read = [v.array.panels if n in lanes else v.array for n, v in enumerate(consts)]
    moving = [*values[step.consts : of_xs], *(known[v].of_steps(steps) for v in parts.core_xs)]
    arrays = [*read, *(v.array for v in moving)]
    products = {n: a for n, a in enumerate(arrays) if isinstance(a, SequenceProduct)}
    made = core_p.bind(
        *(a.vectors if n in products else a for n, a in enumerate(arrays)),
        *(p.matrix for p in products.values()),
        step=step.core,
        flags=tuple(v.axes[1:] for v in (*consts, *moving)),
        steps=steps,
        reverse=reverse,
        packed=tuple(lanes.items()),
        products=tuple((n, p.how) for n, p in products.items()),
        backend=backend,
    )
    shape = (steps, *sizes(step, operands))
    return [*made[: step.carry], *parts.ys(known, made[step.carry :], shape, flat)]


# --- the same split over devices: by groups and rows

_KIND = "program"


def _split_call(
    ctx: Any,
    backend: Backend,
    program: dict[str, Any],
    operands: Sequence[Any],
    step: Step,
    flags: Flags,
) -> Sequence[Any]:
    row_results = [(v.aval.shape, v.aval.dtype.name) for v in step.row.jaxpr.outvars]
    what = {
        "program": program,
        "results": row_results,
        "consts": step.consts,
        "carry": step.carry,
    }
    count = iter(range(1 << 20))

    def dims(features: int, has_steps: bool, groups: bool, rows: bool) -> tuple[str, ...]:
        lead = ["t"] * has_steps + ["n"] * groups + ["b"] * rows
        return (*lead, *(f"f{next(count)}" for _ in range(features)))

    of_xs = step.consts + step.carry
    given = [
        dims(len(a.shape) - (n >= of_xs) - sum(f), n >= of_xs, *f)
        for n, (a, f) in enumerate(zip(ctx.avals_in, flags, strict=True))
    ]
    made = [dims(len(s), n >= step.carry, True, True) for n, (s, _) in enumerate(row_results)]
    to_split = backend.platform, what, step.label
    return sharding.split_call(ctx, _KIND, *to_split, operands, given, made)


def _program(platform: str, what: Any, *operands: Array) -> list[Array]:
    """What one device has of a split call."""
    groups, rows = operands[what["consts"]].shape[:2]
    program = {**what["program"], "groups": groups, "rows": rows}
    results = [
        jax.ShapeDtypeStruct(
            (*((program["steps"],) if n >= what["carry"] else ()), groups, rows, *shape), dtype
        )
        for n, (shape, dtype) in enumerate(what["results"])
    ]
    return registry.backend_of(platform).call_program(program, operands, results)


def _call(
    backend: Backend, label: str, program: dict[str, Any], results: Sequence[Any], *operands: Any
) -> list[Array]:
    with jax.named_scope(label):
        return backend.call_program(program, operands, results)


sharding.split_by(_KIND, _program)


def _fall_back(choice: str | None, reason: str, say: Callable[[str, str], None]) -> None:
    if choice == "native":
        raise NotImplementedError(f"backend='native': {reason}. Use backend=None or 'reference'")
    if choice is None:
        say("jax_persistent.scan runs as a lax.scan", reason)


def _elsewhere(*operands: Any, backend: Any, **how: Any) -> list[Array]:
    known = ", ".join(registry.platforms())
    reason = f"no programs of step functions for this platform; there are for {known}"
    _fall_back(backend, reason, notices.warn)
    return reference(operands, **how)


def _reference_of_core(*operands: Any, products: Products, **how: Any) -> list[Array]:
    given = list(operands)
    for n, of_product in reversed(products):
        given[n] = SequenceProduct(given[n], given.pop(), of_product).multiplied()
    return reference(given, **how)


def _unpacking(*operands: Any, packed: Packed, **how: Any) -> list[Array]:
    return bind(unpacked(how["step"], operands, packed), **how)


def _runs(
    choice: str | None, backend: Backend, operands: Sequence[Any], how: dict[str, Any]
) -> bool:
    """Whether a scan is the call of a program; users are told where it has none.

    Raises NotImplementedError where it has no program, and the caller asks for it.
    """
    if choice != "reference" and (unfit := why_not(how["step"], how["flags"])) is not None:
        _fall_back(choice, str(unfit), notices.inform)
        return False
    return why_plain(choice, backend, operands, **how) is None


def _register_platform(backend: Backend) -> None:
    def lowered(ctx: Any, function: Callable[..., Any], *operands: Any) -> Any:
        return mlir.lower_fun(function, multiple_results=True)(ctx, *operands)

    def of_scan(ctx: Any, *operands: Any, **params: Any) -> Any:
        if params["packed"] and not backend.reads_packed:
            return lowered(ctx, partial(_unpacking, **params), *operands)
        how = dict(params)
        choice = how.pop("backend")
        if not _runs(choice, backend, ctx.avals_in, how):
            return lowered(ctx, lambda *flat: reference(flat, **how), *operands)
        flat = not compat.is_split_by_xla(ctx)
        unsplit = None if flat else compat.lacking("splitting")
        if unsplit is not None:
            _fall_back(choice, unsplit, notices.warn)
            return lowered(ctx, lambda *flat: reference(flat, **how), *operands)
        how |= {"flat": flat, "multiplies": flat and backend.multiplies}
        return lowered(ctx, partial(_around, backend=choice, **how), *operands)

    def of_core(ctx: Any, *operands: Any, **params: Any) -> Any:
        how = dict(params)
        choice = how.pop("backend")
        is_split = compat.is_split_by_xla(ctx)
        # What a device has of a split call is known later: one row of one group is the least.
        least = {"groups": 1, "rows": 1} if is_split else {}
        program = described(ctx.avals_in, **how)
        found = backend.plan_program(program | least, None)
        if not found["runs"]:
            if how["packed"]:
                raise unreadable(found["explanation"])
            _fall_back(choice, found["explanation"], notices.warn)
            return lowered(ctx, partial(_reference_of_core, **how), *operands)
        if is_split:
            return _split_call(ctx, backend, program, operands, how["step"], how["flags"])
        results = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in ctx.avals_out]
        call = partial(_call, backend, how["step"].label, program, results)
        return lowered(ctx, call, *operands)

    mlir.register_lowering(scan_p, of_scan, platform=backend.platform)
    mlir.register_lowering(core_p, of_core, platform=backend.platform)


core_p = Primitive("jax_persistent_program")  # the custom call of a step's core
core_p.multiple_results = True
core_p.def_abstract_eval(result_types)
mlir.register_lowering(scan_p, mlir.lower_fun(_elsewhere, multiple_results=True))
registry.for_each(_register_platform)
