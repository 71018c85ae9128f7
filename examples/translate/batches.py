"""Length-bucketed batches: few shapes, and an order that depends on seed and step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

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


@dataclass
class Batches:
    """All epochs over the pairs; `at(step)` needs no history, so a resumed run reads on.

    Pairs wider than the last width are left out; `kept` counts the others.
    """

    examples: Sequence[Example]
    size: int
    widths: Sequence[int]
    seed: int
    _epoch: int = field(default=-1, init=False)
    _order: list[tuple[int, np.ndarray]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        bucket = np.searchsorted(self.widths, [width(example) for example in self.examples])
        members = (np.flatnonzero(bucket == index) for index in range(len(self.widths)))
        self._buckets = [(w, m) for w, m in zip(self.widths, members, strict=True) if len(m)]
        self.kept = sum(len(members) for _, members in self._buckets)
        if not self.kept:
            raise ValueError(
                f"expected pairs of at most {max(self.widths)} subwords, got none in "
                f"{len(self.examples)}; raise --max-length or give more data"
            )

    @property
    def steps_per_epoch(self) -> int:
        return sum(-(-len(members) // self.size) for _, members in self._buckets)

    def at(self, step: int) -> Batch:
        """The batch of one training step."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        bucket_width, rows = self._order[index]
        return collate([self.examples[row] for row in rows], self.size, bucket_width)

    def widest(self) -> Batch:
        """The first pairs of the widest bucket."""
        bucket_width, members = self._buckets[-1]
        return collate(
            [self.examples[row] for row in members[: self.size]], self.size, bucket_width
        )

    def _shuffled(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        random = np.random.default_rng((self.seed, epoch))
        chunks = [
            (bucket_width, rows[start : start + self.size])
            for bucket_width, members in self._buckets
            for rows in [random.permutation(members)]
            for start in range(0, len(rows), self.size)
        ]
        return [chunks[index] for index in random.permutation(len(chunks))]
