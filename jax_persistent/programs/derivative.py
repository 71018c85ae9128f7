# SPDX-License-Identifier: Apache-2.0
"""The derivatives of a step: what it keeps, the step that runs backward, and the linearised one.

Backward runs through the steps in the opposite order. A step of it takes the gradients of the carry
after the step and of the ys, and gives those of the carry before, of the xs, of the constants and
of the products. What it reads of the forward step is kept there: the carry before it, and of the
rest what is costly, as products and transcendental functions are. What is cheap it computes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from jax_persistent import compat
from jax_persistent.programs import jaxprs

# fmt: off
_COSTLY = frozenset((
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh",
    "dot_general", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "lgamma", "log", "log1p",
    "logistic", "pow", "reduce_max", "reduce_min", "reduce_sum", "sin", "sinh", "tan", "tanh",
))
# fmt: on
_PARTS = ("split", "slice")


@dataclass(frozen=True)
class Product:
    """A product of a step with one of its constants."""

    const: int  # which of them
    side: int  # 0: it is the left operand
    dimension_numbers: Any


@dataclass(frozen=True)
class Backward:
    """What a step keeps for its derivative, and the step that runs backward.

    Attributes:
      forward: of (consts, carry, xs) to (carry, ys, kept).
      backward: of (consts, kept, xs, gradients of the float carry after and of the float ys) to
        (gradients of the float carry before, of the consts in `moving_consts`, of the float xs, of
        the products, and factors of products that were not kept).
      read_consts, read_xs: which of each `backward` takes.
      moving_consts: the constants with gradients that are not matrices alone.
      products: the products with constants.
      factors: for each product, its other operand: a place among `kept`, or None: it is the next
        of those that `backward` makes.
    """

    forward: ClosedJaxpr
    backward: ClosedJaxpr
    read_consts: tuple[int, ...]
    read_xs: tuple[int, ...]
    moving_consts: tuple[int, ...]
    products: tuple[Product, ...]
    factors: tuple[int | None, ...]


def is_float(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jnp.floating))


def products_of(step: ClosedJaxpr, consts: int) -> dict[Var, Product]:
    """The products that have one of the step's constants as an operand, by their results."""
    place = {v: n for n, v in enumerate(step.jaxpr.invars[:consts])}
    found = {}
    for eqn in step.jaxpr.eqns:
        if eqn.primitive.name != "dot_general":
            continue
        sides = [side for side, v in enumerate(eqn.invars) if place.get(v) is not None]
        if len(sides) == 1:
            (side,) = sides
            numbers = eqn.params["dimension_numbers"]
            found[eqn.outvars[0]] = Product(place[eqn.invars[side]], side, numbers)
    return found


def tangent(step: ClosedJaxpr) -> ClosedJaxpr:
    """The linearised step: of (operands, their tangents, floats only) to (tangents of results)."""
    avals = jaxprs.avals_of(step.jaxpr.invars)
    moves = [is_float(a) for a in avals]
    gives = [is_float(a) for a in jaxprs.avals_of(step.jaxpr.outvars)]
    count = len(avals)

    def linearised(*flat: Any) -> list[Any]:
        operands, tangents = flat[:count], flat[count:]

        def run(*moving: Any) -> list[Any]:
            given = iter(moving)
            full = [next(given) if m else o for o, m in zip(operands, moves, strict=True)]
            results = jaxprs.evaluate(step.jaxpr, step.consts, full)
            return [r for r, g in zip(results, gives, strict=True) if g]

        points = [o for o, m in zip(operands, moves, strict=True) if m]
        return jax.jvp(run, points, list(tangents))[1]

    moving = [a for a, m in zip(avals, moves, strict=True) if m]
    return jaxprs.pruned(jaxprs.inlined(jaxprs.traced(linearised, [*avals, *moving]), custom=True))


