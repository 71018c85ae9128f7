# SPDX-License-Identifier: Apache-2.0
"""Near copies of a sentence are found, and kept on one side of a split."""

from __future__ import annotations

import random
import re

import pytest

from examples.common.near_copies import SIMILARITY, find, group


def linked(*sentences: str) -> set[tuple[int, int]]:
    return {(min(link), max(link)) for link in find(sentences)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Build 12 log walls.", "build  LOG walls, 7!"),  # case, punctuation and numbers
        ("you walk to the river", "you run to the river"),  # 4 shared of 6
        ("he said that he had walked", "that he had walked he said"),  # order
        (
            "when the moon rose over the old mill a hundred dark birds flew up",
            "we could see then that the moon rose over the old mill a friend had",
        ),  # 8 words in a row, else different
    ],
)
def test_near_copies_are_found(one: str, other: str) -> None:
    assert linked(one, "nothing of the kind", other) == {(0, 2)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("you walk to the river", "we run to the river"),  # 3 shared of 7
        ("open the file", "open the document"),  # 2 shared of 4
        ("a b c d e f g v w x y z", "p q r s t a b c d e f g"),  # 7 words in a row
        ("12 34", "12 34"),  # no words at all
    ],
)
def test_others_are_not(one: str, other: str) -> None:
    assert linked(one, other) == set()


def test_the_quick_search_finds_what_a_slow_one_finds() -> None:
    draw = random.Random(0)
    words = [f"{first}{second}" for first in "abcdefg" for second in "xyz"]
    sentences = [" ".join(draw.choices(words, k=draw.randint(1, 7))) for _ in range(400)]
    sets = [set(re.findall("[a-z]+", sentence)) for sentence in sentences]
    slow = {
        (one, other)
        for other in range(len(sets))
        for one in range(other)
        if len(sets[one] & sets[other]) / len(sets[one] | sets[other]) >= SIMILARITY
    }
    assert len(slow) > 100
    assert linked(*sentences) == slow


def test_groups_join_what_is_linked_however_far() -> None:
    assert group(7, [(4, 2), (6, 4), (1, 5)]) == [0, 1, 2, 3, 2, 1, 2]
    assert group(2, []) == [0, 1]
