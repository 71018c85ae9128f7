# SPDX-License-Identifier: Apache-2.0
"""A step as stages: products, then vector operations on what they give; and its encoding.

Between two stages the workers that share a step meet, as a product reads what all have computed.
A stage is a list of loops over the units of a width; a loop multiplies vectors with its columns of
matrices, and runs a list of instructions on registers, each of which holds some units of some rows.
native/programs/program.h decodes what `encoded` makes and has the same names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr

from jax_persistent.programs.nodes import Matrix, Node, Pieces
from jax_persistent.programs.pieces import BINARY, UNARY, pieces_of
from jax_persistent.programs.rows import Unfit

DTYPES = ("float32", "bfloat16", "bool")
REDUCTIONS = ("sum", "max", "min")
# An instruction's name is its code: its place in this list.
OPERATIONS = (
    "load_operand",
    "load_buffer",
    "load_product",
    "reduce",
    "store_y",
    "store_buffer",
    "splat",
    "select",
    "mul_add",
    "mul_sub",
    "sub_mul",
    *BINARY,
    *UNARY,
)
_LEAVES = ("carry", "xs", "const", "literal")
# A few of these on operands cost no more in a later stage than what hands over their result.
_SIMPLE = frozenset(("splat", "select", "not", "abs", "neg", "square", *BINARY)) - {"div", "pow"}
_MOST_AGAIN = 3
# Registers by kind: of some units of some rows; of some rows, alike in all units; a literal.
_UNITS, _ROWS, _LITERAL = range(3)
_KINDS = 1 << 16  # of each kind at most


@dataclass
class Buffer:
    """What a step hands to another or to a later stage; [B, width] in float32."""

    width: int
    is_carry: bool


@dataclass(frozen=True)
class Slice:
    """Products of a buffer's vectors, one a head, with columns of several matrices, the gates."""

    buffer: int
    offset: int
    k: int
    heads: int
    rounds: bool  # whether the vectors' values are bfloat16, which a buffer's are not
    gates: tuple[Matrix, ...]


@dataclass
class Loop:
    width: int
    slices: list[Slice] = field(default_factory=list)
    code: list[tuple[int, ...]] = field(default_factory=list)
    registers: int = 0
    row_registers: int = 0


@dataclass(frozen=True)
class Program:
    """A step that runs persistently.

    Attributes:
      operands: (features, dtype) of the constants, the carry and the xs.
      ys: (features, dtype) of the ys.
      consts, carry: how many operands are these.
      buffers: those of the carry first.
      stages: the loops of each.
      literals: what instructions name by number.
      early: whether the first stage only prepares what the others read of the carry, so that a
        worker runs it for its own units right after the step before.
    """

    operands: tuple[tuple[int, str], ...]
    ys: tuple[tuple[int, str], ...]
    consts: int
    carry: int
    buffers: list[Buffer]
    stages: list[list[Loop]]
    literals: list[float]
    early: bool

    def encoded(self) -> tuple[np.ndarray, np.ndarray]:
        """The program in integers, and its literals."""
        code = [len(self.operands), self.consts, self.carry, len(self.ys)]
        for features, dtype in (*self.operands, *self.ys):
            code += [features, DTYPES.index(dtype)]
        code.append(len(self.buffers))
        for buffer in self.buffers:
            code += [buffer.width, int(buffer.is_carry)]
        code += [int(self.early), len(self.stages)]
        for loops in self.stages:
            code.append(len(loops))
            for loop in loops:
                code += [loop.width, loop.registers, loop.row_registers, len(loop.slices)]
                for each in loop.slices:
                    code += [each.buffer, each.offset, each.k, each.heads]
                    code += [int(each.rounds), len(each.gates)]
                    for m in each.gates:
                        code += [m.const, m.base, m.head, m.row, m.column]
                code.append(len(loop.code))
                for instruction in loop.code:
                    code += instruction
        return np.array(code, np.int64), np.array(self.literals or [0], np.float32)

    def packable(self, shapes: Mapping[int, tuple[int, ...]]) -> set[int]:
        """The constants, of these shapes, that are read as matrices [K, N] by products alone."""
        loops = [loop for loops in self.stages for loop in loops]
        found: set[int] = set()
        others = {i[2] for loop in loops for i in loop.code if OPERATIONS[i[0]] == "load_operand"}
        for each in (each for loop in loops for each in loop.slices):
            for m in each.gates:
                shape = shapes[m.const]
                whole = len(shape) == 2 and each.heads == 1 and each.k == shape[0]
                by_rows = whole and m.column == 1 and (m.row == shape[1] or each.k == 1)
                (found if by_rows else others).add(m.const)
        return found - others

    def __str__(self) -> str:
        """Its stages, for people."""
        lines = ["A step:"]
        for number, loops in enumerate(self.stages):
            for loop in loops:
                shapes = [_shapes(each, loop.width) for each in loop.slices]
                simple = [OPERATIONS[i[0]] for i in loop.code]
                count = sum(not name.startswith(("load", "store", "splat")) for name in simple)
                when = " (beside the step before)" if self.early and number == 0 else ""
                products = " and ".join(shapes) or "no product"
                lines.append(
                    f"  stage {number + 1}{when}: {products}; {count} operations on {loop.width} "
                    "features"
                )
        return "\n".join(lines)


