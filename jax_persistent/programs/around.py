# SPDX-License-Identifier: Apache-2.0
"""The products of a step that wait for no carry, and those that no carry waits for.

Both are computed for all steps at once, each as one product of T*B rows: the former before the
recurrence, as that of x with its matrix, the latter after it, as the gradient of x is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from jax_persistent import compat
from jax_persistent.problem import PackedKernel
from jax_persistent.programs import jaxprs, products
from jax_persistent.programs.derivative import products_of

Axes = tuple[bool, bool, bool]  # which an array has of steps, groups and rows
_NONE, _EVERY = (False, False, False), (True, True, True)


@dataclass(frozen=True)
class SequenceProduct:
    """Of vectors [T?, G?, B?, K] with a matrix; `how` is the rest of `products.product`'s."""

    vectors: Array
    matrix: Array | PackedKernel
    how: tuple[tuple[str, Any], ...]

    def multiplied(self) -> Array:
        flat, matrix, how = self._flat(), self.matrix, dict(self.how)
        if isinstance(matrix, PackedKernel) and not products.reads_packed(flat, matrix, **how):
            matrix = matrix.unpacked()
        found = products.product(flat, matrix, **how)
        return found.reshape(*self.vectors.shape[:-1], found.shape[1])

    def is_ours(self) -> bool:
        """Whether our kernel is the one that multiplies, with a matrix that is not packed."""
        packed = isinstance(self.matrix, PackedKernel)
        return not packed and products.is_ours(self._flat(), self.matrix, dict(self.how))

    def _flat(self) -> Array:
        return self.vectors.reshape(-1, self.vectors.shape[-1])


@dataclass(frozen=True)
class Value:
    """An array [T?, G?, B?, features..], a packed matrix [G?, K, N], or a product not yet made."""

    array: Any
    axes: Axes

    def unpacked(self) -> Value:
        array = self.array
        return replace(self, array=array.unpacked()) if isinstance(array, PackedKernel) else self

    def of_steps(self, steps: int) -> Value:
        if self.axes[0]:
            return self
        array = jnp.broadcast_to(self.array, (steps, *jnp.shape(self.array)))
        return Value(array, (True, *self.axes[1:]))


