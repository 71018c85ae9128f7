# SPDX-License-Identifier: Apache-2.0
"""What of a step does not wait for the carry: computed once, or for all steps at once.

So are counters, a carry of integers that waits for itself alone. Products of xs with constants stay
in the step, which has their derivatives at one place with those of the carry's; around.py computes
them for all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jax_persistent import compat
from jax_persistent.problem.packed import PackedKernel, unpack_p
from jax_persistent.programs import jaxprs

_CONST, _XS, _CARRY = range(3)  # what a value depends on, at most
# Made where they are read. As arrays, some would be larger than what they are made of, and others a
# copy of a whole sequence.
_LARGER = frozenset({"broadcast_in_dim", "iota"})
_VIEWS = frozenset({"split", "slice", "squeeze", "reshape"})
# Where they read a product that stays in the step, they stay there, too.
_CHEAP = _VIEWS | {"add", "add_any", "sub", "mul", "neg", "convert_element_type"}
# What norms are made of. Where a step has sums of what waits for the carry, those of such products
# are made beside them, in the same stages; as arrays they would take a pass over memory each.
_OF_NORMS = frozenset({"reduce_sum", "broadcast_in_dim", "div", "rsqrt", "square", "integer_pow"})
_IN_PRODUCTS = ("float32", "bfloat16")
# Run for one step after the other: mapped over steps, the first two would run every branch, and the
# last would draw other numbers.
_ONE_BY_ONE = ("cond", "while", "rng_bit_generator")


class Computed(NamedTuple):
    """What a recurrence reads, and what is made of its results.

    `consts`, `init` and `xs` are arrays, xs [T, ...], but those constants that the step would
    unpack are `PackedKernel`s; `finished` makes of the step's final carry and ys those of the whole
    scan.
    """

    consts: list[Any]
    init: list[Any]
    xs: list[Any]
    finished: Callable[[list[Array], list[Array]], tuple[list[Any], list[Any]]]


@dataclass(frozen=True)
class Recurrence:
    """What is left of a scan: a step that waits for the carry in all that it does.

    Attributes:
      step: of (consts, carry, a step's xs) to (carry, a step's ys).
      consts, carry: how many there are.
      hoisted: how many equations are computed outside of it.
      unpacked: how many packed matrices something outside reads, for which they are unpacked.
      compute: does so, from the init and the xs of the whole scan.
    """

    step: ClosedJaxpr
    consts: int
    carry: int
    hoisted: int
    unpacked: int
    compute: Callable[[Sequence[Any], Sequence[Any]], Computed]


def recurrence(closed: ClosedJaxpr, count: int, steps: int, reverse: bool) -> Recurrence:
    """The recurrence in a scan of a step without calls, whose carry has `count` parts."""
    jaxpr, counters = closed.jaxpr, _counters(closed.jaxpr, count)
    if not counters:
        return _recurrence(closed, count)
    left = [n for n in range(count) if n not in counters]
    names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    following = jaxpr.replace(outvars=[jaxpr.outvars[n] for n in counters], debug_info=names)
    following = jaxprs.pruned(ClosedJaxpr(following, closed.consts)).jaxpr

    invars = [*(jaxpr.invars[n] for n in left), *jaxpr.invars[count:]]
    invars += [jaxpr.invars[n] for n in counters]
    outvars = [*(jaxpr.outvars[n] for n in left), *jaxpr.outvars[count:]]
    rest = jaxpr.replace(invars=invars, outvars=outvars, debug_info=names)
    found = _recurrence(ClosedJaxpr(rest, closed.consts), len(left))

    def compute(init: Sequence[Any], xs: Sequence[Any]) -> Computed:
        def count_on(state: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            carry = dict(enumerate(init)) | dict(zip(counters, state, strict=True))
            given = [*(carry[n] for n in range(count)), *x]
            return jaxprs.evaluate(following, closed.consts, given), state

        first = [init[n] for n in counters]
        final, before = lax.scan(count_on, first, list(xs), length=steps, reverse=reverse)
        done = found.compute([init[n] for n in left], [*xs, *before])

        def finished(carry: list[Array], ys: list[Array]) -> tuple[list[Any], list[Any]]:
            all_left, all_ys = done.finished(carry, ys)
            whole = dict(zip(left, all_left, strict=True)) | dict(zip(counters, final, strict=True))
            return [whole[n] for n in range(count)], all_ys

        return done._replace(finished=finished)

    return replace(found, compute=compute)


def _counters(jaxpr: Jaxpr, count: int) -> list[int]:
    """The parts of the carry that are no floats, and wait for no other part that changes."""
    carry_in, carry_out = jaxpr.invars[:count], jaxpr.outvars[:count]
    moving = [n for n in range(count) if carry_in[n] is not carry_out[n]]
    waits: dict[Any, frozenset[int]] = {carry_in[n]: frozenset([n]) for n in moving}
    for eqn in jaxpr.eqns:
        on = [waits[v] for v in eqn.invars if isinstance(v, Var) and v in waits]
        if on:
            waits |= dict.fromkeys(eqn.outvars, frozenset().union(*on))
    dtypes = [a.dtype for a in jaxprs.avals_of(carry_in)]
    alone = {n for n in moving if not jnp.issubdtype(dtypes[n], jnp.inexact)}
    while others := {
        n
        for n in alone
        if isinstance(v := carry_out[n], Var) and not waits.get(v, frozenset()) <= alone
    }:
        alone -= others
    return sorted(alone) if len(alone) < len(moving) else []


def _recurrence(closed: ClosedJaxpr, count: int) -> Recurrence:
    jaxpr = closed.jaxpr
    carry_in, xs_in = jaxpr.invars[:count], jaxpr.invars[count:]
    carry_out, ys_out = jaxpr.outvars[:count], jaxpr.outvars[count:]
    constant = [a is b for a, b in zip(carry_in, carry_out, strict=True)]
    moving = [n for n in range(count) if not constant[n]]
    depends: dict[Any, int] = dict.fromkeys(jaxpr.constvars, _CONST) | dict.fromkeys(xs_in, _XS)
    depends |= {carry_in[n]: _CONST if constant[n] else _CARRY for n in range(count)}
    for eqn in jaxpr.eqns:
        on = max((depends[v] for v in eqn.invars if isinstance(v, Var)), default=_CONST)
        depends |= dict.fromkeys(eqn.outvars, on)

    outputs = [v for v in (*(carry_out[n] for n in moving), *ys_out) if isinstance(v, Var)]
    inside = _inside_with_products(jaxpr, depends, outputs)
    made = {v for e in inside for v in e.outvars}
    needed = [v for e in inside for v in e.invars if isinstance(v, Var)] + outputs
    needed = [v for v in dict.fromkeys(needed) if v not in made]
    outside = [e for e in jaxpr.eqns if depends[e.outvars[0]] != _CARRY]
    ys_inside = [n for n, v in enumerate(ys_out) if _depends(v, depends) == _CARRY]
    results = [carry_out[n] for n in moving] + [ys_out[n] for n in ys_inside]
    read = [v for e in inside for v in e.invars] + results
    left = [v for v in dict.fromkeys(v for v in read if isinstance(v, Var)) if v not in made]
    consts_in = [v for v in left if depends[v] == _CONST]
    steps_in = [v for v in left if depends[v] == _XS]
    invars = [*consts_in, *(carry_in[n] for n in moving), *steps_in]
    step = jaxprs.rebuilt(jaxpr, invars, results, inside)
    of_consts = [e for e in outside if depends[e.outvars[0]] == _CONST]
    wanted = [v for v in needed if depends[v] == _XS and v not in xs_in]
    of_xs = _making(wanted, [e for e in outside if depends[e.outvars[0]] == _XS])
    unpacked = {e.outvars[0] for e in of_consts if e.primitive is unpack_p}
    read_outside = [v for e in (*of_consts, *of_xs) for v in e.invars] + [*carry_out, *ys_out]
    packed = unpacked.difference(v for v in read_outside if isinstance(v, Var))

    def compute(init: Sequence[Any], xs: Sequence[Any]) -> Computed:
        values: dict[Var, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        values |= {carry_in[n]: init[n] for n in range(count) if constant[n]}
        for eqn in of_consts:
            if eqn.outvars[0] in packed:
                values[eqn.outvars[0]] = PackedKernel(values[eqn.invars[0]], **eqn.params)
            else:
                operands = [v.val if isinstance(v, Literal) else values[v] for v in eqn.invars]
                values.update(zip(eqn.outvars, compat.bind_equation(eqn, operands), strict=True))
        sequences = dict(zip(xs_in, xs, strict=True))
        sequences |= _for_all_steps(of_xs, wanted, values, sequences)

        def finished(carry: list[Array], ys: list[Array]) -> tuple[list[Any], list[Any]]:
            all_carry, all_ys = list(init), []
            for n, value in zip(moving, carry, strict=True):
                all_carry[n] = value
            computed = dict(zip(ys_inside, ys, strict=True))
            for n, v in enumerate(ys_out):
                if n in computed:
                    all_ys.append(computed[n])
                elif isinstance(v, Var) and depends[v] == _XS:
                    all_ys.append(sequences[v])
                else:
                    value = v.val if isinstance(v, Literal) else values[v]
                    steps = xs[0].shape[0] if xs else ys[0].shape[0]
                    all_ys.append(jnp.broadcast_to(value, (steps, *v.aval.shape)))
            return all_carry, all_ys

        return Computed(
            [values[v] for v in consts_in],
            [init[n] for n in moving],
            [sequences[v] for v in steps_in],
            finished,
        )

    hoisted = len(jaxpr.eqns) - len(inside) - len(packed)
    still = len(unpacked) - len(packed)
    return Recurrence(step, len(consts_in), len(moving), hoisted, still, compute)


def _making(wanted: Sequence[Var], eqns: Sequence[JaxprEqn]) -> list[JaxprEqn]:
    """Of the equations, those that the wanted values are made by."""
    needed, found = set(wanted), []
    for eqn in reversed(eqns):
        if needed.intersection(eqn.outvars):
            needed.update(v for v in eqn.invars if isinstance(v, Var))
            found.append(eqn)
    return found[::-1]


def _depends(atom: Any, depends: dict[Any, int]) -> int:
    return depends[atom] if isinstance(atom, Var) else _CONST


def _inside_with_products(
    jaxpr: Jaxpr, depends: dict[Any, int], outputs: Sequence[Var]
) -> list[JaxprEqn]:
    """The equations of the recurrence, with the products of xs that nothing outside reads."""
    products = [e for e in jaxpr.eqns if depends[e.outvars[0]] == _XS and _is_product(e, depends)]
    while True:
        inside = _inside(jaxpr, depends, outputs, _with_cheap(jaxpr, depends, products))
        there = set(map(id, inside))
        left = [e for e in products if id(e) in there]
        if len(left) == len(products):
            return inside
        products = left


def _with_cheap(jaxpr: Jaxpr, depends: dict[Any, int], products: Sequence[JaxprEqn]) -> set[Any]:
    """Results of the products, and what is made of them and of xs cheaply."""
    found: set[Any] = {e.outvars[0] for e in products}
    sums = any(
        e.primitive.name == "reduce_sum" and depends[e.outvars[0]] == _CARRY for e in jaxpr.eqns
    )
    names = _CHEAP | _OF_NORMS if sums else _CHEAP
    for eqn in jaxpr.eqns:
        cheap = depends[eqn.outvars[0]] == _XS and eqn.primitive.name in names
        if cheap and any(isinstance(v, Var) and v in found for v in eqn.invars):
            found.update(eqn.outvars)
    return found


def _is_product(eqn: JaxprEqn, depends: dict[Any, int]) -> bool:
    """Whether it is one of vectors, the last axis of an x, with a matrix."""
    if eqn.primitive.name != "dot_general":
        return False
    contracted, batch = eqn.params["dimension_numbers"]
    on = [_depends(v, depends) for v in eqn.invars]
    if any(batch) or sorted(on) != [_CONST, _XS]:
        return False
    side = on.index(_XS)
    avals = jaxprs.avals_of(eqn.invars)
    last = (avals[side].ndim - 1,)
    return (
        tuple(contracted[side]) == last
        and avals[1 - side].ndim == 2
        and all(a.dtype.name in _IN_PRODUCTS for a in avals)
    )


def _inside(
    jaxpr: Jaxpr, depends: dict[Any, int], outputs: Sequence[Var], products: set[Any]
) -> list[JaxprEqn]:
    """The equations of the recurrence: all that wait for the carry, and what is sunk into it."""
    needed_outside: set[Any] = {v for v in outputs if depends[v] != _CARRY}
    inside: list[JaxprEqn] = []
    needed_inside: set[Any] = set()
    for eqn in reversed(jaxpr.eqns):
        operands = [v for v in eqn.invars if isinstance(v, Var)]
        if depends[eqn.outvars[0]] == _CARRY:
            inside.append(eqn)
            needed_inside.update(operands)
            continue
        made = set(eqn.outvars)
        of_xs = depends[eqn.outvars[0]] == _XS
        sunk = eqn.primitive.name in (_LARGER | _VIEWS if of_xs else _LARGER)
        sunk = sunk or not made.isdisjoint(products)
        if sunk and made & needed_inside and not made & needed_outside:
            inside.append(eqn)
            needed_inside.update(operands)
        else:
            needed_outside.update(operands)
    return inside[::-1]


def _is_one_by_one(eqn: JaxprEqn) -> bool:
    """Of keys, jax maps only its default ones, threefry, to what it draws from each."""
    names = [str(a.dtype) for a in jaxprs.avals_of(eqn.invars) if hasattr(a, "dtype")]
    others = any(name.startswith("key<") and name != "key<fry>" for name in names)
    return others or eqn.primitive.name in _ONE_BY_ONE


def _for_all_steps(
    equations: Sequence[JaxprEqn],
    wanted: Sequence[Var],
    values: dict[Var, Any],
    sequences: dict[Var, Any],
) -> dict[Var, Array]:
    """The wanted values of equations that depend on xs, for all steps."""
    if not wanted:
        return {}

    def one_step(step: dict[int, Array]) -> list[Array]:
        env = {v: step[n] for n, v in enumerate(sequences)}
        for eqn in equations:
            operands = [
                v.val if isinstance(v, Literal) else env[v] if v in env else values[v]
                for v in eqn.invars
            ]
            env |= dict(zip(eqn.outvars, compat.bind_equation(eqn, operands), strict=True))
        return [env[v] for v in wanted]

    over_steps = dict(enumerate(sequences.values()))
    if any(map(_is_one_by_one, equations)):
        return dict(zip(wanted, lax.map(one_step, over_steps), strict=True))
    return dict(zip(wanted, jax.vmap(one_step)(over_steps), strict=True))
