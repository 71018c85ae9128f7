# SPDX-License-Identifier: Apache-2.0
"""The PyTorch twin of the translator computes what the JAX model computes."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from examples.translate.batches import Example, collate
from examples.translate.model import ModelConfig, Translator
from examples.translate.settings import Settings
from examples.translate.step import cross_entropy, initial_state

torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs torch")

CONFIG = ModelConfig(19, 23, hidden=6, layers=2, embedding=5, dropout=0.0)
BATCH = collate([Example([4, 5, 6], [7]), Example([8], [9, 10, 11, 12])], 2, 7)


def _params():
    params = initial_state(CONFIG, Settings()).params
    # Zero biases would hide a gate in the wrong place.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    noise = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])


def test_loss_and_gradient_are_the_jax_models():
    from benchmarks.translate_torch import TorchTranslator, batch_loss

    params = _params()
    twin = TorchTranslator(CONFIG)
    twin.load_flax(params)

    def loss(params):
        logits = Translator(dataclasses.replace(CONFIG, scan=True)).apply(
            {"params": params}, BATCH.source, BATCH.lengths, BATCH.inputs
        )
        total, count = cross_entropy(logits, BATCH.targets, 0.1)
        return total / count.astype(total.dtype)

    expected, gradient = jax.value_and_grad(loss)(params)
    got = batch_loss(twin, BATCH, 0.1)
    got.backward()
    np.testing.assert_allclose(got.item(), expected, rtol=1e-5)
    np.testing.assert_allclose(
        twin.decoder[0].bias_hh_l0.grad.numpy(),
        np.concatenate([gradient["decoder_cells_0"][f"h{gate}"]["bias"] for gate in "ifgo"]),
        rtol=1e-4,
        atol=1e-7,
    )
    np.testing.assert_allclose(
        twin.source_embedding.weight.grad.numpy(),
        gradient["source_embedding"]["embedding"],
        rtol=1e-4,
        atol=1e-7,
    )


def test_parameters_come_back_unchanged():
    from benchmarks.translate_torch import TorchTranslator

    params = _params()
    twin = TorchTranslator(CONFIG)
    twin.load_flax(params)
    back = twin.store_flax(jax.tree.map(np.zeros_like, params))
    jax.tree.map(np.testing.assert_array_equal, back, params)
