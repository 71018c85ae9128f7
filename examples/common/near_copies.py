# SPDX-License-Identifier: Apache-2.0
"""Sentences that are near copies of one another, so that a split can keep them on one side."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

SIMILARITY = 0.6
SHINGLE = 8


def find(sentences: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of positions of near copies; case, punctuation and numbers don't count.

    Near copies have word sets with a Jaccard similarity of at least SIMILARITY, or SHINGLE words
    in a row in common. Of the second kind each sentence is paired with the first that holds the
    same words.
    """
    words = [re.findall(r"[^\W\d_]+", sentence.lower()) for sentence in sentences]
    yield from _similar([frozenset(each) for each in words])
    yield from _overlapping(words)


def group(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` positions the first of its group: all that links join, however far."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for link in links:
        low, high = sorted(map(root, link))
        parent[high] = low
    return [root(node) for node in range(count)]


def _similar(sets: Sequence[frozenset[str]]) -> Iterator[tuple[int, int]]:
    """Prefix filtering (Bayardo, Ma and Srikant 2007; Xiao et al. 2008).

    Similar sets share one of each other's few rarest words; and in order of size, where a set is
    compared with smaller ones only, fewer words of those need looking at.
    """
    frequency = Counter(word for each in sets for word in each)
    holders: dict[str, list[int]] = defaultdict(list)
    for position in sorted(range(len(sets)), key=lambda position: (len(sets[position]), position)):
        mine = sets[position]
        size = len(mine)
        rarest = sorted(mine, key=lambda word: (frequency[word], word))
        candidates: set[int] = set()
        for word in rarest[: size - _at_least(SIMILARITY * size) + 1]:
            candidates.update(holders[word])
        for other in sorted(candidates):
            theirs = sets[other]
            if len(theirs) < SIMILARITY * size:
                continue
            shared = len(mine & theirs)
            if shared >= SIMILARITY * (size + len(theirs) - shared):
                yield other, position
        for word in rarest[: size - _at_least(2 * SIMILARITY / (1 + SIMILARITY) * size) + 1]:
            holders[word].append(position)


def _at_least(bound: float) -> int:
    return math.ceil(bound - 1e-9)  # 0.6 * 35 is a little more than 21


def _overlapping(words: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    first: dict[tuple[str, ...], int] = {}
    for position, each in enumerate(words):
        for start in range(len(each) - SHINGLE + 1):
            earlier = first.setdefault(tuple(each[start : start + SHINGLE]), position)
            if earlier != position:
                yield earlier, position
