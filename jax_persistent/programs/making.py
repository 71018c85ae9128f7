# SPDX-License-Identifier: Apache-2.0
"""Makes the pieces of a step, in the simplest form that the rules here find."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax_persistent.programs.nodes import Node


class _Scaled(NamedTuple):
    """A piece as factor * scaled ("mul"), or as the sum or a difference of that and a rest."""

    op: str
    factor: Node
    scaled: Node
    rest: Node | None = None
    is_first: bool = False  # the product, in a difference


class Maker:
    """Equal pieces are one: made of the same pieces by the same operation."""

    def __init__(self) -> None:
        self.known: dict[Any, Node] = {}
        self.waiting: dict[Node, bool] = {}  # for a reduction

    def node(self, op: str, args: tuple[Node, ...], width: int, source: Any, offset: int) -> Node:
        key = (op, tuple(map(id, args)), width, source, offset)
        if key not in self.known:
            self.known[key] = Node(op, args, width, source, offset)
        return self.known[key]

    def literal(self, value: Any) -> Node:
        return self.node("literal", (), 1, float(value), 0)

    def apply(self, op: str, *args: Node) -> Node:
        """The operation on pieces, or what is simpler and gives the same but for a zero's sign."""
        width = max(a.width for a in args)
        args = tuple(a.args[0] if a.op == "splat" else a for a in args)
        found = self._simpler(op, *args)
        if found is None:
            found = self.node(op, args, max(a.width for a in args), None, 0)
        return self.widened(found, width)

    def _simpler(self, op: str, *args: Node) -> Node | None:
        a, b = args[0], args[-1]
        match op, _value(a), _value(b):
            case ("add", _, 0) | ("sub", _, 0) | ("mul", _, 1) | ("div", _, 1):
                return a
            case ("add", 0, _) | ("mul", 1, _):
                return b
            case ("sub", 0, _):
                return self.apply("neg", b)
        match op, a.op, b.op:
            case "add", _, "neg":
                return self.apply("sub", a, b.args[0])
            case "add", "neg", _:
                return self.apply("sub", b, a.args[0])
            case "sub", _, "neg":
                return self.apply("add", a, b.args[0])
            case "neg", "neg", _:
                return a.args[0]
            case (("mul" | "div"), "neg", _):
                return self.apply("neg", self.apply(op, a.args[0], b))
            case (("mul" | "div"), _, "neg"):
                return self.apply("neg", self.apply(op, a, b.args[0]))
            case "neg", "sub", _:
                return self.apply("sub", *reversed(a.args))
        return None

    def widened(self, node: Node, width: int) -> Node:
        """A piece of this width, of a piece of it or of a single feature."""
        return node if node.width == width else self.node("splat", (node,), width, None, 0)

    def sum(self, own: tuple[Node, ...]) -> Node:
        """The sum of pieces. A factor that all have, and that waits for a reduction, is taken out.

        So the sum does not wait itself, which in the derivative of a norm would be one stage more.
        It rounds as a sum of its terms' sums does, and overflows where one of these does.
        """
        if all(p.op == "neg" for p in own):
            return self.apply("neg", self.sum(tuple(p.args[0] for p in own)))
        terms = [t for t in map(self._scaled, own) if t is not None]
        if len(terms) < len(own) or len({(t.op, t.factor, t.is_first) for t in terms}) > 1:
            return self.node("reduce", own, 1, "sum", 0)
        like = terms[0]
        scaled = self.sum(tuple(t.scaled for t in terms))
        product = self.apply("mul", like.factor, scaled)
        if like.op == "mul":
            return product
        rest = self.sum(tuple(t.rest for t in terms if t.rest is not None))
        return self.apply(like.op, *((product, rest) if like.is_first else (rest, product)))

    def _scaled(self, node: Node) -> _Scaled | None:
        """A piece with a factor that waits for a reduction."""
        a, b = node.args if len(node.args) == 2 else (node, node)
        if node.op == "mul":
            for factor, scaled in ((a, b), (b, a)):
                if factor.width < scaled.width and self._waits(factor):
                    return _Scaled("mul", factor, scaled)
        elif node.op in ("add", "sub"):
            for rest, term in ((a, b), (b, a)):
                found = self._scaled(term) if term.op == "mul" else None
                if found is not None and rest.width == node.width:
                    is_first = node.op == "sub" and term is a
                    return found._replace(op=node.op, rest=rest, is_first=is_first)
        return None

    def _waits(self, node: Node) -> bool:
        if node not in self.waiting:
            self.waiting[node] = node.op == "reduce" or any(map(self._waits, node.args))
        return self.waiting[node]


def _value(node: Node) -> float | None:
    return node.source if node.op == "literal" else None
