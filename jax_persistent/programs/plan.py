# SPDX-License-Identifier: Apache-2.0
"""How scans would run on a device: of a step function, of our primitive, of a `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import jax

from jax_persistent.backends.base import Backend, Plan
from jax_persistent.problem import PackedKernel
from jax_persistent.programs import functions, jaxprs, lowering
from jax_persistent.programs.primitive import Flags, Packed, backward_flags, sizes
from jax_persistent.programs.rows import Unfit
from jax_persistent.programs.step import Step

Device: TypeAlias = jax.Device | str


def of_step(f: Any, init: Any, xs: Any, backend: Backend, device: Device, **how: Any) -> Plan:
    """The plan of `scan(f, init, xs, **how)` and of its gradient.

    Arrays may be `jax.ShapeDtypeStruct`s. Raises ValueError where lengths or resets are wrong.
    """
    arrays = {n: how.pop(n) for n in ("lengths", "resets") if n in how}

    def plan(init: Any, xs: Any, arrays: dict[str, Any]) -> Plan:
        return _of_step(f, init, xs, backend, device, **how, **arrays)

    return _abstractly(plan, init, xs, arrays)


def _abstractly(plan: Callable[..., Plan], *operands: Any) -> Plan:
    """What a function makes of operands that it sees as traced ones."""
    found: list[Plan] = []
    jax.eval_shape(lambda *traced: found.append(plan(*traced)), *operands)
    return found[0]


def _of_step(f: Any, init: Any, xs: Any, backend: Backend, device: Device, **how: Any) -> Plan:
    try:
        found = functions.traced(f, init, xs, how.pop("length", None), **how)
    except Unfit as unfit:
        return Plan("reference", str(unfit))
    step, computed = found.step, found.recurrence.compute(found.body.init, found.body.xs)
    operands, call = found.operands(computed)
    call |= {"steps": found.body.steps, "reverse": found.reverse}
    plain = lowering.why_plain(None, backend, operands, step=step, **call)
    if plain is not None:
        return Plan("reference", plain, details={"name": step.label})
    recurrence = found.recurrence
    given = recurrence.unpacked + sum(isinstance(c, PackedKernel) for c in computed.consts)
    plan = _planned(backend, device, operands, given, recurrence.hoisted, step=step, **call)
    if plan.backend != "native":
        return plan
    lacking = _why_no_gradient(backend, device, operands, step=step, **call)
    if lacking is None:
        return plan
    text = f"{plan.reason}\nIts gradient runs as a lax.scan: {lacking}"
    details = {**(plan.details or {}), "of_gradient": lacking}
    return replace(plan, reason=text, details=details)


def of_primitive(operands: Sequence[Any], params: Any, backend: Backend, device: Device) -> Plan:
    """The plan of one pass: of an equation of `scan_p`, given its operands or their types."""
    how = dict(params)
    choice = how.pop("backend")
    reason = lowering.why_plain(choice, backend, operands, **how)
    if reason is not None:
        return Plan("reference", reason)
    return _planned(backend, device, operands, len(how["packed"]), 0, **how)


def of_lax_scan(operands: Sequence[Any], params: Any, backend: Backend, device: Device) -> Plan:
    """The plan of `scan` in place of a `lax.scan`, given that equation's operands."""
    consts, carry = params["num_consts"], params["num_carry"]
    run = jaxprs.function_of(params["jaxpr"])
    how = {"length": params["length"], "reverse": params["reverse"]}

    def plan(*operands: Any) -> Plan:
        fixed, rest = operands[:consts], operands[consts:]

        def step(state: Any, x: Any) -> tuple[Any, Any]:
            found = run(*fixed, *state, *x)
            return list(found[:carry]), list(found[carry:])

        return _of_step(step, list(rest[:carry]), list(rest[carry:]), backend, device, **how)

    return _abstractly(plan, *operands)


def _planned(
    backend: Backend,
    device: Device,
    operands: Sequence[Any],
    given: int,
    hoisted: int,
    *,
    step: Step,
    packed: Packed,
    **how: Any,
) -> Plan:
    """Of a scan with so many products with packed matrices, and so many equations hoisted."""
    program, unpacks = lowering.described_core(backend, operands, step=step, packed=packed, **how)
    unpacks += given - len(packed)
    found = backend.plan_program(program, device) | {"name": step.label}
    if not found["runs"]:
        return Plan("reference", found["explanation"], details=found)
    text = f"{found['explanation']}. {step.program}"
    if given:
        text += f"\nproducts with packed matrices: {given}"
        if unpacks:
            text += f", {unpacks} of them unpacked first (`jax_persistent.pack` says why)"
    before = hoisted + len(step.around.before)
    if before:
        text += f"\nfor all steps before, as they wait for no carry: {before} equations"
    if step.around.after:
        text += f"\nafter, as no carry waits for them: {len(step.around.after)} equations"
    return Plan("native", text, found["residency"], found["workers"], found["packed_bytes"], found)


def _why_no_gradient(
    backend: Backend,
    device: Device,
    operands: Sequence[Any],
    *,
    step: Step,
    flags: Flags,
    **how: Any,
) -> str | None:
    try:
        backward = step.backward.backward
        backward.program  # noqa: B018
    except Unfit as unfit:
        return str(unfit)
    flags = backward_flags(step, flags)
    of_xs = backward.consts + backward.carry
    given = []
    for n, (v, f) in enumerate(zip(backward.row.jaxpr.invars, flags, strict=True)):
        lead = [size for size, there in zip(sizes(step, operands), f, strict=True) if there]
        shape = (*[how["steps"]] * (n >= of_xs), *lead, *jaxprs.aval_of(v).shape)
        given.append(jax.ShapeDtypeStruct(shape, jaxprs.aval_of(v).dtype))
    how["packed"] = ()  # a gradient unpacks them
    program, _ = lowering.described_core(backend, given, step=backward, flags=flags, **how)
    found = backend.plan_program(program, device)
    return None if found["runs"] else found["explanation"]
