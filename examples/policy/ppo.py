# SPDX-License-Identifier: Apache-2.0
"""Proximal policy optimisation (Schulman et al., 2017) of a recurrent policy, in one program.

An update plays a rollout in all environments, estimates advantages and takes a few passes over the
rollout; a minibatch is some of the environments, each with all its steps in order, so that the GRU
runs over it from the carry in which the last rollout ended.

Legend: T steps of a rollout, B environments, H hidden units.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from examples.policy.rollout import (
    Learner,
    Transition,
    chosen,
    make_environment,
    make_network,
    make_optimizer,
    play,
)
from examples.policy.settings import Settings


def advantages(played: Transition, last_value: Array, discount: float, gae_lambda: float) -> Array:
    """Generalised advantage estimates (Schulman et al., 2016): [T, B]."""

    def step(later: tuple[Array, Array], now: tuple[Array, Array, Array]) -> Any:
        advantage, next_value = later
        reward, value, done = now
        goes_on = 1.0 - done.astype(reward.dtype)
        error = reward + discount * next_value * goes_on - value
        advantage = error + discount * gae_lambda * goes_on * advantage
        return (advantage, value), advantage

    start = jnp.zeros_like(last_value), last_value
    steps = played.reward, played.value, played.done
    return jax.lax.scan(step, start, steps, reverse=True)[1]


def loss(
    params: Any, carry: Array, played: Transition, advantage: Array, settings: Settings
) -> tuple[Array, Array]:
    """The loss of a minibatch, and its mean entropy."""
    network = make_network(settings)
    result: Any = network.apply(params, carry, played.observation, played.reset)
    _, logits, value = result
    log_probs = jax.nn.log_softmax(logits)
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
    value_loss = jnp.square(value - (advantage + played.value)).mean() / 2
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = jnp.exp(chosen(log_probs, played.action) - played.log_prob)
    clipped = jnp.clip(ratio, 1 - settings.ratio_clip, 1 + settings.ratio_clip)
    gain = jnp.minimum(ratio * advantage, clipped * advantage).mean()
    total = -gain + settings.value_weight * value_loss - settings.entropy_weight * entropy
    return total, entropy


@partial(jax.jit, static_argnames="settings")
def update(
    learner: Learner, number: int, memoryless: bool, *, settings: Settings
) -> tuple[Learner, dict[str, Array]]:
    """The update of that number -> the learner after it, and measures of it."""
    key = jax.random.fold_in(jax.random.key(settings.seed + 1), number)
    keys = jax.random.split(key, 1 + settings.epochs)
    carry = learner.carry
    learner, played = play(learner, keys[0], memoryless, settings.length, settings)
    observation = jax.vmap(make_environment(settings).observe)(learner.environments)
    resets = learner.resets | memoryless
    result: Any = make_network(settings).apply(
        learner.params, learner.carry, observation[None], resets[None]
    )
    last_value = result[2][0]
    advantage = advantages(played, last_value, settings.discount, settings.gae_lambda)
    optimizer = make_optimizer(settings)

    def descend(state: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], Any]:
        params, optimizer_state = state
        gradient_of = jax.value_and_grad(loss, has_aux=True)
        (value, entropy), gradient = gradient_of(params, *batch, settings)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), (value, entropy)

    def epoch(state: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], Any]:
        order = jax.random.permutation(key, settings.environments)
        order = order.reshape(settings.minibatches, -1)
        steps = jax.tree.map(lambda x: jnp.moveaxis(x[:, order], 1, 0), (played, advantage))
        return jax.lax.scan(descend, state, (carry[order], *steps))

    state = learner.params, learner.optimizer
    state, (losses, entropies) = jax.lax.scan(epoch, state, keys[1:])
    learner = learner._replace(params=state[0], optimizer=state[1])
    measures = {
        "return": jnp.nanmean(learner.last_return),
        "loss": losses.mean(),
        "entropy": entropies.mean(),
    }
    return learner, measures
