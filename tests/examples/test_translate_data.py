# SPDX-License-Identifier: Apache-2.0
"""Subwords and batches of the translator."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from examples.translate.batches import Batches, Example, collate
from examples.translate.tokens import BEGIN, END, PAD, train_tokenizer

TEXTS = [
    "Sparrows eat 3 old seeds, again.",
    "你看到三只麻雀。",
    "A  fox:\tno!",
    "（狐狸）“不”……",
] * 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS, 330, fold=False, cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("text", [*TEXTS[:4], "unseen: Ж 龘 🙂", " edge spaces ", ""])
def test_every_text_comes_back_from_its_pieces(tokenizer, text):
    [pieces] = tokenizer.encode([text])
    assert tokenizer.decode(pieces) == text
    assert not set(pieces) & {PAD, BEGIN, END}


def test_folding_ignores_case_and_variants(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 330, fold=True, cache=tmp_path)
    same = tokenizer.encode(["Eat Old ﬁsh", "eat old fish"])
    assert same[0] == same[1]


def test_trained_once_for_the_same_text(tmp_path, tokenizer):
    first = train_tokenizer(TEXTS, 330, fold=False, cache=tmp_path)
    [path] = (tmp_path / "tokenizers").iterdir()
    written = path.stat().st_mtime_ns
    assert train_tokenizer(TEXTS, 330, fold=False, cache=tmp_path) == first == tokenizer
    assert path.stat().st_mtime_ns == written
    train_tokenizer([*TEXTS, "more"], 330, fold=False, cache=tmp_path)
    assert len(list((tmp_path / "tokenizers").iterdir())) == 2


def test_too_small_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--vocabulary: 20 subwords do not suit this text"):
        train_tokenizer(TEXTS, 20, fold=False, cache=tmp_path)


def test_collate():
    batch = collate([Example([7, 8, 9], [4]), Example([], [5, 6])], 3, 4)
    np.testing.assert_array_equal(batch.source, [[7, 8, 9, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.lengths, [3, 1, 1])
    np.testing.assert_array_equal(batch.inputs, [[1, 4, 0, 0], [1, 5, 6, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.targets, [[4, 2, 0, 0], [5, 6, 2, 0], [0, 0, 0, 0]])


def _examples() -> list[Example]:
    """53 pairs of up to 9 subwords, each with a source of its own."""
    return [
        Example([10 + number] * (1 + number % 7), [100 + number] * (number % 9))
        for number in range(53)
    ]


def _rows(batch) -> list[tuple[int, ...]]:
    return [tuple(row[:n]) for row, n in zip(batch.source, batch.lengths, strict=True) if row[0]]


def test_an_epoch_holds_every_pair_once():
    batches = Batches(_examples(), 4, (3, 6, 9), seed=5)
    assert batches.kept == 53
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        seen = Counter(row for step in steps for row in _rows(batches.at(step)))
        assert seen == Counter(tuple(example.source) for example in _examples())


def test_shapes_are_few_and_hold_their_pairs():
    batches = Batches(_examples(), 4, (3, 6, 9), seed=5)
    all_batches = [batches.at(step) for step in range(batches.steps_per_epoch)]
    assert {batch.source.shape for batch in all_batches} == {(4, 3), (4, 6), (4, 9)}
    for batch in all_batches:
        read = {
            row[0] - 10: n for row, n in zip(batch.source, batch.lengths, strict=True) if row[0]
        }
        for number, length in read.items():
            assert length == 1 + number % 7
        written = sorted(int((row != PAD).sum()) for row in batch.targets if row[0])
        assert written == sorted(number % 9 + 1 for number in read)


def test_a_batch_depends_on_seed_and_step_alone():
    forwards = Batches(_examples(), 4, (3, 6, 9), seed=5)
    backwards = Batches(_examples(), 4, (3, 6, 9), seed=5)
    other = Batches(_examples(), 4, (3, 6, 9), seed=6)
    steps = range(2 * forwards.steps_per_epoch)
    first = [forwards.at(step) for step in steps]
    last = [backwards.at(step) for step in reversed(steps)][::-1]
    for one, two in zip(first, last, strict=True):
        for left, right in zip(one, two, strict=True):
            np.testing.assert_array_equal(left, right)
    assert any(
        not np.array_equal(one.source, other.at(step).source) for step, one in enumerate(first)
    )
    epochs = np.split(np.arange(len(first)), 2)
    order = [[_rows(first[step]) for step in epoch] for epoch in epochs]
    assert order[0] != order[1]


def test_longer_pairs_are_left_out():
    batches = Batches(_examples(), 4, (3, 6), seed=0)
    assert batches.kept == sum(max(1 + n % 7, n % 9 + 1) <= 6 for n in range(53))


def test_no_pair_short_enough_is_an_error():
    message = "expected pairs of at most 2 subwords, got none in 1; raise --max-length"
    with pytest.raises(ValueError, match=re.escape(message)):
        Batches([Example([4, 5, 6], [7])], 4, (2,), seed=0)
