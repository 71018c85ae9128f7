"""One training step: loss, gradient, optimiser. All of it depends on its arguments alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.translate.batches import Batch
from examples.translate.model import ModelConfig, Translator
from examples.translate.settings import Settings
from examples.translate.tokens import PAD


class State(NamedTuple):
    params: Any
    optimizer: Any


TrainStep = Callable[[State, Batch, int], tuple[State, jax.Array]]


def cross_entropy(
    logits: jax.Array, targets: jax.Array, smoothing: float
) -> tuple[jax.Array, jax.Array]:
    """logits [B,T,V], targets [B,T] -> label-smoothed loss summed over pieces, their number."""
    normalizer = jax.nn.logsumexp(logits, -1)
    target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    loss = normalizer - (1 - smoothing) * target - smoothing * logits.mean(-1)
    real = targets != PAD
    return jnp.where(real, loss, 0.0).sum(), real.sum()


def learning_rate(settings: Settings) -> optax.Schedule:
    warmup = min(settings.warmup, settings.steps // 2)
    return optax.warmup_cosine_decay_schedule(
        settings.learning_rate / max(warmup, 1),
        settings.learning_rate,
        warmup,
        settings.steps,
        settings.learning_rate / 100,
    )


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.adamw(learning_rate(settings), weight_decay=settings.weight_decay),
    )


def initial_state(config: ModelConfig, settings: Settings) -> State:
    pieces = jnp.ones((1, 2), jnp.int32)
    init = jax.jit(Translator(config).init)
    params = init(jax.random.key(settings.seed), pieces, jnp.array([2]), pieces)["params"]
    return State(params, make_optimizer(settings).init(params))


def make_train_step(config: ModelConfig, settings: Settings) -> TrainStep:
    """(state, batch, step) -> (state, loss); the state that goes in is used up."""
    model, optimizer = Translator(config), make_optimizer(settings)
    dropout = jax.random.key(settings.seed + 1)

    @jax.jit
    def differentiate(params: Any, batch: Batch, step: int) -> tuple[jax.Array, Any]:
        def loss(params: Any) -> jax.Array:
            logits = model.apply(
                {"params": params},
                batch.source,
                batch.lengths,
                batch.inputs,
                train=True,
                rngs={"dropout": jax.random.fold_in(dropout, step)},
            )
            total, count = cross_entropy(logits, batch.targets, settings.label_smoothing)
            return total / count.astype(total.dtype)

        return jax.value_and_grad(loss)(params)

    # A program of its own, because it compiles once where `differentiate` compiles for each width.
    @partial(jax.jit, donate_argnums=0)
    def update(state: State, gradient: Any) -> State:
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer_state)

    def train_step(state: State, batch: Batch, step: int) -> tuple[State, jax.Array]:
        loss, gradient = differentiate(state.params, batch, step)
        return update(state, gradient), loss

    return train_step


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
