# SPDX-License-Identifier: Apache-2.0
"""A step in its plain form: of one row, all else left out.

Legend: T steps, G groups, B rows of a group; a group has matrices of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal

from jax_persistent.programs import derivative, jaxprs
from jax_persistent.programs.around import Around
from jax_persistent.programs.program import Program, program_of
from jax_persistent.programs.rows import RowStep, Unfit, of_one_row

Axes = tuple[int | None, ...]


@dataclass(frozen=True)
class Layout:
    """Where an array's axes of rows are, one after the other, each counted without those before."""

    axes: Axes
    grouped: bool  # whether the first of them is that of groups

    def flags(self) -> tuple[bool, bool]:
        """Whether the plain array has an axis of groups, and one of rows."""
        of_rows = self.axes[1:] if self.grouped else self.axes
        has_groups = self.grouped and self.axes[0] is not None
        return has_groups, any(axis is not None for axis in of_rows)

    def is_of_groups(self) -> bool:
        """Whether the array has no axis of rows, and that of groups first, if it has one."""
        has_groups, has_rows = self.flags()
        return not has_rows and (not has_groups or self.axes[0] == 0)

    def plain(self, array: Array, sizes: Sequence[int], sequence: bool) -> Array:
        """[T?, G?, B?, features..] of an array as the user's step has it; `sizes` of the levels."""
        first = int(sequence)
        for level, axis in enumerate(self.axes):
            at = first + sum(a is not None for a in self.axes[:level])
            if axis is not None:
                array = jnp.moveaxis(array, at + axis, at)
        has_groups, has_rows = self.flags()
        begin = first + has_groups
        lead = array.shape[:begin]
        features = array.shape[first + sum(a is not None for a in self.axes) :]
        if not has_rows:
            return array
        levels = range(1 if self.grouped else 0, len(self.axes))
        there = [sizes[n] if self.axes[n] is not None else 1 for n in levels]
        whole = [sizes[n] for n in levels]
        array = array.reshape(*lead, *there, *features)
        if there != whole:
            array = jnp.broadcast_to(array, (*lead, *whole, *features))
        return array.reshape(*lead, math.prod(whole), *features)

    def restored(self, array: Array, sizes: Sequence[int], sequence: bool) -> Array:
        """The inverse for a result [T?, G, B, features..], which has every axis."""
        first = int(sequence)
        features = array.shape[first + 2 :]
        array = array.reshape(*array.shape[:first], *sizes, *features)
        for level in reversed(range(len(self.axes))):
            axis = self.axes[level]
            assert axis is not None
            array = jnp.moveaxis(array, first + level, first + level + axis)
        return array


