# SPDX-License-Identifier: Apache-2.0
"""Length buckets: few shapes to compile, and an order that depends on seed and step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import numpy as np

Example = TypeVar("Example")
Batch = TypeVar("Batch")


@dataclass
class Buckets(Generic[Example, Batch]):
    """All epochs over the examples, each in a batch of `size` rows padded to one of the widths.

    A base class. `at(step)` needs no history, so a resumed run reads on. Examples longer than the
    last width are left out; `kept` counts the others.
    """

    examples: Sequence[Example]
    size: int
    widths: Sequence[int]
    seed: int

    length: ClassVar[Callable] = NotImplemented  # of an example
    collate: ClassVar[Callable] = NotImplemented  # (examples, size, width) -> batch
    ascending: ClassVar[bool] = False  # whether the first epoch begins with the short ones

    _epoch: int = field(default=-1, init=False)
    _order: list[tuple[int, np.ndarray]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        bucket = np.searchsorted(self.widths, [self.length(each) for each in self.examples])
        members = (np.flatnonzero(bucket == index) for index in range(len(self.widths)))
        self._buckets = [(w, m) for w, m in zip(self.widths, members, strict=True) if len(m)]
        self.kept = sum(len(members) for _, members in self._buckets)

    @property
    def steps_per_epoch(self) -> int:
        return sum(-(-len(members) // self.size) for _, members in self._buckets)

    def at(self, step: int) -> Batch:
        """The batch of one training step."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        return self._batch(*self._order[index])

    def widest(self) -> Batch:
        """The first examples of the widest bucket."""
        width, members = self._buckets[-1]
        return self._batch(width, members[: self.size])

    def once(self) -> Iterator[tuple[np.ndarray, Batch]]:
        """Every example that is not too long, once: positions and their batch."""
        for width, members in self._buckets:
            for start in range(0, len(members), self.size):
                rows = members[start : start + self.size]
                yield rows, self._batch(width, rows)

    def _batch(self, width: int, rows: np.ndarray) -> Batch:
        return self.collate([self.examples[row] for row in rows], self.size, width)

    def _shuffled(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        random = np.random.default_rng((self.seed, epoch))
        chunks = [
            (width, rows[start : start + self.size])
            for width, members in self._buckets
            for rows in [random.permutation(members)]
            for start in range(0, len(rows), self.size)
        ]
        if self.ascending and epoch == 0:
            return chunks
        return [chunks[index] for index in random.permutation(len(chunks))]
