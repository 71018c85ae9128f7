# SPDX-License-Identifier: Apache-2.0
"""The translation model and its beam search, on parameters drawn at random."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.translate.batches import Batch, Example, collate
from examples.translate.decode import beam_search, translate
from examples.translate.model import ModelConfig, Translator
from examples.translate.settings import Settings
from examples.translate.step import cross_entropy, initial_state
from examples.translate.tokens import BEGIN, END, PAD

CONFIG = ModelConfig(13, 7, hidden=6, layers=2, embedding=5, dropout=0.5)
EXAMPLES = [Example([4, 5, 6], [4]), Example([7], [5, 6, 4]), Example([8, 4, 9, 12], [6, 4])]
WIDTH = 9  # one width for most tests: each costs a compilation
BATCH = collate(EXAMPLES, 3, WIDTH)


@pytest.fixture(scope="module")
def initial():
    return initial_state(CONFIG, Settings()).params


@pytest.fixture(scope="module")
def params(initial):
    """Ten times the initial kernels: fresh parameters would find every subword equally likely."""
    return jax.tree.map(lambda x: x * 10, initial)


@partial(jax.jit, static_argnames=("config", "method", "train"))
def _apply(params, *arrays, config=CONFIG, method=None, train=False, key=None):
    options = {"train": True, "rngs": {"dropout": key}} if train else {}
    return Translator(config).apply({"params": params}, *arrays, method=method, **options)


def _logits(params, batch: Batch, **options) -> jax.Array:
    return _apply(params, batch.source, batch.lengths, batch.inputs, **options)


def _chances(params, source: list[int], target: list[int]) -> np.ndarray:
    """Log-probabilities [T,V] of each next subword after the target's first ones."""
    logits = np.asarray(_logits(params, collate([Example(source, target)], 3, WIDTH))[0])
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def _score(params, source: list[int], target: list[int]) -> float:
    """Mean log-probability of a target that ends with its end mark (or is cut off)."""
    return float(_chances(params, source, target)[np.arange(len(target)), target].mean())


def test_one_step_at_a_time_is_teacher_forcing(params):
    memory, carries = _apply(params, BATCH.source, BATCH.lengths, method="encode")
    expected = _logits(params, BATCH)
    attention = _logits(params, BATCH, method="attention")
    for t in range(WIDTH):
        logits, weights, carries = _apply(
            params, BATCH.inputs[:, t], carries, memory, method="step"
        )
        np.testing.assert_allclose(logits, expected[:, t], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(weights, attention[:, t], rtol=1e-4, atol=1e-5)


def test_attention_reads_the_sentence_and_no_padding(params):
    attention = _logits(params, BATCH, method="attention")
    for row, length in zip(attention, BATCH.lengths, strict=True):
        np.testing.assert_allclose(row[:, :length].sum(-1), 1, rtol=1e-5)
        np.testing.assert_array_equal(row[:, length:], 0)


def test_wider_padding_changes_nothing(params):
    narrow = _logits(params, collate(EXAMPLES, 4, 5))[:3]
    np.testing.assert_allclose(narrow, _logits(params, BATCH)[:, :5], rtol=1e-4, atol=1e-4)


def test_the_scan_model_is_the_same_model(initial):
    def loss(params, config):
        total, count = cross_entropy(_logits(params, BATCH, config=config), BATCH.targets, 0.1)
        return total / count.astype(total.dtype)

    scan = dataclasses.replace(CONFIG, scan=True)
    differentiate = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    ours, expected = differentiate(initial, CONFIG), differentiate(initial, scan)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, expected
    )


def test_bfloat16_is_near_float32(initial):
    half = _logits(initial, BATCH, config=dataclasses.replace(CONFIG, dtype="bfloat16"))
    assert half.dtype == jnp.float32
    exact = _logits(initial, BATCH)
    np.testing.assert_allclose(half, exact, atol=0.03)
    assert not np.array_equal(half, exact)


def test_dropout_is_drawn_from_its_key(initial):
    drawn = [_logits(initial, BATCH, train=True, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_label_smoothed_loss_by_hand():
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]], np.float32))
    total, count = cross_entropy(jnp.asarray(logits), jnp.array([[2, PAD]]), 0.3)
    expected = -(0.7 * np.log(0.25) + 0.1 * np.log([0.5, 0.25, 0.25]).sum())
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert count == 1


def _greedy(params, source: list[int], limit: int) -> list[int]:
    target: list[int] = []
    while len(target) < limit and END not in target:
        chances = _chances(params, source, target)[len(target)]
        chances[[PAD, BEGIN]] = -np.inf
        target.append(int(chances.argmax()))
    return target


def _search(params, beam: int, limit: int) -> tuple[list[list[int]], np.ndarray]:
    pieces, scores = beam_search(
        params, BATCH.source, BATCH.lengths, config=CONFIG, beam=beam, limit=limit
    )
    return [[int(piece) for piece in row if piece != PAD] for row in pieces], np.asarray(scores)


def test_a_beam_of_one_is_greedy(params):
    found, scores = _search(params, 1, 8)
    for example, pieces, score in zip(EXAMPLES, found, scores, strict=True):
        assert pieces == _greedy(params, example.source, 8)
        np.testing.assert_allclose(score, _score(params, example.source, pieces), rtol=1e-3)


def test_a_beam_over_everything_finds_the_best(params):
    """Two steps over five subwords: 1 + 4 * 5 outcomes, all inside a beam of 25."""
    found, scores = _search(params, 25, 2)
    letters = [END, 3, 4, 5, 6]
    outcomes = [[END], *(list(two) for two in itertools.product(letters[1:], letters))]
    for example, pieces, score in zip(EXAMPLES, found, scores, strict=True):
        ranked = {tuple(one): _score(params, example.source, one) for one in outcomes}
        assert tuple(pieces) == max(ranked, key=ranked.get)
        np.testing.assert_allclose(score, max(ranked.values()), rtol=1e-3)


def test_a_wider_beam_scores_no_worse(params):
    greedy, wider = (_search(params, beam, 8)[1] for beam in (1, 4))
    assert (wider >= greedy - 1e-4).all()
    assert (wider > greedy + 1e-4).any()


def test_translate_keeps_the_order(params):
    sources = [[7], [4, 5, 6], [], [8, 4, 9, 12], [8, 4, 9, 12, 5, 5, 5]]
    found = translate(params, CONFIG, sources, widths=(2, 4), batch=2, beam=2)
    assert found[2] == []
    alone = [
        translate(params, CONFIG, [source], widths=(2, 4), batch=2, beam=2)[0] for source in sources
    ]
    assert found == alone
    assert found[3] == translate(params, CONFIG, [sources[4]], widths=(2, 4), batch=2, beam=2)[0]
    assert all(END not in pieces and PAD not in pieces for pieces in found)
