# SPDX-License-Identifier: Apache-2.0
"""A step of a batch as the step of one row: the inverse of `jax.vmap`.

A step function computes with arrays of a whole batch, [B, H] say. Where no equation mixes rows, the
same step on one row says all: its arrays have features only. `of_one_row` finds it equation by
equation, and with it which operands have an axis of rows, and where.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jax_persistent import compat
from jax_persistent.programs import jaxprs

# fmt: off
ELEMENTWISE = frozenset((
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "cbrt", "ceil", "clamp", "convert_element_type", "copy", "copy_p", "cos", "cosh", "div",
    "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow",
    "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "name",
    "ne", "neg", "nextafter", "not", "one_minus_square", "or", "pow", "reduce_precision", "rem",
    "round", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub",
    "tan", "tanh", "xor",
))
# fmt: on
# What may be done to a sum over rows before it is summed up.
_LINEAR = frozenset({"add_any", "convert_element_type", "copy", "copy_p", "neg", "reduce_sum"})
_LINEAR |= {"reshape", "squeeze", "transpose", "broadcast_in_dim"}
_REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min")


class Unfit(Exception):
    """A step that has no program, and why: the message, and the equation that is in the way."""

    def __init__(self, reason: str, equation: JaxprEqn | None = None) -> None:
        super().__init__(reason)
        self.reason, self.equation = reason, equation

    def __str__(self) -> str:
        if self.equation is None:
            return self.reason
        line = compat.line_of(self.equation)
        return f"{self.reason} ({self.equation.primitive.name}, {line})"


class _MapOperand(Exception):
    """An operand of the step turns out to have an axis of rows."""

    def __init__(self, operand: int, axis: int) -> None:
        self.operand, self.axis = operand, axis


@dataclass(frozen=True)
class RowStep:
    """The step of one row.

    Attributes:
      jaxpr: of one row's arrays.
      axes: for each operand of the batch's step, where its axis of rows is; None if it has none.
      out_axes: the same for each result; "sum" if it is to be summed over the rows.
      grouped: whether a product has a matrix for each row.
    """

    jaxpr: ClosedJaxpr
    axes: tuple[int | None, ...]
    out_axes: tuple[int | str, ...]
    grouped: bool


@dataclass
class _Value:
    """A value in the step: of one row, if `axis` says which of the batch's axes is left out."""

    value: Any
    shape: tuple[int, ...]  # the batch's
    axis: int | None = None
    is_sum: bool = False  # to be summed over the rows
    operand: int | None = None
    equation: JaxprEqn | None = None
    operands: list[_Value] = field(default_factory=list)
    result: int = 0  # of the equation


def of_one_row(closed: ClosedJaxpr, axes: Sequence[int | None]) -> RowStep:
    """The step of one row, given the axes of rows that are known; others are found.

    Raises Unfit where an equation mixes rows, or is not known.
    """
    found = list(axes)
    while True:
        run = _Run(closed, found)
        try:
            jaxpr = jaxprs.traced(run, run.row_avals())
        except _MapOperand as needed:
            if found[needed.operand] is not None:
                raise Unfit("two axes of one array are rows") from None
            found[needed.operand] = needed.axis
            continue
        return RowStep(jaxprs.pruned(jaxpr), tuple(found), tuple(run.out_axes), run.grouped)


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


