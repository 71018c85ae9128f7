# SPDX-License-Identifier: Apache-2.0
"""What a step in pieces is made of; pieces.py cuts it, merging.py joins, program.py encodes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class ProductPart(NamedTuple):
    """Which product a piece is of, and of which of its heads."""

    number: int
    first: int
    heads: int


@dataclass(frozen=True, eq=False)
class Node:
    """A piece: an operation on pieces, or a part of an array or of a product.

    Attributes:
      op: an operation; or "carry", "xs", "const", "product" (a part of one), "literal", "reduce".
      args: pieces.
      width: how many features.
      source: which array or part of a product, or a literal's value, or the kind of a reduction.
      offset: where the part begins; of a product's, in each of its heads.
    """

    op: str
    args: tuple[Node, ...]
    width: int
    source: Any = None
    offset: int = 0


@dataclass(frozen=True, eq=False)
class Matrix:
    """Matrices [K, width] in a constant, one a head.

    Element (k, u) of head n is at base + n head + k row + u column.
    """

    const: int
    base: int
    head: int
    row: int
    column: int


@dataclass(frozen=True, eq=False)
class VectorProduct:
    """A vector of heads * K features, given in pieces, times a matrix for each head."""

    factor: tuple[Node, ...]
    heads: int
    k: int
    width: int
    rounds: bool  # whether the vector's values are bfloat16
    matrix: Matrix


@dataclass(frozen=True)
class Pieces:
    """A step: the pieces of the carry after it and of the ys, each in order."""

    carry: list[list[Node]]
    ys: list[list[Node]]
    products: list[VectorProduct]