def _shapes(each: Slice, width: int) -> str:
    heads = f"{each.heads} x " if each.heads > 1 else ""
    return f"{heads}[{each.k}] x [{each.k}, {len(each.gates)}*{width // each.heads}]"


def program_of(
    row: ClosedJaxpr, consts: int, carry: int, packed: frozenset[int] = frozenset()
) -> Program:
    """The program of a step of one row, of (consts, carry, xs) to (carry, ys).

    The constants in `packed` are packed matrices: a slice has columns of one of them alone.

    Raises Unfit where there is none.
    """
    return _Builder(row, consts, carry, packed, pieces_of(row, consts, carry)).run()


class _Builder:
    def __init__(
        self,
        row: ClosedJaxpr,
        consts: int,
        carries: int,
        packed: frozenset[int],
        found: Pieces,
    ) -> None:
        self.consts, self.carries, self.packed, self.found = consts, carries, packed, found
        jaxpr = row.jaxpr
        self.avals = [v.aval for v in jaxpr.invars]
        self.out_avals = [v.aval for v in jaxpr.outvars]
        carry = self.avals[consts : consts + carries]
        self.buffers = [Buffer(_features(a), True) for a in carry]
        self.levels: dict[Node, int] = {}
        self.of_product: dict[Node, bool] = {}  # whether a single feature comes out of a product
        self.factors: dict[tuple[Node, ...], tuple[int, int]] = {}  # buffer, offset
        self.stores: list[tuple[Node, str, int, int]] = []  # node, "buffer" or "y", which, offset
        self.temporaries: dict[Node, tuple[int, int]] = {}
        self.literals: dict[float, int] = {}
        self.operations: dict[Node, float] = {}

    def run(self) -> Program:
        found = self.found
        for n, carry in enumerate(found.carry):
            self._store_all(carry, "buffer", n)
        for n, y in enumerate(found.ys):
            self._store_all(y, "y", n)
        self._spill()
        stages: dict[int, dict[int, list[tuple[Node, str, int, int]]]] = {}
        for store in self.stores:
            loops = stages.setdefault(self._level(store[0]), {})
            loops.setdefault(store[0].width, []).append(store)
        ordered = [
            [self._loop(width, stores, level) for width, stores in sorted(loops.items())]
            for level, loops in sorted(stages.items())
        ]
        types = [(_features(a), a.dtype.name) for a in self.avals]
        ys = [(_features(a), a.dtype.name) for a in self.out_avals[self.carries :]]
        return Program(
            tuple(types),
            tuple(ys),
            self.consts,
            self.carries,
            self.buffers,
            ordered,
            list(self.literals),
            self._is_early(ordered),
        )

    # Which stage a piece belongs to.

    def _level(self, node: Node) -> int:
        if node not in self.levels:
            self.levels[node] = self._find_level(node)
        return self.levels[node]

    def _find_level(self, node: Node) -> int:
        if node.op in _LEAVES:
            return 0
        if node.op == "product":
            return self._ready(self.found.products[node.source.number].factor)
        if node.op == "reduce":
            return self._ready(node.args)
        level = 0
        for arg in node.args:
            apart = arg.width == 1 and node.width > 1 and self._is_of_product(arg)
            level = max(level, self._level(arg) + apart)
        return level

    def _is_of_product(self, node: Node) -> bool:
        if node not in self.of_product:
            found = node.op == "product" or (
                node.op != "reduce" and any(map(self._is_of_product, node.args))
            )
            self.of_product[node] = found
        return self.of_product[node]

    def _ready(self, vector: tuple[Node, ...]) -> int:
        """The first stage in which all units of a vector can be read; it is put into a buffer."""
        if vector in self.factors:
            buffer, _ = self.factors[vector]
        else:
            buffer, offset = self._place(vector)
            self.factors[vector] = buffer, offset
        if self.buffers[buffer].is_carry:
            return 0
        return 1 + max(map(self._level, vector))

    def _place(self, vector: tuple[Node, ...]) -> tuple[int, int]:
        first = vector[0]
        if all(n.op == "carry" and n.source == first.source for n in vector):
            at = first.offset
            for n in vector:
                if n.offset != at:
                    break
                at += n.width
            else:
                # Of an odd number of features a product reads the next one, too, times zero.
                if (at - first.offset) % 2 == 0 or at == self.buffers[first.source].width:
                    return first.source, first.offset
        number = len(self.buffers)
        self.buffers.append(Buffer(sum(n.width for n in vector), False))
        self._store_all(vector, "buffer", number)
        return number, 0

    def _store_all(self, vector: Sequence[Node], kind: str, number: int) -> None:
        offset = 0
        for node in vector:
            self.stores.append((node, kind, number, offset))
            offset += node.width
            self._level(node)

    def _spill(self) -> None:
        """Puts into buffers what one stage computes and a later one reads, unit by unit."""
        done: set[tuple[Node, int, int]] = set()

        def visit(node: Node, level: int, width: int) -> None:
            if (node, level, width) in done or node.op in _LEAVES:
                return
            done.add((node, level, width))
            here = self._level(node)
            single = node.width == 1 and not self._is_of_product(node)
            if here < level and not single and self._operations(node) > _MOST_AGAIN:
                self._temporary(node)
                return
            if node.op == "product" or node.op == "reduce":
                return
            for arg in node.args:
                visit(arg, level, node.width)

        for node, _, _, _ in list(self.stores):
            visit(node, self._level(node), node.width)
        # What is stored above is computed in its own stage from what is before that.
        seen = 0
        while seen < len(self.stores):
            node = self.stores[seen][0]
            visit(node, self._level(node), node.width)
            seen += 1

    def _operations(self, node: Node) -> float:
        """How many simple operations make it of operands; infinitely many where others do."""
        if node not in self.operations:
            simple = node.op in _SIMPLE
            of_args = sum(map(self._operations, node.args)) + 1 if simple else math.inf
            self.operations[node] = 0 if node.op in _LEAVES else of_args
        return self.operations[node]

    def _temporary(self, node: Node) -> None:
        if node in self.temporaries:
            return
        for stored, kind, n, at in self.stores:
            if stored is node and kind == "buffer" and not self.buffers[n].is_carry:
                self.temporaries[node] = n, at
                return
        self.buffers.append(Buffer(node.width, False))
        self.temporaries[node] = len(self.buffers) - 1, 0
        self.stores.append((node, "buffer", *self.temporaries[node]))

    # Instructions.

    def _loop(self, width: int, stores: list[tuple[Node, str, int, int]], level: int) -> Loop:
        loop = Loop(width)
        coder = _Coder(self, loop, level)
        for node, kind, number, offset in stores:
            coder.store(node, kind, number, offset)
        coder.fuse()
        coder.finish()
        return loop

    def literal(self, value: float) -> int:
        return self.literals.setdefault(value, len(self.literals))

    def _is_early(self, stages: list[list[Loop]]) -> bool:
        """Whether the first stage has no product, and reads of the carry what its worker wrote."""
        if len(stages) < 2 or any(loop.slices for loop in stages[0]):
            return False
        written: dict[tuple[int, int], int] = {}
        for loops in stages[1:]:
            for loop in loops:
                for op, _, number, offset, *_ in loop.code:
                    if OPERATIONS[op] == "store_buffer" and self.buffers[number].is_carry:
                        written[number, offset] = loop.width
        for loop in stages[0]:
            for op, _, number, offset, *_ in loop.code:
                if OPERATIONS[op] == "reduce" or OPERATIONS[op] == "store_y":
                    return False
                if OPERATIONS[op] == "store_buffer" and self.buffers[number].is_carry:
                    return False
                is_carry = OPERATIONS[op] == "load_buffer" and self.buffers[number].is_carry
                if is_carry and written.get((number, offset)) != loop.width:
                    return False
        return True