class _Run:
    """One attempt: the batch's step, evaluated on one row's values."""

    def __init__(self, closed: ClosedJaxpr, axes: Sequence[int | None]) -> None:
        self.closed, self.axes = closed, axes
        self.out_axes: list[int | str] = []
        self.grouped = False
        self.size = next(
            v.aval.shape[a] for v, a in zip(closed.jaxpr.invars, axes, strict=True) if a is not None
        )

    def row_avals(self) -> list[Any]:
        return [
            v.aval if a is None else v.aval.update(shape=_without(v.aval.shape, a))
            for v, a in zip(self.closed.jaxpr.invars, self.axes, strict=True)
        ]

    def __call__(self, *operands: Any) -> list[Any]:
        jaxpr = self.closed.jaxpr
        values = [
            _Value(value, v.aval.shape, axis, operand=n)
            for n, (value, v, axis) in enumerate(
                zip(operands, jaxpr.invars, self.axes, strict=True)
            )
        ]
        constants = [_Value(c, c.shape) for c in self.closed.consts]
        results = jaxprs.evaluate(jaxpr, constants, values, self.equation)
        self.out_axes, found = [], []
        for result in results:
            value = result if isinstance(result, _Value) else _Value(result, ())
            if value.axis is None and not value.is_sum:
                value = self.mapped(value, 0)
            self.out_axes.append("sum" if value.is_sum else value.axis)  # type: ignore[arg-type]
            found.append(value.value)
        return found

    def equation(self, eqn: JaxprEqn, operands: list[Any]) -> list[_Value]:
        values = [o if isinstance(o, _Value) else _Value(o, ()) for o in operands]
        name = eqn.primitive.name
        if any(v.is_sum for v in values):
            linear = name in _LINEAR and all(v.is_sum for v in values)
            # The sum over a single row is its value, and may be anything's operand.
            mixed = any(v.axis is not None for v in values)
            if linear or (self.size == 1 and not mixed):
                return self.bind(eqn, values, None, eqn.params, is_sum=True)
            if self.size > 1 or name not in ELEMENTWISE:
                raise Unfit("its operand is a sum over rows", eqn)
        if all(v.axis is None for v in values):
            return self.bind(eqn, values, None, eqn.params)
        if name in ELEMENTWISE:
            return self.elementwise(eqn, values)
        rule = getattr(self, f"_{name}", None)
        if rule is None:
            raise Unfit(f"{name} is not known", eqn)
        return rule(eqn, values)

    def bind(
        self, eqn: JaxprEqn, values: list[_Value], axis: int | None, params: Any, **flags: Any
    ) -> list[_Value]:
        changed = eqn if params is eqn.params else eqn.replace(params=dict(params))
        results = compat.bind_equation(changed, [v.value for v in values])
        return [
            _Value(r, a.shape, axis, equation=eqn, operands=values, result=n, **flags)
            for n, (r, a) in enumerate(zip(results, jaxprs.avals_of(eqn.outvars), strict=True))
        ]

    def mapped(self, value: _Value, axis: int) -> _Value:
        """The value of one row, the axis of rows being `axis`."""
        if value.axis == axis:
            return value
        if value.axis is not None:
            raise Unfit("rows are on two different axes of its operands", value.equation)
        if value.shape[axis] != 1:
            return self._derived(value, axis)
        try:  # with a batch of one row, what comes from an operand has its rows
            if self.size == 1:
                return self._derived(value, axis)
        except Unfit:
            pass
        return _Value(lax.squeeze(value.value, (axis,)), value.shape, axis)

    def _derived(self, value: _Value, axis: int) -> _Value:
        """The same of a value that does not know of rows yet, by what it is made of."""
        row_shape = _without(value.shape, axis)
        if value.operand is not None:
            raise _MapOperand(value.operand, axis)
        eqn, operands = value.equation, value.operands
        if eqn is None:
            raise Unfit("a constant has an axis of rows")
        name, params = eqn.primitive.name, dict(eqn.params)
        if name in ELEMENTWISE:
            return self.elementwise(
                eqn, [self.mapped(v, axis) if v.shape else v for v in operands], axis
            )[0]
        if name == "iota" and params["dimension"] != axis:
            params["shape"] = row_shape
            params["dimension"] -= params["dimension"] > axis
            return self.bind(eqn, operands, axis, params)[0]
        if name == "broadcast_in_dim":
            (operand,) = operands
            dims = params["broadcast_dimensions"]
            if axis in dims:
                return self._broadcast_in_dim(eqn, [self.mapped(operand, dims.index(axis))])[0]
            params["shape"] = row_shape
            params["broadcast_dimensions"] = tuple(d - (d > axis) for d in dims)
            return self.bind(eqn, operands, axis, params)[0]
        if name == "dot_general":
            rows = list(operands)
            for side, at in _sources(eqn, [len(v.shape) for v in operands], axis):
                rows[side] = self.mapped(rows[side], at)
            return self._dot_general(eqn, rows)[0]
        before = _axis_before(eqn, value.shape, operands[0].shape, axis)
        if before is not None:
            rule = getattr(self, f"_{name}")
            return rule(eqn, [self.mapped(v, before) if v.shape else v for v in operands])[
                value.result
            ]
        raise Unfit("what it makes has an axis of rows, of which it knows nothing", eqn)

    def elementwise(
        self, eqn: JaxprEqn, values: list[_Value], axis: int | None = None
    ) -> list[_Value]:
        if axis is None:
            axis = next(v.axis for v in values if v.axis is not None)
        rows = [v if not v.shape else self.mapped(v, axis) for v in values]
        return self.bind(eqn, rows, axis, eqn.params)

    def _broadcast_in_dim(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        (operand,) = values
        dims, shape = eqn.params["broadcast_dimensions"], eqn.params["shape"]
        at = operand.axis
        assert at is not None
        axis = dims[at]
        params = dict(eqn.params, shape=_without(shape, axis))
        params["broadcast_dimensions"] = tuple(
            d - (d > axis) for n, d in enumerate(dims) if n != at
        )
        return self.bind(eqn, values, axis, params)

    def _reshape(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        (operand,) = values
        shape = eqn.params["new_sizes"]
        assert operand.axis is not None
        axis = _same_axis(operand.shape, shape, operand.axis)
        if axis is None:
            raise Unfit("it merges the axis of rows with another", eqn)
        return self.bind(eqn, values, axis, dict(eqn.params, new_sizes=_without(shape, axis)))

    def _squeeze(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        (operand,) = values
        at, dims = operand.axis, eqn.params["dimensions"]
        assert at is not None
        if at in dims:
            raise Unfit("it drops the axis of rows", eqn)
        params = dict(eqn.params, dimensions=tuple(d - (d > at) for d in dims))
        return self.bind(eqn, values, at - sum(d < at for d in dims), params)

    def _transpose(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        (operand,) = values
        at, order = operand.axis, eqn.params["permutation"]
        assert at is not None
        params = dict(eqn.params, permutation=tuple(d - (d > at) for d in order if d != at))
        return self.bind(eqn, values, order.index(at), params)

    def _concatenate(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        axis = next(v.axis for v in values if v.axis is not None)
        along = eqn.params["dimension"]
        if along == axis:
            raise Unfit("it concatenates rows", eqn)
        params = dict(eqn.params, dimension=along - (along > axis))
        return self.bind(eqn, [self.mapped(v, axis) for v in values], axis, params)

    def _split(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        axis, along = values[0].axis, eqn.params["axis"]
        assert axis is not None
        if along == axis:
            raise Unfit("it splits the rows", eqn)
        return self.bind(eqn, values, axis, dict(eqn.params, axis=along - (along > axis)))

    def _slice(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        axis, params = values[0].axis, dict(eqn.params)
        assert axis is not None
        if jaxprs.aval_of(eqn.outvars[0]).shape[axis] != self.size:
            raise Unfit("it takes some of the rows", eqn)
        for name in ("start_indices", "limit_indices", "strides"):
            if params[name] is not None:
                params[name] = _without(params[name], axis)
        return self.bind(eqn, values, axis, params)

    def _pad(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        axis, padding = values[0].axis, eqn.params["padding_config"]
        if axis is None or values[1].axis is not None or padding[axis] != (0, 0, 0):
            raise Unfit("it pads the rows", eqn)
        return self.bind(
            eqn, values, axis, dict(eqn.params, padding_config=_without(padding, axis))
        )

    def _reduce(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        axis, axes = values[0].axis, eqn.params["axes"]
        assert axis is not None
        left = tuple(a - (a > axis) for a in axes if a != axis)
        is_sum = axis in axes
        if is_sum and eqn.primitive.name != "reduce_sum":
            raise Unfit("it compares rows", eqn)
        after = None if is_sum else axis - sum(a < axis for a in axes)
        return self.bind(eqn, values, after, dict(eqn.params, axes=left), is_sum=is_sum)

    _reduce_sum = _reduce_max = _reduce_min = _reduce

    def _dot_general(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        contracted, batch = (list(map(list, pair)) for pair in eqn.params["dimension_numbers"])
        side = 0 if values[0].axis is not None else 1
        other, axis = 1 - side, values[side].axis
        assert axis is not None
        if axis in contracted[side]:
            raise Unfit("it sums over rows", eqn)
        free = _free(eqn, [len(v.shape) for v in values])
        if axis in batch[side]:
            place = batch[side].index(axis)
            values = list(values)
            values[other] = self.mapped(values[other], batch[other][place])
            self.grouped = True
            removed = {side: axis, other: batch[other].pop(place)}
            batch[side].pop(place)
            after = place
        else:
            if values[other].axis is not None:
                raise Unfit("it multiplies every row with every other", eqn)
            removed = {side: axis}
            after = len(batch[0]) + free[side].index(axis) + (len(free[0]) if side else 0)
        for s, gone in removed.items():
            contracted[s] = [d - (d > gone) for d in contracted[s]]
            batch[s] = [d - (d > gone) for d in batch[s]]
        numbers = tuple(tuple(map(tuple, pair)) for pair in (contracted, batch))
        return self.bind(eqn, values, after, dict(eqn.params, dimension_numbers=numbers))


def _free(eqn: JaxprEqn, ranks: Sequence[int]) -> list[list[int]]:
    """The axes of a product's operands that its result has, one operand's after the other's."""
    contracted, batch = eqn.params["dimension_numbers"]
    return [
        [d for d in range(rank) if d not in contracted[s] and d not in batch[s]]
        for s, rank in enumerate(ranks)
    ]


def _sources(eqn: JaxprEqn, ranks: Sequence[int], axis: int) -> list[tuple[int, int]]:
    """The operands of a product, and their axes, that an axis of its result comes from."""
    _, batch = eqn.params["dimension_numbers"]
    at = axis - len(batch[0])
    if at < 0:
        return [(side, batch[side][axis]) for side in (0, 1)]
    free = _free(eqn, ranks)
    side = 0 if at < len(free[0]) else 1
    return [(side, free[side][at - side * len(free[0])])]


def _axis_before(
    eqn: JaxprEqn, shape: Sequence[int], operand: Sequence[int], axis: int
) -> int | None:
    """The axis of an equation's operands that is this one of its result."""
    name, params = eqn.primitive.name, eqn.params
    if name == "reshape":
        return _same_axis(shape, operand, axis)
    if name == "transpose":
        return int(params["permutation"][axis])
    if name == "squeeze" or name in _REDUCTIONS:
        gone = params["dimensions" if name == "squeeze" else "axes"]
        return [d for d in range(len(operand)) if d not in gone][axis]
    return axis if name in ("split", "slice", "pad", "concatenate") else None


def _same_axis(shape: Sequence[int], other: Sequence[int], axis: int) -> int | None:
    """Where a reshape to `other` has the axis, if it leaves it by itself."""
    before = math.prod(shape[:axis])
    for n, size in enumerate(other):
        if size == shape[axis] and math.prod(other[:n]) == before:
            return n
    return None