@dataclass(frozen=True)
class Around:
    """A step of one row, of (consts, carry, xs) to (carry, ys), in three parts.

    Attributes:
      row: the whole step.
      core: what is left of it, of (`core_consts`, carry, `core_xs`) to (carry, `core_ys`).
      before, after: the equations that are run for all steps, before and after the core.
      core_consts, core_xs, core_ys: which variables of the whole step they are.
    """

    row: ClosedJaxpr
    consts: int
    carry: int
    core: ClosedJaxpr
    before: tuple[JaxprEqn, ...]
    after: tuple[JaxprEqn, ...]
    core_consts: tuple[Var, ...]
    core_xs: tuple[Var, ...]
    core_ys: tuple[Var, ...]

    @classmethod
    def of(cls, row: ClosedJaxpr, consts: int, carry: int) -> Around:
        jaxpr, products = row.jaxpr, products_of(row, consts)
        carry_in, carry_out = jaxpr.invars[consts : consts + carry], jaxpr.outvars[:carry]
        waiting = _descendants(jaxpr.eqns, carry_in)
        awaited = _ancestors(jaxpr.eqns, carry_out)
        dots = [e for e in jaxpr.eqns if e.outvars[0] in products]
        early = [e for e in dots if id(e) not in waiting]
        late = [e for e in dots if id(e) in waiting and id(e) not in awaited]
        before = _ancestors(jaxpr.eqns, [v for e in early for v in e.outvars])
        after = _descendants(jaxpr.eqns, [v for e in late for v in e.outvars])
        after |= {id(e) for e in late}
        made_early = {v for e in early for v in e.outvars}
        made_late = {v for e in jaxpr.eqns if id(e) in after for v in e.outvars}

        # What the core makes: ys, and what the equations after it read.
        apart = made_early | made_late | set(jaxpr.constvars)
        apart |= {*jaxpr.invars[:consts], *jaxpr.invars[consts + carry :]}
        read_late = [v for e in jaxpr.eqns if id(e) in after for v in _variables(e)]
        ys = [v for v in jaxpr.outvars[carry:] if isinstance(v, Var)]
        core_ys = tuple(dict.fromkeys(v for v in (*ys, *read_late) if v not in apart))
        inside = _ancestors(jaxpr.eqns, [*carry_out, *core_ys], until=made_early)
        core_eqns = [e for e in jaxpr.eqns if id(e) in inside]
        read = {v for e in core_eqns for v in _variables(e)} | set(carry_out) | set(core_ys)
        core_consts = tuple(v for v in jaxpr.invars[:consts] if v in read)
        own_xs = [v for v in jaxpr.invars[consts + carry :] if v in read]
        made = [v for e in early for v in e.outvars if v in read]
        core_xs = (*own_xs, *made)
        core = jaxpr.replace(
            invars=[*core_consts, *carry_in, *core_xs],
            outvars=[*carry_out, *core_ys],
            eqns=core_eqns,
            debug_info=jaxpr.debug_info._replace(arg_names=None, result_paths=None),
        )
        return cls(
            row,
            consts,
            carry,
            ClosedJaxpr(core, row.consts),
            tuple(e for e in jaxpr.eqns if id(e) in before),
            tuple(e for e in jaxpr.eqns if id(e) in after),
            core_consts,
            core_xs,
            core_ys,
        )

    def is_whole(self) -> bool:
        """Whether the core is the whole step."""
        core, row = self.core.jaxpr, self.row.jaxpr
        return core.invars == row.invars and core.outvars == row.outvars

    def operands(
        self, operands: Sequence[Value], flat: bool, multiplies: bool = False
    ) -> dict[Var, Value]:
        """Every value that waits for no carry: the operands, and what is computed before.

        With `multiplies`, those that the call of the core can make itself are `SequenceProduct`s.
        """
        jaxpr = self.row.jaxpr
        known = {
            v: Value(value, _NONE)
            for v, value in zip(jaxpr.constvars, self.row.consts, strict=True)
        }
        known |= dict(zip(jaxpr.invars, operands, strict=True))
        for v in jaxpr.invars[self.consts : self.consts + self.carry]:
            del known[v]
        return _for_all_steps(self.before, known, flat, self._of_core_alone if multiplies else ())

    @cached_property
    def _of_core_alone(self) -> frozenset[Var]:
        """Those xs of the core that nothing else reads."""
        elsewhere = [v for e in (*self.before, *self.after) for v in _variables(e)]
        return frozenset(self.core_xs).difference(elsewhere, self.row.jaxpr.outvars)

    def ys(
        self,
        known: dict[Var, Value],
        made: Sequence[Array],
        shape: tuple[int, int, int],
        flat: bool,
    ) -> list[Array]:
        """The ys of the whole step [T, G, B, ..], given what `operands` returned and the core's."""
        known = known | {v: Value(y, _EVERY) for v, y in zip(self.core_ys, made, strict=True)}
        known = _for_all_steps(self.after, known, flat)
        found = []
        for v in self.row.jaxpr.outvars[self.carry :]:
            value = Value(v.val, _NONE) if isinstance(v, Literal) else known[v].unpacked()
            missing = [n for n, there in enumerate(value.axes) if not there]
            array = jnp.expand_dims(jnp.asarray(value.array, v.aval.dtype), missing)
            found.append(jnp.broadcast_to(array, (*shape, *v.aval.shape)))
        return found


def _variables(eqn: JaxprEqn) -> list[Var]:
    return [v for v in eqn.invars if isinstance(v, Var)]


