# SPDX-License-Identifier: Apache-2.0
"""Which texts are held out: no held-out text is nearly one in training."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

from examples.common import near_copies

# Larger groups of near copies stay in training: held out, one would fill its side with a phrase.
LARGEST_GROUP = 10


def split(
    texts: Sequence[str], wanted: int, links: Iterable[tuple[int, int]] = ()
) -> tuple[list[int], list[int], list[int]]:
    """Positions of the texts for training, validation and test, in an order that says nothing.

    About `wanted` texts go to each of the last two. Near copies are on one side, and so are texts
    that `links` joins. Which ones depends on the texts alone, so that a few more or fewer leave the
    sides as they are. Raises ValueError if there are too few.
    """
    rank = [hashlib.sha256(text.encode()).digest() for text in texts]  # the same everywhere
    groups: dict[int, list[int]] = defaultdict(list)
    joined = chain(links, near_copies.find(texts))
    for position, root in enumerate(near_copies.group(len(texts), joined)):
        groups[root].append(position)
    train: list[int] = []
    valid: list[int] = []
    test: list[int] = []
    for members in sorted(groups.values(), key=lambda members: min(rank[i] for i in members)):
        sides = (test, valid) if len(members) <= LARGEST_GROUP else ()
        next((side for side in sides if len(side) < wanted), train).extend(members)
    if not (train and valid and test):
        raise ValueError(
            f"{len(texts)} texts in {len(groups)} groups of near copies are too few to split into "
            "train, valid and test: give more, and more different, ones"
        )
    train, valid, test = (sorted(side, key=rank.__getitem__) for side in (train, valid, test))
    return train, valid, test
