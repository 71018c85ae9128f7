# SPDX-License-Identifier: Apache-2.0
"""One training step: loss, gradient, optimiser. All of it depends on its arguments alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import optax


class State(NamedTuple):
    params: Any
    optimizer: Any


TrainStep = Callable[[State, Any, int], tuple[State, jax.Array]]


class Optimized(Protocol):
    """Settings of a run that the optimiser reads."""

    steps: int
    warmup: int
    learning_rate: float
    weight_decay: float
    clip: float
    seed: int


def learning_rate(settings: Optimized) -> optax.Schedule:
    warmup = min(settings.warmup, settings.steps // 2)
    return optax.warmup_cosine_decay_schedule(
        settings.learning_rate / max(warmup, 1),
        settings.learning_rate,
        warmup,
        settings.steps,
        settings.learning_rate / 100,
    )


def make_optimizer(settings: Optimized) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.adamw(learning_rate(settings), weight_decay=settings.weight_decay),
    )


def fresh_state(params: Any, settings: Optimized) -> State:
    """The state of training before its first step."""
    return State(params, jax.jit(make_optimizer(settings).init)(params))


def make_train_step(
    loss: Callable[[Any, Any, jax.Array], jax.Array], settings: Optimized
) -> TrainStep:
    """`loss` of (parameters, batch, key of dropout) -> (state, batch, step) -> (state, loss).

    The state that goes in is used up.
    """
    optimizer = make_optimizer(settings)
    dropout = jax.random.key(settings.seed + 1)

    @jax.jit
    def differentiate(params: Any, batch: Any, step: int) -> tuple[jax.Array, Any]:
        return jax.value_and_grad(loss)(params, batch, jax.random.fold_in(dropout, step))

    # A program of its own, because it compiles once where `differentiate` compiles for each width.
    @partial(jax.jit, donate_argnums=0)
    def update(state: State, gradient: Any) -> State:
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer_state)

    def train_step(state: State, batch: Any, step: int) -> tuple[State, jax.Array]:
        value, gradient = differentiate(state.params, batch, step)
        return update(state, gradient), value

    return train_step
