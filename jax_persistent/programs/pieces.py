# SPDX-License-Identifier: Apache-2.0
"""The step of one row as vectors: every value cut into pieces that are treated alike.

A value is a vector of features. Where a step splits, slices, concatenates or broadcasts vectors,
they are cut, so that of all those operations nothing is left: an operation works on one piece each
of its operands, all of one width, or of width 1, which counts for every feature. What is still side
by side in the end is one piece again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.lax import RoundingMethod

from jax_persistent.programs import jaxprs
from jax_persistent.programs.derivative import products_of
from jax_persistent.programs.making import Maker
from jax_persistent.programs.merging import Merger
from jax_persistent.programs.nodes import Matrix, Node, Pieces, ProductPart, VectorProduct
from jax_persistent.programs.rows import Unfit

# jax's name of an operation: the program's, where they differ.
_RENAMED = {"add_any": "add", "and": "mul", "or": "max", "xor": "ne"}
_SAME = frozenset({"copy", "copy_p", "name", "stop_gradient"})
# fmt: off
UNARY = (
    "abs", "ceil", "cos", "erf", "exp", "exp2", "expm1", "floor", "is_finite", "log", "log1p",
    "logistic", "neg", "not", "rint", "round", "rsqrt", "sign", "sin", "sqrt", "square", "tan",
    "tanh",
)
BINARY = (
    "add", "sub", "mul", "div", "max", "min", "pow", "eq", "ne", "lt", "le", "gt", "ge",
)
_STRUCTURAL = frozenset((
    "broadcast_in_dim", "concatenate", "pad", "reshape", "rev", "slice", "split", "squeeze",
    "transpose",
))
# fmt: on
_REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min"}
_DTYPES = ("float32", "bfloat16", "bool")
_MOST_CUTS, _MOST_NODES, _MOST_POWER = 512, 4000, 16


def pieces_of(row: ClosedJaxpr, consts: int, carry: int) -> Pieces:
    """Raises Unfit where an equation has no counterpart among the program's operations."""
    return _Cutter(row, consts, carry).run()


def _size(atom: Any) -> int:
    return int(np.prod(atom.aval.shape, dtype=np.int64))