@dataclass(eq=False)
class Step:
    """A step of (consts, carry, xs) to (carry, ys).

    Attributes:
      source: as it was traced, of a whole batch.
      consts, carry: how many there are.
      levels: the axes of rows, one set after the other: those of each operand and of each result.
      grouped: whether the first of them is one of groups.
      row: the same of one row, without calls.
      pass_: "forward", or "backward" of the gradient of another step.
      trains: whether it is that gradient, or keeps what one reads.
    """

    source: ClosedJaxpr
    consts: int
    carry: int
    levels: tuple[RowStep, ...]
    grouped: bool
    row: ClosedJaxpr
    pass_: str = "forward"
    trains: bool = False

    @classmethod
    def of(cls, source: ClosedJaxpr, consts: int, carry: int) -> Step:
        """Raises Unfit where the step mixes rows or is of no known form."""
        source = jaxprs.pruned(source)
        whole = jaxprs.pruned(jaxprs.inlined(source, custom=True))
        levels: list[RowStep] = []
        row = whole
        while min(len(a.shape) for a in _carry(row, consts, carry)) >= (1 if levels else 2):
            ranks = [len(a.shape) for a in _carry(row, consts, carry)]
            if levels and max(ranks) < 2:
                break
            known: list[int | None] = [None] * len(row.jaxpr.invars)
            known[consts : consts + carry] = [0] * carry
            try:
                found = of_one_row(row, known)
                _check(found, levels, carry)
            except Unfit:
                if not levels:
                    raise
                break
            levels.append(found)
            row = found.jaxpr
        grouped = bool(levels) and levels[0].grouped
        return cls(source, consts, carry, tuple(levels), grouped, row)

    @classmethod
    def of_row(cls, row: ClosedJaxpr, consts: int, carry: int, pass_: str, trains: bool) -> Step:
        return cls(row, consts, carry, (), False, row, pass_, trains)

    @property
    def label(self) -> str:
        """The name of its kernel in profiles: with how many units the first of the carry has."""
        units = math.prod(jaxprs.aval_of(self.row.jaxpr.invars[self.consts]).shape)
        return f"scan {units} {self.pass_}"

    def operand_layouts(self) -> list[Layout]:
        count = len(self.source.jaxpr.invars)
        axes = [tuple(level.axes[n] for level in self.levels) for n in range(count)]
        return [Layout(a, self.grouped) for a in axes]

    def result_layouts(self) -> list[Layout]:
        count = len(self.source.jaxpr.outvars)
        axes: list[Any] = [tuple(level.out_axes[n] for level in self.levels) for n in range(count)]
        return [Layout(a, self.grouped) for a in axes]

    def sizes(self) -> tuple[int, ...]:
        """Of the axes of rows."""
        sizes, shapes = [], [v.aval.shape for v in self.source.jaxpr.invars]
        for level in self.levels:
            sizes.append(shapes[self.consts][level.axes[self.consts]])
            shapes = [
                s if a is None else (*s[:a], *s[a + 1 :])
                for s, a in zip(shapes, level.axes, strict=True)
            ]
        return tuple(sizes)

    def of_same_rows(
        self, step: ClosedJaxpr, operands: Sequence[Axes]
    ) -> tuple[ClosedJaxpr, list[tuple[int | str, ...]]]:
        """Another step of the same batch, given its operands' axes, as one of one row.

        Returns it, and the axes of its results.
        """
        row = jaxprs.inlined(step, custom=True)
        results: list[tuple[int | str, ...]] = [()] * len(step.jaxpr.outvars)
        for n in range(len(self.levels)):
            given = tuple(axes[n] for axes in operands)
            found = of_one_row(row, given)
            if found.axes != given:
                raise Unfit("its derivative has rows where the step has none")
            row = found.jaxpr
            results = [(*a, b) for a, b in zip(results, found.out_axes, strict=True)]
        return row, results

    @cached_property
    def products(self) -> tuple[derivative.Product, ...]:
        """Of one row, with constants."""
        return tuple(derivative.products_of(self.row, self.consts).values())

    def matrices(self) -> set[int]:
        """Which constants are those of products."""
        return {product.const for product in self.products}

    @cached_property
    def around(self) -> Around:
        return Around.of(self.row, self.consts, self.carry)

    @cached_property
    def core(self) -> Step:
        """The recurrence alone, without what is computed for all steps before and after it."""
        parts = self.around
        if parts.is_whole():
            return self
        consts = len(parts.core_consts)
        return Step.of_row(parts.core, consts, self.carry, self.pass_, self.trains)

    @cached_property
    def program(self) -> Program:
        """Of the core. Raises Unfit where the step has none."""
        return self.program_with(frozenset())

    def program_with(self, packed: frozenset[int]) -> Program:
        """The same where some constants of the core are packed matrices."""
        if self.core is not self:
            return self.core.program_with(packed)
        if packed not in self._programs:
            self._programs[packed] = program_of(self.row, self.consts, self.carry, packed)
        return self._programs[packed]

    @cached_property
    def _programs(self) -> dict[frozenset[int], Program]:
        return {}

    @cached_property
    def packable(self) -> frozenset[int]:
        """The constants that the program reads as matrices [K, N] alone: they may be packed."""
        names = self.core.row.jaxpr.invars[: self.core.consts]
        shapes = {n: v.aval.shape for n, v in enumerate(names)}
        of_core = {names[n] for n in self.program.packable(shapes)}
        return frozenset(n for n, v in enumerate(self.row.jaxpr.invars) if v in of_core)

    def has_own_derivatives(self) -> bool:
        """Whether some function in it has a `jax.custom_jvp` or `jax.custom_vjp`."""
        return any(e.primitive.name.startswith("custom_") for e in self.source.jaxpr.eqns)

    def with_results(self, kept: tuple[int, ...]) -> Step:
        """The same with some of its results, the carry among them."""
        if kept not in self._restricted:
            jaxpr = self.row.jaxpr.replace(
                outvars=[self.row.jaxpr.outvars[n] for n in kept],
                debug_info=self.row.jaxpr.debug_info._replace(result_paths=None),
            )
            row = jaxprs.pruned(ClosedJaxpr(jaxpr, self.row.consts))
            how = self.consts, self.carry, self.pass_, self.trains
            self._restricted[kept] = Step.of_row(row, *how)
        return self._restricted[kept]

    @cached_property
    def _restricted(self) -> dict[tuple[int, ...], Step]:
        return {}

    @cached_property
    def backward(self) -> RowBackward:
        return RowBackward.of(self)

    @cached_property
    def tangent(self) -> ClosedJaxpr:
        """The linearised step of one row: of (operands, tangents of float ones)."""
        linear = derivative.tangent(self.source)
        axes = [layout.axes for layout in self.operand_layouts()]
        moving = [
            a
            for a, v in zip(axes, self.source.jaxpr.invars, strict=True)
            if derivative.is_float(v.aval)
        ]
        return self.of_same_rows(linear, [*axes, *moving])[0]


def _carry(closed: ClosedJaxpr, consts: int, carry: int) -> list[Any]:
    return jaxprs.avals_of(closed.jaxpr.invars[consts : consts + carry])


