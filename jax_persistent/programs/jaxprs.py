# SPDX-License-Identifier: Apache-2.0
"""Jaxprs as programs to be run once more: inlined, pruned, and with other rules for an equation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from jax_persistent import compat

# Computes an equation's results from its operands, or returns None: then it is bound as it is.
Rule = Callable[[JaxprEqn, list[Any]], Sequence[Any] | None]

# Calls that mean no more than what they call, and the parameter that holds it.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_CALLS |= {"remat2": "jaxpr", "checkpoint": "jaxpr", "remat": "jaxpr"}
# Those that have a derivative of their own besides.
_CUSTOM = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_CUSTOM |= {"custom_vjp_call_jaxpr": "fun_jaxpr"}


def called(eqn: JaxprEqn, custom: bool) -> ClosedJaxpr | None:
    """What a call calls; of those with a derivative of their own if `custom`."""
    calls = _CALLS | _CUSTOM if custom else _CALLS
    inner = eqn.params.get(calls.get(eqn.primitive.name, ""))
    if inner is None or isinstance(inner, ClosedJaxpr):
        return inner
    return ClosedJaxpr(inner, ())


def evaluate(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    rule: Rule | None = None,
    caller: JaxprEqn | None = None,
) -> list[Any]:
    """The results of a jaxpr, each equation by `rule` where that has an answer.

    `caller` is the equation that calls it, if there is one.
    """
    env: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env |= dict(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        results = rule(eqn, operands) if rule is not None else None
        if results is None:
            results = compat.bind_equation(eqn, operands, caller)
        env |= dict(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def traced(function: Callable[..., Any], avals: Sequence[Any]) -> ClosedJaxpr:
    """A function of flat arrays as a jaxpr."""
    return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))


def aval_of(atom: Any) -> Any:
    return atom.aval


def avals_of(variables: Sequence[Any]) -> list[Any]:
    return [variable.aval for variable in variables]


def inlined(closed: ClosedJaxpr, custom: bool) -> ClosedJaxpr:
    """The same without calls: one list of equations. Custom derivatives are lost if `custom`."""
    if not any(called(eqn, custom) for eqn in closed.jaxpr.eqns):
        return closed

    def rule(eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any] | None:
        inner = called(eqn, custom)
        if inner is None:
            return None
        return evaluate(inner.jaxpr, inner.consts, operands, rule, eqn)

    jaxpr = closed.jaxpr
    return traced(lambda *args: evaluate(jaxpr, closed.consts, args, rule), avals_of(jaxpr.invars))


def pruned(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same without equations that no result needs."""
    jaxpr, needed, kept = closed.jaxpr, set[Var](), []
    needed.update(v for v in jaxpr.outvars if isinstance(v, Var))
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or needed.intersection(eqn.outvars):
            kept.append(eqn)
            needed.update(v for v in eqn.invars if isinstance(v, Var))
    return ClosedJaxpr(jaxpr.replace(eqns=kept[::-1]), closed.consts)


def merged(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same with equal equations as one."""
    jaxpr = closed.jaxpr
    same: dict[Any, Any] = {}
    known: dict[Any, list[JaxprEqn]] = {}
    kept = []

    def of_operand(atom: Any) -> Any:
        if isinstance(atom, Literal):
            return str(atom.aval), np.asarray(atom.val).tobytes()
        return atom

    for eqn in jaxpr.eqns:
        invars = [same.get(v, v) if isinstance(v, Var) else v for v in eqn.invars]
        alike = known.setdefault((eqn.primitive, *map(of_operand, invars)), [])
        first = None if eqn.effects else next((e for e in alike if _same_params(e, eqn)), None)
        if first is None:
            kept.append(eqn.replace(invars=invars))
            alike.append(eqn)
        else:
            same |= dict(zip(eqn.outvars, first.outvars, strict=True))
    outvars = [same.get(v, v) if isinstance(v, Var) else v for v in jaxpr.outvars]
    names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    return ClosedJaxpr(jaxpr.replace(eqns=kept, outvars=outvars, debug_info=names), closed.consts)


def _same_params(a: JaxprEqn, b: JaxprEqn) -> bool:
    try:
        return bool(a.params == b.params)
    except ValueError:  # of arrays
        return False


def function_of(closed: ClosedJaxpr) -> Callable[..., list[Any]]:
    return jaxpr_as_fun(closed)


def rebuilt(
    like: Jaxpr, invars: Sequence[Var], outvars: Sequence[Any], eqns: Sequence[JaxprEqn]
) -> ClosedJaxpr:
    """Some equations of a jaxpr, from these variables to those, as a jaxpr by itself."""
    names = like.debug_info._replace(arg_names=None, result_paths=None)
    effects = {effect for eqn in eqns for effect in eqn.effects}
    jaxpr = like.replace(
        constvars=[],
        invars=list(invars),
        outvars=list(outvars),
        eqns=list(eqns),
        effects=effects,
        debug_info=names,
    )
    return ClosedJaxpr(jaxpr, ())
