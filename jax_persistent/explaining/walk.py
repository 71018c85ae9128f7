# SPDX-License-Identifier: Apache-2.0
"""The recurrences in a traced program: of our primitives, and the loops of jax's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from jax_persistent import compat
from jax_persistent.backends import registry
from jax_persistent.backends.base import Backend, Plan
from jax_persistent.explaining.explanation import Recurrence
from jax_persistent.ops import plan as cell_plans
from jax_persistent.ops import primitives
from jax_persistent.problem import Problem
from jax_persistent.programs import jaxprs
from jax_persistent.programs import plan as scan_plans
from jax_persistent.programs import primitive as scans

Inside = tuple[str, ...]

_FORWARD_MODE = "a derivative in forward mode, or one of a derivative, has no kernel"
_PACKAGES = (Path(__file__).parents[1], "flax")  # whose lines are not the user's


def recurrences(closed: ClosedJaxpr, device: jax.Device | str) -> tuple[Recurrence, ...]:
    """All of them in order; those that differ in nothing are one, and counted."""
    found: dict[Any, Recurrence] = {}
    for each in _Walk(registry.named(device), device).of(closed.jaxpr, ()):
        key = str(each)
        known = found.get(key, replace(each, count=0))
        found[key] = replace(known, count=known.count + 1)
    return tuple(found.values())


class _Walk:
    def __init__(self, backend: Backend | None, device: jax.Device | str) -> None:
        self.backend, self.device = backend, device

    def of(self, jaxpr: Jaxpr, inside: Inside) -> Iterator[Recurrence]:
        for eqn in jaxpr.eqns:
            found = self._recurrence(eqn)
            if found is not None:
                yield replace(found, inside=inside, line=_line_of(eqn))
                continue
            below = list(self._below(eqn, inside))
            yield from below
            if eqn.primitive.name == "scan" and not below and eqn.params["num_carry"]:
                yield replace(self._lax_scan(eqn), inside=inside, line=_line_of(eqn))

    def _below(self, eqn: JaxprEqn, inside: Inside) -> Iterator[Recurrence]:
        place = _place_of(eqn)
        for value in eqn.params.values():
            for each in value if isinstance(value, (tuple, list)) else (value,):
                inner = each.jaxpr if isinstance(each, ClosedJaxpr) else each
                if isinstance(inner, Jaxpr):
                    yield from self.of(inner, (*inside, place) if place else inside)

    def _recurrence(self, eqn: JaxprEqn) -> Recurrence | None:
        if eqn.primitive in (primitives.forward_p, primitives.backward_p, primitives.tangent_p):
            return self._of_cell(eqn.params["problem"])
        if eqn.primitive is scans.scan_p:
            return self._scan(eqn)
        if eqn.primitive is scans.tangent_p:
            found = self._scan(eqn)
            name = f"{found.name.removesuffix('forward')}tangent"
            return replace(found, name=name, plan=Plan("reference", _FORWARD_MODE))
        return None

    def _of_cell(self, problem: Problem) -> Recurrence:
        if problem.pass_ == "tangent":
            plan = Plan("reference", _FORWARD_MODE)
        elif self.backend is None:
            plan = registry.without_kernels(self.device)
        else:
            plan = cell_plans.of_problem(problem, self.backend, self.device)
        sizes = {"T": problem.steps, "B": problem.batch, "I": problem.inputs, "H": problem.hidden}
        sizes |= {"N": problem.groups} if problem.groups > 1 else {}
        return Recurrence(problem.label, plan, sizes, problem.dtype)

    def _scan(self, eqn: JaxprEqn) -> Recurrence:
        step, operands = eqn.params["step"], _types(eqn)
        if eqn.primitive is scans.tangent_p or self.backend is None:
            plan = registry.without_kernels(self.device)
        else:
            plan = scan_plans.of_primitive(operands, eqn.params, self.backend, self.device)
        first = operands[step.consts]
        groups, rows, *features = first.shape
        sizes = {"T": eqn.params["steps"], "B": rows, "H": features[0] if features else 1}
        sizes |= {"N": groups} if groups > 1 else {}
        return Recurrence(step.label, plan, sizes, first.dtype.name)

    def _lax_scan(self, eqn: JaxprEqn) -> Recurrence:
        operands = _types(eqn)
        if self.backend is None:
            plan = registry.without_kernels(self.device)
        else:
            plan = scan_plans.of_lax_scan(operands, eqn.params, self.backend, self.device)
        consts, carry = eqn.params["num_consts"], eqn.params["num_carry"]
        floats = [a for a in operands[consts : consts + carry] if a.ndim] or operands[consts:]
        dtype = floats[0].dtype.name if floats else "no array"
        return Recurrence("lax.scan", plan, {"T": eqn.params["length"]}, dtype)


def _types(eqn: JaxprEqn) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in jaxprs.avals_of(eqn.invars)]


def _place_of(eqn: JaxprEqn) -> str:
    """What an equation is to those in it, if that matters."""
    name = eqn.primitive.name
    if name == "scan":
        return f"a loop of {eqn.params['length']} steps"
    if name == "shard_map":
        return f"each of {eqn.params['mesh'].size} devices"
    return {"while": "a while loop", "cond": "a branch"}.get(name, "")


def _line_of(eqn: JaxprEqn) -> str | None:
    """The innermost line that is neither ours nor flax's; else the innermost of all."""
    lines = compat.lines_of(eqn)
    ours, flax = f"{_PACKAGES[0]}{os.sep}", f"{os.sep}{_PACKAGES[1]}{os.sep}"
    users = [line for line in lines if not line[0].startswith(ours) and flax not in line[0]]
    if not users:
        return None
    file, number, function = users[0]
    return f"{Path(file).name}:{number} ({function})"