def _features(aval: Any) -> int:
    return int(np.prod(aval.shape, dtype=np.int64))


class _Coder:
    """Writes a loop's instructions, and gives out registers."""

    def __init__(self, builder: _Builder, loop: Loop, level: int) -> None:
        self.builder, self.loop, self.level = builder, loop, level
        self.registers: dict[Node, tuple[int, int]] = {}  # kind, virtual number
        self.counts = [0, 0]
        self.gates: dict[tuple[int, int, int, int, bool, int | None], list[Matrix]] = {}
        self.code: list[tuple[str, Any, list[Any], list[int]]] = []

    def store(self, node: Node, kind: str, number: int, offset: int) -> None:
        value = self.value(node)
        if value[0] != _UNITS and self.loop.width > 1:
            value = self._emit("splat", [value], [], _UNITS)
        self.code.append((f"store_{kind}", None, [value], [number, offset]))

    def value(self, node: Node) -> tuple[int, int]:
        if node.op == "literal":
            return _LITERAL, self.builder.literal(node.source)
        if node not in self.registers:
            self.registers[node] = self._compute(node)
        return self.registers[node]

    def _compute(self, node: Node) -> tuple[int, int]:
        kind = _UNITS if node.width > 1 else _ROWS
        builder = self.builder
        if node.op in ("const", "xs"):
            first = 0 if node.op == "const" else builder.consts + builder.carries
            return self._emit("load_operand", [], [first + node.source, node.offset], kind)
        if node.op == "carry":
            return self._emit("load_buffer", [], [node.source, node.offset], kind)
        at = builder.temporaries.get(node)
        if at is not None and builder._level(node) < self.level:
            return self._emit("load_buffer", [], [*at], kind)
        if node.width == 1 and self.loop.width > 1 and builder._is_of_product(node):
            return self._emit("load_buffer", [], [*builder.temporaries[node]], kind)
        if node.op == "product":
            part = node.source
            product = builder.found.products[part.number]
            buffer, offset = builder.factors[product.factor]
            matrix = product.matrix
            begin = matrix.base + part.first * matrix.head + node.offset * matrix.column
            apart = matrix.const if matrix.const in builder.packed else None
            first = offset + part.first * product.k
            key = buffer, first, product.k, part.heads, product.rounds, apart
            gates = self.gates.setdefault(key, [])
            gates.append(replace(matrix, base=begin))
            place = list(self.gates).index(key)
            return self._emit("load_product", [], [place, len(gates) - 1], kind)
        if node.op == "reduce":
            buffer, offset = builder.factors[node.args]
            count = sum(n.width for n in node.args)
            code = REDUCTIONS.index(node.source)
            return self._emit("reduce", [], [buffer, offset, count, code], kind)
        return self._emit(node.op, [self.value(a) for a in node.args], [], kind)

    def _emit(
        self, op: str, operands: list[tuple[int, int]], numbers: list[int], kind: int
    ) -> tuple[int, int]:
        register = kind, self.counts[kind]
        self.counts[kind] += 1
        self.code.append((op, register, operands, numbers))
        return register

    def fuse(self) -> None:
        """Multiplies and adds at once where nothing else reads the product."""
        uses = Counter(operand for _, _, operands, _ in self.code for operand in operands)
        makers = {register: n for n, (_, register, _, _) in enumerate(self.code) if register}
        fused: dict[int, Any] = {}
        gone: set[int] = set()
        for n, (op, register, operands, numbers) in enumerate(self.code):
            for side, operand in enumerate(operands if op in ("add", "sub") else ()):
                made = makers.get(operand)
                if made is None or uses[operand] > 1 or operand[0] != register[0]:
                    continue
                name, _, factors, _ = fused.get(made, self.code[made])
                if name in ("mul", "square"):
                    name = "mul_add" if op == "add" else ("mul_sub", "sub_mul")[side]
                    factors = [factors[0], factors[-1], operands[1 - side]]
                    fused[n] = name, register, factors, numbers
                    gone.add(made)
                    break
        self.code = [
            fused.get(n, instruction) for n, instruction in enumerate(self.code) if n not in gone
        ]

    def finish(self) -> None:
        """Gives out registers, each to several values one after the other."""
        last: dict[tuple[int, int], int] = {}
        for n, (_, _, operands, _) in enumerate(self.code):
            for operand in operands:
                last[operand] = n
        given: dict[tuple[int, int], int] = {}
        free: list[list[int]] = [[], []]
        most = [0, 0]
        loop = self.loop
        for key, gates in self.gates.items():
            loop.slices.append(Slice(*key[:5], tuple(gates)))
        for n, (op, register, operands, numbers) in enumerate(self.code):
            read = [o if o[0] == _LITERAL else (o[0], given[o]) for o in operands]
            for operand in set(operands):
                if operand[0] != _LITERAL and last[operand] == n:
                    free[operand[0]].append(given[operand])
            code = [OPERATIONS.index(op)]
            if register is None:
                code += [_encoded(read[0]), *numbers]
            else:
                kind = register[0]
                if not free[kind]:
                    free[kind].append(most[kind])
                    most[kind] += 1
                given[register] = free[kind].pop()
                code += [_encoded((kind, given[register])), *map(_encoded, read), *numbers]
                if register not in last:
                    free[kind].append(given[register])
            loop.code.append((*code, *[0] * (6 - len(code))))
        loop.registers, loop.row_registers = most
        if max(most) >= _KINDS:
            raise Unfit("the step has too many values at a time")


def _encoded(register: tuple[int, int]) -> int:
    return register[0] * _KINDS + register[1]


def is_of_units(register: int) -> bool:
    """Whether an encoded register has units of some rows, and not a value alike in all."""
    return register < _KINDS