class _Cutter:
    def __init__(self, row: ClosedJaxpr, consts: int, carry: int) -> None:
        self.row, self.consts, self.carry = row, consts, carry
        self.jaxpr = row.jaxpr
        self.matrices = products_of(row, consts)
        self.cuts: dict[Var, set[int]] = {}
        self.pieces: dict[Var, list[Node]] = {}
        self.make = Maker()
        self.products: list[VectorProduct] = []

    def run(self) -> Pieces:
        jaxpr = self.jaxpr
        self._check_types()
        self.structure = {
            id(e): list(_segments(e)) for e in jaxpr.eqns if e.primitive.name in _STRUCTURAL
        }
        self._cut()
        for n, v in enumerate(jaxpr.invars):
            at = ("const", n), ("carry", n - self.consts), ("xs", n - self.consts - self.carry)
            kind = (n >= self.consts) + (n >= self.consts + self.carry)
            op, source = at[kind]
            self.pieces[v] = [
                self.make.node(op, (), end - begin, source, begin) for begin, end in self._spans(v)
            ]
        for v, value in zip(jaxpr.constvars, self.row.consts, strict=True):
            values = np.ravel(np.asarray(value, np.float32))
            if values.size > _MOST_CUTS and len(set(values.tolist())) > 1:
                raise Unfit("it has a large constant of its own")
            self.cuts[v] = set(range(values.size + 1))
            self.pieces[v] = [self.make.literal(x) for x in values]
        for eqn in jaxpr.eqns:
            found = self._equation(eqn)
            self.pieces |= dict(zip(eqn.outvars, found, strict=True))
            if len(self.make.known) > _MOST_NODES:
                raise Unfit(f"the step has more than {_MOST_NODES} operations", eqn)
        merger = Merger(self.make.node)
        outs = [merger.vector(self._read(v)) for v in jaxpr.outvars]
        products = [replace(p, factor=tuple(merger.vector(p.factor))) for p in self.products]
        return Pieces(outs[: self.carry], outs[self.carry :], products)

    def _check_types(self) -> None:
        for eqn in self.jaxpr.eqns:
            for v in (*eqn.invars, *eqn.outvars):
                if v.aval.dtype.name not in _DTYPES and not isinstance(v, Literal):
                    raise Unfit(f"it works on {v.aval.dtype}", eqn)
        for v in (*self.jaxpr.invars, *self.jaxpr.outvars):
            if v.aval.dtype.name not in _DTYPES:
                raise Unfit(f"it has an operand or a result of {v.aval.dtype}")

    # Where values are cut.

    def _of(self, v: Any) -> set[int]:
        if isinstance(v, Literal):
            return {0, _size(v)}
        return self.cuts.setdefault(v, {0, _size(v)})

    def _spans(self, v: Any) -> Iterator[tuple[int, int]]:
        return itertools.pairwise(sorted(self._of(v)))

    def _cut(self) -> None:
        """Cuts all values until those that an equation works on are cut alike."""
        while True:
            before = sum(map(len, self.cuts.values()))
            for eqn in (*self.jaxpr.eqns, *reversed(self.jaxpr.eqns)):
                self._cut_alike(eqn)
                if any(len(self._of(v)) > _MOST_CUTS for v in (*eqn.invars, *eqn.outvars)):
                    raise Unfit(f"it cuts a vector into more than {_MOST_CUTS} pieces", eqn)
            if sum(map(len, self.cuts.values())) == before:
                return

    def _cut_alike(self, eqn: JaxprEqn) -> None:
        name = eqn.primitive.name
        if name in _STRUCTURAL:
            for out, segments in zip(eqn.outvars, self.structure[id(eqn)], strict=True):
                ends = self._of(out)
                for begin, length, operand, at, is_splat in segments:
                    ends |= {begin, begin + length}
                    if operand is None or isinstance(eqn.invars[operand], Literal):
                        continue
                    source = self._of(eqn.invars[operand])
                    if is_splat:
                        source |= {at, at + 1}
                        continue
                    source |= {at, at + length}
                    source |= {c - begin + at for c in ends if begin <= c <= begin + length}
                    ends |= {c - at + begin for c in source if at <= c <= at + length}
        elif name == "dot_general":
            heads = _heads(eqn, self.matrices)
            self._of(eqn.outvars[0]).update(range(0, _size(eqn.outvars[0]) + 1, heads.width))
            factor = eqn.invars[1 - heads.side]
            self._of(factor).update(range(0, _size(factor) + 1, heads.k))
        elif name in _REDUCTIONS and _reduction(eqn)[0] > 1:
            inner, leading = _reduction(eqn)
            (reduced,), (out,) = eqn.invars, eqn.outvars
            if leading:
                ends, source = self._of(out), self._of(reduced)
                size = _size(out)
                ends |= {c % size for c in source}
                source |= {n * size + c for n in range(_size(reduced) // size) for c in ends}
            else:
                self._of(reduced).update(range(0, _size(reduced) + 1, inner))
                self._of(out).update(range(_size(out) + 1))
        else:
            whole = [
                v
                for v in (*eqn.invars, *eqn.outvars)
                if not isinstance(v, Literal) and _size(v) == _size(eqn.outvars[0])
            ]
            together = set().union(*map(self._of, whole))
            for v in whole:
                self.cuts[v] = set(together)

    # What pieces are made of.

    def _read(self, atom: Any) -> list[Node]:
        if isinstance(atom, Literal):
            return [self.make.literal(x) for x in np.ravel(np.asarray(atom.val, np.float32))]
        return self.pieces[atom]

    def _equation(self, eqn: JaxprEqn) -> list[list[Node]]:
        name = eqn.primitive.name
        if name in _STRUCTURAL:
            return [self._structural(eqn, n) for n in range(len(eqn.outvars))]
        if name == "dot_general":
            return [self._product(eqn)]
        if name in _REDUCTIONS:
            return [self._reduced(eqn)]
        spans = list(self._spans(eqn.outvars[0]))
        operands = [self._read(v) for v in eqn.invars]
        widths = [end - begin for begin, end in spans]
        for v, pieces in zip(eqn.invars, operands, strict=True):
            same = _size(v) in (1, _size(eqn.outvars[0])) or len(set(widths)) == 1
            aligned = len(pieces) == len(spans) and all(
                p.width in (1, width) for p, width in zip(pieces, widths, strict=True)
            )
            if _size(v) > 1 and not (same and aligned):
                raise Unfit("it repeats an operand along some of its axes", eqn)
        found = []
        for n, (begin, end) in enumerate(spans):
            args = [o[n] if len(o) == len(spans) else o[0] for o in operands]
            found.append(self.make.widened(self._operation(eqn, args), end - begin))
        return [found]

    def _structural(self, eqn: JaxprEqn, result: int) -> list[Node]:
        found = []
        out, segments = eqn.outvars[result], self.structure[id(eqn)][result]
        for begin, end in self._spans(out):
            first, _, operand, at, is_splat = next(
                s for s in segments if s[0] <= begin < s[0] + s[1]
            )
            if operand is None:  # padding
                found.append(self.make.widened(self._read(eqn.invars[1])[0], end - begin))
                continue
            source = eqn.invars[operand]
            place = at if is_splat else at + begin - first
            pieces = self._read(source)
            spans = list(self._spans(source))
            if isinstance(source, Literal):
                node = pieces[min(place, len(pieces) - 1)]
            else:
                node = pieces[next(n for n, (b, _) in enumerate(spans) if b == place)]
            found.append(self.make.widened(node, end - begin))
        return found

    def _product(self, eqn: JaxprEqn) -> list[Node]:
        heads = _heads(eqn, self.matrices)
        factor = eqn.invars[1 - heads.side]
        rounds = jaxprs.avals_of([factor])[0].dtype.name == "bfloat16"
        pieces, spans = self._read(factor), list(self._spans(factor))
        # Of an odd number of features a product reads the next one, too: not another head's.
        apart = 1 if heads.k % 2 else heads.count
        found = []
        for first in range(0, heads.count, apart):
            begin, end = first * heads.k, (first + apart) * heads.k
            own = tuple(p for p, (b, _) in zip(pieces, spans, strict=True) if begin <= b < end)
            if not own or sum(p.width for p in own) != apart * heads.k:
                raise Unfit("its factor is cut across heads", eqn)
            base = first * heads.head
            matrix = Matrix(heads.const, base, heads.head, heads.row, heads.column)
            number = len(self.products)
            self.products.append(VectorProduct(own, apart, heads.k, heads.width, rounds, matrix))
            for head in range(apart):
                at = (first + head) * heads.width
                cuts = [c - at for c in sorted(self._of(eqn.outvars[0]))]
                inside = [c for c in cuts if 0 <= c <= heads.width]
                part = ProductPart(number, head, 1)
                found += [
                    self.make.node("product", (), e - b, part, b)
                    for b, e in itertools.pairwise(inside)
                ]
        return found

    def _reduced(self, eqn: JaxprEqn) -> list[Node]:
        kind = _REDUCTIONS[eqn.primitive.name]
        inner, leading = _reduction(eqn)
        (operand,), (out,) = eqn.invars, eqn.outvars
        pieces = self._read(operand)
        if inner == 1:
            return pieces
        if leading:
            per = len(list(self._spans(out)))
            op = "add" if kind == "sum" else kind
            found = pieces[:per]
            for n in range(per, len(pieces), per):
                found = [
                    self.make.apply(op, a, b)
                    for a, b in zip(found, pieces[n : n + per], strict=True)
                ]
            return found
        spans = list(self._spans(operand))
        found = []
        for n in range(_size(out)):
            own = tuple(
                p
                for p, (b, _) in zip(pieces, spans, strict=True)
                if n * inner <= b < (n + 1) * inner
            )
            is_sum = kind == "sum"
            found.append(
                self.make.sum(own) if is_sum else self.make.node("reduce", own, 1, kind, 0)
            )
        return found

    def _operation(self, eqn: JaxprEqn, args: list[Node]) -> Node:
        name = eqn.primitive.name
        if name in _SAME:
            return args[0]
        if name == "convert_element_type":
            (came, to) = (a.dtype.name for a in jaxprs.avals_of([*eqn.invars, *eqn.outvars]))
            if to == "bool" and came != "bool":
                return self.make.apply("ne", args[0], self.make.literal(0))
            return args[0]
        if name == "one_minus_square":  # of jax 0.11, in the derivative of tanh
            return self.make.apply("sub", self.make.literal(1), self.make.apply("square", args[0]))
        if name == "integer_pow":
            return self._power(eqn, args[0])
        if name == "round" and eqn.params["rounding_method"] is RoundingMethod.TO_NEAREST_EVEN:
            name = "rint"
        if name == "select_n":
            if len(args) != 3:
                raise Unfit("it selects among more than two", eqn)
            return self.make.apply("select", *args)
        if name == "clamp":
            low, x, high = args
            return self.make.apply("min", self.make.apply("max", x, low), high)
        name = _RENAMED.get(name, name)
        if name in UNARY or name in BINARY:
            return self.make.apply(name, *args)
        raise Unfit(f"{eqn.primitive.name} is not among the operations of programs", eqn)

    def _power(self, eqn: JaxprEqn, x: Node) -> Node:
        y = eqn.params["y"]
        if not 1 <= abs(y) <= _MOST_POWER:
            raise Unfit(f"it takes the power {y}", eqn)
        found = x
        for bit in bin(abs(y))[3:]:
            found = self.make.apply("square", found)
            if bit == "1":
                found = self.make.apply("mul", found, x)
        return found if y > 0 else self.make.apply("div", self.make.literal(1), found)


def _segments(eqn: JaxprEqn) -> Iterator[list[tuple[int, int, int | None, int, bool]]]:
    """For each result: (begin, length, operand, where in it, whether one feature is repeated).

    An operand of None is the padding.
    """
    counts = [0, *itertools.accumulate(_size(v) for v in eqn.invars)]
    numbered = [
        np.arange(counts[n], counts[n + 1]).reshape(jaxprs.aval_of(v).shape)
        for n, v in enumerate(eqn.invars)
    ]
    for numbers in _rearranged(eqn, numbered):
        flat, found, begin = np.ravel(numbers), [], 0
        while begin < flat.size:
            end = begin + 1
            step = int(flat[end] - flat[begin]) if end < flat.size else 1
            step = step if step in (0, 1) else 1
            owner = None
            if flat[begin] >= 0:
                owner = next(n for n in range(len(numbered)) if flat[begin] < counts[n + 1])
            else:
                step = 0
            limit = np.inf if owner is None else counts[owner + 1]
            while end < flat.size and flat[end] == flat[end - 1] + step and flat[end] < limit:
                end += 1
            at = 0 if owner is None else int(flat[begin]) - counts[owner]
            found.append((begin, end - begin, owner, at, step == 0 and end - begin > 1))
            begin = end
            if len(found) > _MOST_CUTS:
                raise Unfit("it reorders features", eqn)
        yield found


def _rearranged(eqn: JaxprEqn, operands: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a structural equation makes of numbered features; -1 is padding."""
    name, params, first = eqn.primitive.name, eqn.params, operands[0]
    if name in ("reshape", "squeeze"):
        return [first.reshape(jaxprs.aval_of(eqn.outvars[0]).shape)]
    if name == "transpose":
        return [first.transpose(params["permutation"])]
    if name == "rev":
        return [np.flip(first, params["dimensions"])]
    if name == "concatenate":
        return [np.concatenate(operands, params["dimension"])]
    if name == "split":
        return np.split(first, np.cumsum(params["sizes"])[:-1], params["axis"])
    if name == "slice":
        strides = params["strides"] or (1,) * first.ndim
        bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
        return [first[tuple(slice(*b) for b in bounds)]]
    if name == "pad":
        padding = params["padding_config"]
        if any(inner for _, _, inner in padding):
            raise Unfit("it pads between features", eqn)
        widths = [(max(low, 0), max(high, 0)) for low, high, _ in padding]
        padded = np.pad(first, widths, constant_values=-1)
        kept = [
            slice(max(-low, 0), size - max(-high, 0))
            for (low, high, _), size in zip(padding, padded.shape, strict=True)
        ]
        return [padded[tuple(kept)]]
    assert name == "broadcast_in_dim"
    shape = [1] * len(params["shape"])
    for size, dim in zip(first.shape, params["broadcast_dimensions"], strict=True):
        shape[dim] = size
    return [np.broadcast_to(first.reshape(shape), params["shape"])]


def _reduction(eqn: JaxprEqn) -> tuple[int, bool]:
    """How many features become one, and whether they are apart: the leading axes are reduced."""
    shape, axes = jaxprs.aval_of(eqn.invars[0]).shape, eqn.params["axes"]
    kept = [n for n in range(len(shape)) if n not in axes and shape[n] > 1]
    gone = [n for n in axes if shape[n] > 1]
    size = int(np.prod([shape[n] for n in gone], dtype=np.int64))
    if not gone or not kept or max(kept) < min(gone):
        return size, False
    if max(gone) < min(kept):
        return size, True
    raise Unfit("it reduces an axis in the middle", eqn)


@dataclass(frozen=True)
class _Heads:
    """A product as `count` products [k] x [k, width], of which the matrices lie in one constant."""

    const: int
    side: int  # of the matrix
    count: int
    k: int
    width: int
    head: int  # strides in the matrix
    row: int
    column: int


def _heads(eqn: JaxprEqn, matrices: Any) -> _Heads:
    product = matrices.get(eqn.outvars[0])
    if product is None:
        raise Unfit(
            "neither of its operands is a matrix from outside of the step, where one that does not "
            "depend on the carry can be made",
            eqn,
        )
    side = product.side
    contracted, batch = eqn.params["dimension_numbers"]
    shapes = [a.shape for a in jaxprs.avals_of(eqn.invars)]
    matrix, factor = shapes[side], shapes[1 - side]
    free = [d for d in range(len(matrix)) if d not in contracted[side] and d not in batch[side]]
    others = [*batch[1 - side], *contracted[1 - side]]
    if [d for d in others if factor[d] > 1] != [d for d in range(len(factor)) if factor[d] > 1]:
        raise Unfit(
            f"its factor {list(factor)} is no vector of features: it is transposed, or an array of "
            "the carry has no axis of rows",
            eqn,
        )
    strides = [int(np.prod(matrix[d + 1 :], dtype=np.int64)) for d in range(len(matrix))]

    def merged(dims: Sequence[int]) -> tuple[int, int]:
        """The size and the stride of dimensions taken as one."""
        large = [d for d in dims if matrix[d] > 1]
        size = int(np.prod([matrix[d] for d in dims], dtype=np.int64))
        for a, b in itertools.pairwise(large):
            if strides[a] != strides[b] * matrix[b]:
                raise Unfit("its matrix has axes that can't be taken as one", eqn)
        return size, strides[large[-1]] if large else 1

    count, head = merged(batch[side])
    k, row = merged(contracted[side])
    width, column = merged(free)
    if 1 not in (row, column) and k > 1 and width > 1:
        raise Unfit("its matrix has no contiguous axis", eqn)
    return _Heads(product.const, side, count, k, width, head, row, column)
