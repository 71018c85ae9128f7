# SPDX-License-Identifier: Apache-2.0
"""Pieces that lie side by side and are treated alike, as one piece.

A step with heads is cut at each of them, as an operation on all may have cut its operands apart.
Where in the end each head has the same operations, on features that follow those of the head
before, they are one operation on all heads: of as few instructions as a step without heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax_persistent.programs.nodes import Node, ProductPart

MakeNode = Callable[..., Node]
_ARRAYS = ("carry", "xs", "const")


class Merger:
    def __init__(self, make: MakeNode) -> None:
        self.make = make
        self.rebuilt: dict[Node, Node] = {}
        self.adjacency: dict[tuple[Node, Node], bool] = {}
        self.whole: dict[tuple[Node, ...], Node] = {}

    def vector(self, pieces: Sequence[Node]) -> list[Node]:
        """A vector's pieces, those merged that can be."""
        runs: list[list[Node]] = []
        for piece in map(self._rewritten, pieces):
            if runs and self._continues(runs[-1], piece):
                runs[-1].append(piece)
            else:
                runs.append([piece])
        return [self._joined(tuple(run)) for run in runs]

    def _continues(self, run: list[Node], piece: Node) -> bool:
        """Whether a piece follows the last one, sharing with it what that shares with its own."""
        if not self._are_adjacent(run[-1], piece):
            return False
        return len(run) < 2 or self._shared(run[-2], run[-1]) == self._shared(run[-1], piece)

    def _shared(self, a: Node, b: Node) -> tuple[Any, ...]:
        """Which operands, and operands of operands, are those of both."""
        pairs = zip(a.args, b.args, strict=False)
        return tuple(x is y or self._shared(x, y) for x, y in pairs)

    def _rewritten(self, node: Node) -> Node:
        """The same with what it reduces merged."""
        if node not in self.rebuilt:
            args = [self._rewritten(a) for a in node.args]
            if node.op == "reduce":
                args = self.vector(args)
            same = len(args) == len(node.args) and all(map(lambda a, b: a is b, args, node.args))
            self.rebuilt[node] = (
                node
                if same
                else self.make(node.op, tuple(args), node.width, node.source, node.offset)
            )
        return self.rebuilt[node]

    def _are_adjacent(self, a: Node, b: Node) -> bool:
        if (a, b) not in self.adjacency:
            self.adjacency[a, b] = self._find_adjacent(a, b)
        return self.adjacency[a, b]

    def _find_adjacent(self, a: Node, b: Node) -> bool:
        if a.op == b.op == "splat":
            return a.args[0] is b.args[0]
        if a.op != b.op or a is b or a.op in ("literal", "reduce"):
            return False
        if a.op in _ARRAYS:
            return a.source == b.source and b.offset == a.offset + a.width
        if a.op == "product":
            part, following = a.source, b.source
            return (
                part.number == following.number
                and following.first == part.first + part.heads
                and a.offset == b.offset
                and a.width * following.heads == b.width * part.heads
            )
        return all(
            (x is y and x.width == 1)
            or (x.width == a.width and y.width == b.width and self._are_adjacent(x, y))
            for x, y in zip(a.args, b.args, strict=True)
        )

    def _joined(self, run: tuple[Node, ...]) -> Node:
        if len(run) == 1:
            return run[0]
        if run not in self.whole:
            self.whole[run] = self._join(run)
        return self.whole[run]

    def _join(self, run: tuple[Node, ...]) -> Node:
        first, width = run[0], sum(n.width for n in run)
        if first.op == "product":
            part = first.source
            heads = sum(n.source.heads for n in run)
            source = ProductPart(part.number, part.first, heads)
            return self.make("product", (), width, source, first.offset)
        if first.op == "splat":
            return self.make("splat", first.args, width, None, 0)
        args = [
            each[0] if each[0] is each[1] and each[0].width == 1 else self._joined(each)
            for each in zip(*(n.args for n in run), strict=True)
        ]
        return self.make(first.op, tuple(args), width, first.source, first.offset)
