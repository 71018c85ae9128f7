# SPDX-License-Identifier: Apache-2.0
"""The PyTorch twin of the recogniser computes what the JAX model computes."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from examples.speech.batches import collate
from examples.speech.corpus import Utterance
from examples.speech.model import ModelConfig, Recognizer
from examples.speech.settings import Settings
from examples.speech.step import ctc, initial_state

torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs torch")

CONFIG = ModelConfig(mels=11, channels=3, hidden=5, layers=2, dropout=0.0)


def _batch():
    draw = np.random.default_rng(6)
    said = [("at", 17), ("too", 29)]
    utterances = [
        Utterance("", text, draw.normal(size=(frames, 11)).astype(np.float32))
        for text, frames in said
    ]
    return collate(utterances, 3, 30)  # one row only fills


def _params():
    params = initial_state(CONFIG, Settings()).params
    # Zero biases and unit scales would hide one in the wrong place.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    noise = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])


def test_loss_and_gradient_are_the_jax_models():
    from benchmarks.speech_torch import TorchRecognizer, batch_loss

    params, batch = _params(), _batch()
    twin = TorchRecognizer(CONFIG)
    twin.load_flax(params)

    def loss(params):
        log_probs = Recognizer(dataclasses.replace(CONFIG, scan=True)).apply(
            {"params": params}, batch.features, batch.frames
        )
        total, count = ctc(log_probs, batch)
        return total / count.astype(total.dtype)

    expected, gradient = jax.jit(jax.value_and_grad(loss))(params)
    got = batch_loss(twin, batch)
    got.backward()
    np.testing.assert_allclose(got.item(), expected, rtol=1e-5)
    gradients = TorchRecognizer(CONFIG)
    for parameter, twins in zip(gradients.parameters(), twin.parameters(), strict=True):
        parameter.data = torch.zeros_like(parameter) if twins.grad is None else twins.grad
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
        gradients.store_flax(gradient),
        gradient,
    )


def test_parameters_come_back_unchanged():
    from benchmarks.speech_torch import TorchRecognizer

    params = _params()
    twin = TorchRecognizer(CONFIG)
    twin.load_flax(params)
    back = twin.store_flax(jax.tree.map(np.zeros_like, params))
    jax.tree.map(np.testing.assert_array_equal, back, params)
