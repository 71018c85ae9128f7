# SPDX-License-Identifier: Apache-2.0
"""The loss, in training and in validation, and the state that training starts from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from examples.common import step
from examples.common.step import State, TrainStep, fresh_state
from examples.speech.batches import Batch
from examples.speech.model import ModelConfig, Recognizer, steps
from examples.speech.settings import Settings
from examples.speech.text import BLANK


def model_config(settings: Settings) -> ModelConfig:
    return ModelConfig(
        mels=settings.mels,
        channels=settings.channels,
        hidden=settings.hidden,
        layers=settings.layers,
        dropout=settings.dropout,
        dtype=settings.dtype,
    )


def ctc(log_probs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """log_probs [B,S,V] -> negative log-likelihood summed over utterances, number of letters."""
    past_end = jnp.arange(log_probs.shape[1])[None] >= steps(batch.frames)[:, None]
    no_symbol = jnp.arange(batch.symbols.shape[1])[None] >= batch.counts[:, None]
    losses = optax.ctc_loss(
        log_probs,
        past_end.astype(jnp.float32),
        batch.symbols,
        no_symbol.astype(jnp.float32),
        blank_id=BLANK,
    )
    return jnp.where(batch.counts > 0, losses, 0.0).sum(), batch.counts.sum()


def initial_state(config: ModelConfig, settings: Settings) -> State:
    features = jnp.zeros((1, 4, config.mels), jnp.float32)
    init = jax.jit(Recognizer(config).init)
    params = init(jax.random.key(settings.seed), features, jnp.array([4]))["params"]
    return fresh_state(params, settings)


def make_train_step(config: ModelConfig, settings: Settings) -> TrainStep:
    """(state, batch, step) -> (state, loss); the state that goes in is used up.

    The loss is in nats a letter: a batch of short utterances weighs no less than one of long ones.
    """

    def loss(params: Any, batch: Batch, dropout: jax.Array) -> jax.Array:
        log_probs = Recognizer(config).apply(
            {"params": params},
            batch.features,
            batch.frames,
            train=True,
            rngs={"dropout": dropout},
        )
        total, count = ctc(log_probs, batch)
        return total / count.astype(total.dtype)

    return step.make_train_step(loss, settings)
