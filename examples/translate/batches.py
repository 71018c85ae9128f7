# SPDX-License-Identifier: Apache-2.0
"""Sentence pairs as padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from examples.common.buckets import Buckets
from examples.translate.tokens import BEGIN, END, PAD


class Example(NamedTuple):
    """One pair as piece numbers, without marks."""

    source: list[int]
    target: list[int]


class Batch(NamedTuple):
    """B rows padded to their bucket's width W. Rows that fill up a last batch hold padding only."""

    source: np.ndarray  # [B,W] int32
    lengths: np.ndarray  # [B] int32, at least 1
    inputs: np.ndarray  # [B,W] int32: begin mark, pieces
    targets: np.ndarray  # [B,W] int32: pieces, end mark


def width(example: Example) -> int:
    """The width that a batch must have to hold the pair: the target brings its end mark."""
    return max(len(example.source), len(example.target) + 1)


def collate(examples: Sequence[Example], size: int, width: int) -> Batch:
    """At most `size` pairs as one batch of `size` rows."""
    source, inputs, targets = np.full((3, size, width), PAD, np.int32)
    lengths = np.ones(size, np.int32)
    for row, (read, written) in enumerate(examples):
        source[row, : len(read)] = read
        lengths[row] = max(len(read), 1)
        inputs[row, : len(written) + 1] = [BEGIN, *written]
        targets[row, : len(written) + 1] = [*written, END]
    return Batch(source, lengths, inputs, targets)


class Batches(Buckets[Example, Batch]):
    """The pairs in batches. Raises ValueError where every pair is wider than the last width."""

    length = staticmethod(width)
    collate = staticmethod(collate)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kept:
            raise ValueError(
                f"expected pairs of at most {max(self.widths)} subwords, got none in "
                f"{len(self.examples)}; raise --max-length or give more data"
            )
