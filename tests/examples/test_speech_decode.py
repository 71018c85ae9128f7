# SPDX-License-Identifier: Apache-2.0
"""Decoding and error rates of the recogniser, against counting everything."""

from __future__ import annotations

import itertools
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.speech.batches import Batch
from examples.speech.decode import beam_search, collapse, greedy
from examples.speech.score import edits, error_rate, error_rates
from examples.speech.step import ctc


def _log_probs(steps: int, symbols: int, seed: int) -> np.ndarray:
    logits = 2 * np.random.default_rng(seed).normal(size=(steps, symbols))
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def _readings(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Log-probability of everything that can be read: the sum over all paths."""
    steps, symbols = log_probs.shape
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(symbols), repeat=steps):
        found[tuple(collapse(np.array(path)))] += float(np.exp(log_probs[range(steps), path].sum()))
    return {reading: float(np.log(chance)) for reading, chance in found.items()}


@pytest.mark.parametrize(
    ("path", "reading"),
    [
        ([0, 3, 3, 0, 3, 1, 1], [3, 3, 1]),
        ([2, 2, 2], [2]),
        ([0, 0], []),
        ([1, 2, 1], [1, 2, 1]),
        ([], []),
    ],
)
def test_repeats_are_one_and_blanks_are_none(path: list[int], reading: list[int]) -> None:
    assert collapse(np.array(path, int)) == reading


def test_greedy_reads_the_likeliest_path() -> None:
    log_probs = np.log([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.1, 0.6]])
    assert greedy(log_probs) == [1, 1, 2]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("steps", "symbols"), [(1, 4), (4, 3), (6, 2)])
def test_a_beam_over_everything_finds_the_best(steps: int, symbols: int, seed: int) -> None:
    log_probs = _log_probs(steps, symbols, seed)
    readings = _readings(log_probs)
    assert np.logaddexp.reduce(list(readings.values())) == pytest.approx(0, abs=1e-9)
    best = max(readings, key=readings.__getitem__)
    found, score = beam_search(log_probs, beam=len(readings))
    assert tuple(found) == best
    assert score == pytest.approx(readings[best], abs=1e-9)


def test_a_beam_sums_paths_where_greedy_does_not() -> None:
    """Nothing is the likeliest path (0.36), but all paths that read `a` have more (0.64)."""
    log_probs = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert greedy(log_probs) == []
    found, score = beam_search(log_probs, 2)
    assert found == [1]
    assert score == pytest.approx(np.log(0.64))


def test_a_beam_finds_at_most_what_there_is() -> None:
    """Paths that have left the beam are missing from a score, fewer of a wide one's."""
    log_probs = _log_probs(9, 5, 3)
    found = [beam_search(log_probs, beam) for beam in (1, 3, 200)]
    exact = [-_loss(log_probs, reading) for reading, _ in found]
    assert all(
        score <= all_paths + 1e-4 for (_, score), all_paths in zip(found, exact, strict=True)
    )
    assert max(exact) == exact[2] == pytest.approx(found[2][1], abs=1e-2)


def test_no_steps_read_nothing() -> None:
    assert beam_search(np.zeros((0, 4)), 3) == ([], 0.0)


def _loss(log_probs: np.ndarray, symbols: list[int]) -> float:
    """CTC's, in a batch of two that is wider than need be; the second row only fills it."""
    steps = len(log_probs)
    padded = np.zeros((2, steps + 2, log_probs.shape[1]), np.float32)
    padded[0, :steps] = log_probs
    rows = np.zeros((2, steps + 2), np.int32)
    rows[0, : len(symbols)] = symbols
    batch = Batch(
        np.zeros((2, 4 * steps, 3), np.float32),
        np.array([4 * steps, 1], np.int32),
        rows,
        np.array([len(symbols), 0], np.int32),
    )
    total, count = jax.jit(ctc)(jnp.asarray(padded), batch)
    assert int(count) == len(symbols)
    return float(total)


def test_the_loss_sums_over_all_paths() -> None:
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        log_probs = _log_probs(5, 4, 1)
        readings = _readings(log_probs)
        for symbols in ([1], [2, 2], [3, 1, 2]):
            expected = -readings[tuple(symbols)]
            assert _loss(log_probs, symbols) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("found", "expected", "distance"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("same", "same", 0),
        ("abcd", "bcda", 2),
    ],
)
def test_edits(found: str, expected: str, distance: int) -> None:
    assert edits(found, expected) == edits(expected, found) == distance
    assert edits(list(found), tuple(expected)) == distance


def test_edits_are_the_fewest() -> None:
    """Against the definition, on all words of up to three letters."""

    def plain(a: str, b: str) -> int:
        if not (a and b):
            return len(a) + len(b)
        rest = plain(a[1:], b[1:])
        return min(rest + (a[0] != b[0]), 1 + plain(a[1:], b), 1 + plain(a, b[1:]))

    words = ["".join(w) for n in range(4) for w in itertools.product("ab", repeat=n)]
    for pair in itertools.product(words, words):
        assert edits(*pair) == plain(*pair)


def test_error_rates_weigh_long_texts_more() -> None:
    assert error_rate(["ab", "xyz"], ["abcd", "xyzuvw"]) == 0.5
    rates = error_rates(["the cat", "sat dawn"], ["the cat", "sat down"])
    assert rates == {"cer": pytest.approx(1 / 15, abs=1e-4), "wer": 0.25}
