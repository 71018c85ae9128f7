# SPDX-License-Identifier: Apache-2.0
"""The loss, in training and in validation, and the state that training starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.common import step
from examples.common.step import State, TrainStep, fresh_state
from examples.translate.batches import Batch
from examples.translate.model import ModelConfig, Translator
from examples.translate.settings import Settings
from examples.translate.tokens import PAD


def cross_entropy(
    logits: jax.Array, targets: jax.Array, smoothing: float
) -> tuple[jax.Array, jax.Array]:
    """logits [B,T,V], targets [B,T] -> label-smoothed loss summed over pieces, their number."""
    normalizer = jax.nn.logsumexp(logits, -1)
    target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    loss = normalizer - (1 - smoothing) * target - smoothing * logits.mean(-1)
    real = targets != PAD
    return jnp.where(real, loss, 0.0).sum(), real.sum()


def initial_state(config: ModelConfig, settings: Settings) -> State:
    pieces = jnp.ones((1, 2), jnp.int32)
    init = jax.jit(Translator(config).init)
    params = init(jax.random.key(settings.seed), pieces, jnp.array([2]), pieces)["params"]
    return fresh_state(params, settings)


def make_train_step(config: ModelConfig, settings: Settings) -> TrainStep:
    """(state, batch, step) -> (state, loss); the state that goes in is used up."""

    def loss(params: Any, batch: Batch, dropout: jax.Array) -> jax.Array:
        logits = Translator(config).apply(
            {"params": params},
            batch.source,
            batch.lengths,
            batch.inputs,
            train=True,
            rngs={"dropout": dropout},
        )
        total, count = cross_entropy(logits, batch.targets, settings.label_smoothing)
        return total / count.astype(total.dtype)

    return step.make_train_step(loss, settings)


def make_evaluate(config: ModelConfig) -> Callable[[Any, Sequence[Batch]], float]:
    """Mean negative log-likelihood of a piece, in nats, without label smoothing."""

    @jax.jit
    def score(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        logits = Translator(config).apply(
            {"params": params}, batch.source, batch.lengths, batch.inputs
        )
        return cross_entropy(logits, batch.targets, 0.0)

    def evaluate(params: Any, batches: Sequence[Batch]) -> float:
        totals = np.array([[float(x) for x in score(params, batch)] for batch in batches])
        return float(totals[:, 0].sum() / totals[:, 1].sum())

    return evaluate