def backward(step: ClosedJaxpr, consts: int, carry: int) -> Backward:
    """The derivative in reverse of a step of (consts, carry, xs) to (carry, ys)."""
    jaxpr = step.jaxpr
    avals, out_avals = jaxprs.avals_of(jaxpr.invars), jaxprs.avals_of(jaxpr.outvars)
    products = products_of(step, consts)
    results = {v: n for n, v in enumerate(products)}
    matrices = {p.const for p in products.values()}
    read = {v for e in jaxpr.eqns for v in _elsewhere(e, products)} | set(jaxpr.outvars)
    moving_consts = [
        n
        for n, v in enumerate(jaxpr.invars[:consts])
        if is_float(v.aval) and (n not in matrices or v in read)
    ]
    moving = moving_consts + [n for n in range(consts, len(avals)) if is_float(avals[n])]
    gives = [n for n, a in enumerate(out_avals) if is_float(a)]

    def joint(*flat: Any) -> list[Any]:
        operands, cotangents = list(flat[: len(avals)]), list(flat[len(avals) :])

        def run(moved: list[Any], added: list[Any]) -> tuple[list[Any], list[Any]]:
            full, factors = list(operands), [None] * len(products)
            for n, value in zip(moving, moved, strict=True):
                full[n] = value

            def rule(eqn: JaxprEqn, values: list[Any]) -> Sequence[Any] | None:
                n = results.get(eqn.outvars[0])
                if n is None:
                    return None
                factors[n] = values[1 - products[eqn.outvars[0]].side]
                # The matrix is constant here: its gradient is a product over all steps.
                return [compat.bind_equation(eqn, values)[0] + added[n]]

            found = jaxprs.evaluate(jaxpr, step.consts, full, rule)
            return [found[n] for n in gives], [*found, *factors]

        of_products = map(jaxprs.aval_of, products)
        zeros = [jnp.zeros(a.shape, a.dtype) for a in of_products]
        _, pull, computed = jax.vjp(run, [operands[n] for n in moving], zeros, has_aux=True)
        of_moved, of_added = pull(cotangents)
        return [*computed, *of_moved, *of_added]

    given = [*avals, *(out_avals[n] for n in gives)]
    whole = jaxprs.merged(jaxprs.inlined(jaxprs.traced(joint, given), custom=True)).jaxpr
    operands, cotangents = whole.invars[: len(avals)], whole.invars[len(avals) :]
    at = len(out_avals)
    outs, factors = whole.outvars[:at], whole.outvars[at : at + len(products)]
    gradients = whole.outvars[at + len(products) :]
    of_consts, of_rest = gradients[: len(moving_consts)], gradients[len(moving_consts) :]
    float_carry = sum(n < consts + carry for n in moving[len(moving_consts) :])
    of_carry, of_rest = of_rest[:float_carry], of_rest[float_carry:]

    primal, linear, made = _parted(whole, cotangents)
    keeper = _Keeper(made, set(operands[consts : consts + carry]), set(operands), primal)
    wanted = [*of_carry, *of_consts, *of_rest]
    for v in (*(v for e in linear for v in e.invars), *wanted, *factors):
        keeper.need(v)
    keeper.drop_parts(set(factors))
    kept = list(keeper.kept)
    again = [v for v in factors if v not in keeper.kept]
    computed = [e for e in primal if keeper.recomputed.intersection(e.outvars)]
    read_consts = [n for n in range(consts) if operands[n] in keeper.read]
    read_xs = [n for n in range(consts + carry, len(avals)) if operands[n] in keeper.read]
    takes = [*(operands[n] for n in read_consts), *kept, *(operands[n] for n in read_xs)]
    forward = jaxprs.rebuilt(whole, operands, [*outs, *kept], primal)
    back = jaxprs.rebuilt(whole, [*takes, *cotangents], [*wanted, *again], [*computed, *linear])
    return Backward(
        jaxprs.pruned(forward),
        jaxprs.pruned(back),
        tuple(read_consts),
        tuple(n - consts - carry for n in read_xs),
        tuple(moving_consts),
        tuple(products.values()),
        tuple(kept.index(v) if v in keeper.kept else None for v in factors),
    )


def _elsewhere(eqn: JaxprEqn, products: dict[Var, Product]) -> list[Any]:
    """The operands of an equation but for the matrix of a product."""
    product = products.get(eqn.outvars[0])
    skipped = None if product is None else product.side
    return [v for n, v in enumerate(eqn.invars) if n != skipped and isinstance(v, Var)]


def _parted(
    jaxpr: Any, cotangents: Sequence[Var]
) -> tuple[list[JaxprEqn], list[JaxprEqn], dict[Var, JaxprEqn]]:
    """The equations that wait for no cotangent, those that do, and the makers of all values."""
    waits, primal, linear = set(cotangents), [], []
    made: dict[Var, JaxprEqn] = {}
    for eqn in jaxpr.eqns:
        if waits.intersection(v for v in eqn.invars if isinstance(v, Var)):
            linear.append(eqn)
            waits.update(eqn.outvars)
        else:
            primal.append(eqn)
            made |= dict.fromkeys(eqn.outvars, eqn)
    return primal, linear, made


class _Keeper:
    """Decides what is kept of a step's values and what is computed again."""

    def __init__(
        self,
        made: dict[Var, JaxprEqn],
        carry: set[Var],
        operands: set[Var],
        primal: Sequence[JaxprEqn],
    ) -> None:
        self.made, self.carry, self.operands = made, carry, operands
        self.kept: dict[Var, None] = {}
        self.recomputed: set[Var] = set()
        self.read: set[Var] = set()
        # Values that wait for no operand are no one's to keep.
        self.fixed: set[Var] = set()
        for eqn in primal:
            variables = [v for v in eqn.invars if isinstance(v, Var)]
            if all(v in self.fixed for v in variables):
                self.fixed.update(eqn.outvars)

    def need(self, v: Any) -> None:
        if isinstance(v, Literal) or v in self.kept or v in self.recomputed or v in self.read:
            return
        if v in self.carry:
            self.kept[v] = None
        elif v in self.operands:
            self.read.add(v)
        elif v in self.made:
            eqn = self.made[v]
            name = eqn.primitive.name
            is_part = name in _PARTS and eqn.invars[0] in self.made
            cheap = name not in _COSTLY and not is_part
            if v not in self.fixed and not cheap:
                self.kept[v] = None
                return
            self.recomputed.update(eqn.outvars)
            for operand in eqn.invars:
                self.need(operand)

    def drop_parts(self, others: set[Any]) -> None:
        """Keeps no part of a value that is kept whole, but for `others`, the products' factors."""
        for v in [v for v in self.kept if v in self.made and v not in others]:
            eqn = self.made[v]
            if eqn.primitive.name in _PARTS and eqn.invars[0] in self.kept:
                del self.kept[v]
                self.recomputed.update(eqn.outvars)