def _descendants(eqns: Sequence[JaxprEqn], of: Iterable[Var]) -> set[int]:
    """Of the equations, by identity, those that wait for some variable."""
    waits, found = set(of), set()
    for eqn in eqns:
        if waits.intersection(_variables(eqn)):
            waits.update(eqn.outvars)
            found.add(id(eqn))
    return found


def _ancestors(
    eqns: Sequence[JaxprEqn], of: Iterable[Any], until: frozenset[Var] | set[Var] = frozenset()
) -> set[int]:
    """Of the equations, by identity, those that some variable waits for; none that make `until`."""
    needed, found = {v for v in of if isinstance(v, Var)} - until, set()
    for eqn in reversed(eqns):
        if needed.intersection(eqn.outvars):
            needed.update(v for v in _variables(eqn) if v not in until)
            found.add(id(eqn))
    return found


def _for_all_steps(
    eqns: Sequence[JaxprEqn],
    known: dict[Var, Value],
    flat: bool,
    unmade: Collection[Var] = (),
) -> dict[Var, Value]:
    """`known` and the results of the equations; of those products that may stay `unmade`, them."""
    known = dict(known)
    for eqn in eqns:
        operands = [Value(v.val, _NONE) if isinstance(v, Literal) else known[v] for v in eqn.invars]
        steps, groups, rows = (any(o.axes[n] for o in operands) for n in range(3))
        product = _flat_product(eqn, operands) if flat else None
        if isinstance(product, SequenceProduct):
            stays = eqn.outvars[0] in unmade and product.is_ours()
            product = product if stays else product.multiplied()
        results = _mapped(eqn, operands) if product is None else [product]
        known |= {
            v: Value(r, (steps, groups, rows)) for v, r in zip(eqn.outvars, results, strict=True)
        }
    return known


def _mapped(eqn: JaxprEqn, operands: Sequence[Value]) -> list[Array]:
    operands = [o.unpacked() for o in operands]

    def run(*arrays: Any) -> list[Array]:
        return compat.bind_equation(eqn, list(arrays))

    for axis in (2, 1, 0):
        mapped = [0 if o.axes[axis] else None for o in operands]
        if 0 in mapped:
            run = jax.vmap(run, mapped)
    return list(run(*(o.array for o in operands)))


def _flat_product(eqn: JaxprEqn, operands: Sequence[Value]) -> SequenceProduct | Array | None:
    """Of vectors with a matrix: one product of all steps' and rows' vectors, or what is made of it.

    XLA keeps steps and rows apart otherwise, in copies where the product is transposed.
    """
    if eqn.primitive.name != "dot_general":
        return None
    contracted, batch = eqn.params["dimension_numbers"]
    fixed = [side for side, o in enumerate(operands) if not any(o.axes)]
    if len(fixed) != 1 or any(batch):
        return None
    (side,) = fixed
    factor, matrix = operands[1 - side], operands[side].array
    lead = factor.array.shape[: sum(factor.axes)]
    of_factor = jaxprs.aval_of(eqn.invars[1 - side]).shape
    if sorted(contracted[1 - side]) != list(range(len(of_factor))):
        return None
    axes = (tuple(1 + n for n in contracted[1 - side]), tuple(contracted[side]))
    precision = eqn.params["precision"]
    if side == 0 and isinstance(precision, tuple):
        precision = precision[::-1]
    dtype = eqn.params["preferred_element_type"]
    if len(of_factor) == 1 and matrix.ndim == 2:
        how = {"right_transposed": axes[1] == (1,), "precision": precision, "dtype": dtype}
        return SequenceProduct(factor.array, matrix, tuple(how.items()))
    vectors = factor.array.reshape(-1, *of_factor)
    found = lax.dot_general(
        vectors, matrix, (axes, ((), ())), precision=precision, preferred_element_type=dtype
    )
    return found.reshape(*lead, *found.shape[1:])