def _check(found: RowStep, levels: Sequence[RowStep], carry: int) -> None:
    if any(axis != 0 for axis in found.out_axes[:carry]):
        raise Unfit("the carry's rows change their place")
    if "sum" in found.out_axes:
        raise Unfit("a result is a sum over rows")
    if found.grouped and levels:
        raise Unfit("matrices differ along an inner axis")


@dataclass(frozen=True)
class RowBackward:
    """`derivative.Backward`, of one row, as two more steps.

    `forward` has the kept values as further ys. `backward` is a step of (consts, [gradients of the
    float carry, sums of constants' gradients], [kept, xs, gradients of float ys]) to (the same
    carry; gradients of the float xs, of the products, factors).

    A constant that is added to a product or to an x has the same gradient as that, which is a y
    already: `same_as` says for each constant which y it is, or None. Those have no sum in the
    carry.
    """

    plan: derivative.Backward
    forward: Step
    backward: Step
    same_as: tuple[int | None, ...]

    @classmethod
    def of(cls, step: Step) -> RowBackward:
        plan = derivative.backward(step.source, step.consts, step.carry)
        axes = [layout.axes for layout in step.operand_layouts()]
        results = [layout.axes for layout in step.result_layouts()]
        row, out_axes = step.of_same_rows(plan.forward, axes)
        kept_axes: list[Any] = out_axes[len(results) :]
        kept = len(kept_axes)
        kept_rows = Step.of_row(row, step.consts, step.carry, step.pass_, trains=True)

        out_avals = jaxprs.avals_of(step.source.jaxpr.outvars)
        gives = [n for n, a in enumerate(out_avals) if derivative.is_float(a)]
        of_xs = step.consts + step.carry
        taken = [
            *(axes[n] for n in plan.read_consts),
            *kept_axes,
            *(axes[of_xs + n] for n in plan.read_xs),
            *(results[n] for n in gives),
        ]
        core, _ = step.of_same_rows(plan.backward, taken)
        consts, sequences = len(plan.read_consts), kept + len(plan.read_xs)
        d_carry = sum(n < step.carry for n in gives)
        moving = len(plan.moving_consts)
        same_as = _same(core, d_carry, moving)
        summed = [d_carry + n for n in range(moving) if same_as[n] is None]
        sums = len(summed)

        def run(*flat: Any) -> list[Any]:
            fixed, flat = flat[:consts], flat[consts:]
            after, flat = flat[:d_carry], flat[d_carry:]
            added, flat = flat[:sums], flat[sums:]
            read, d_ys = flat[:sequences], flat[sequences:]
            found = jaxprs.evaluate(core.jaxpr, core.consts, [*fixed, *read, *after, *d_ys])
            of_moved = zip(found, shapes, strict=False)
            found = [*(a.reshape(shape) for a, shape in of_moved), *found[len(shapes) :]]
            more = [a + found[n] for a, n in zip(added, summed, strict=True)]
            return [*found[:d_carry], *more, *found[d_carry + moving :]]

        avals, outs = jaxprs.avals_of(core.jaxpr.invars), jaxprs.avals_of(core.jaxpr.outvars)
        own = [v.aval for v in step.row.jaxpr.invars]
        moved = [n for n in range(step.consts, len(own)) if derivative.is_float(own[n])]
        moved = [*moved[:d_carry], *plan.moving_consts, *moved[d_carry:]]
        # Of a single row, axes of size 1 may be rows or features.
        shapes = [own[n].shape for n in moved]
        for shape, a in zip(shapes, outs, strict=False):
            if [n for n in shape if n > 1] != [n for n in a.shape if n > 1]:
                raise Unfit("a gradient has its rows on another axis")
        outs = [*map(own.__getitem__, moved), *outs[len(moved) :]]
        at = consts + sequences
        given = [*avals[:consts], *avals[at : at + d_carry], *(outs[n] for n in summed)]
        given += [*avals[consts:at], *avals[at + d_carry :]]
        backward = jaxprs.inlined(jaxprs.traced(run, given), custom=True)
        if [(p.const, p.side) for p in step.products] != [(p.const, p.side) for p in plan.products]:
            raise Unfit("a product has a derivative of its own")
        back = Step.of_row(backward, consts, d_carry + sums, "backward", trains=True)
        return cls(plan, kept_rows, back, same_as)


def _same(core: ClosedJaxpr, first: int, count: int) -> tuple[int | None, ...]:
    """For each of `count` results from the `first` on, which of those after them is its equal."""
    made = {v: eqn for eqn in core.jaxpr.eqns for v in eqn.outvars}

    def origin(v: Any) -> Any:
        """What a value is but for its shape."""
        while v in made and made[v].primitive.name in ("reshape", "squeeze", "reduce_sum"):
            (source,) = made[v].invars
            if jaxprs.aval_of(source).size != jaxprs.aval_of(v).size:
                break
            v = source
        return v

    results = [v if isinstance(v, Literal) else origin(v) for v in core.jaxpr.outvars]
    others = results[first + count :]
    return tuple(
        next((n for n, other in enumerate(others) if other is v), None)
        for v in results[first : first + count]
    )
