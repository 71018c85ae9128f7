# SPDX-License-Identifier: Apache-2.0
"""A policy in training, and episodes played by it.

Legend: T steps of a rollout, B environments, H hidden units.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from examples.policy.environments import Environment, step_or_reset
from examples.policy.network import ActorCritic
from examples.policy.pole import Pole
from examples.policy.recall import Recall
from examples.policy.settings import Settings


class Learner(NamedTuple):
    """A policy in training, and its environments [B] where the last rollout left them."""

    params: Any
    optimizer: Any
    environments: Any
    resets: Array  # whether an episode begins
    carry: Array  # of the GRU [B, H]
    returned: Array  # so far in this episode
    last_return: Array  # of the last whole episode; NaN before there is one


class Transition(NamedTuple):
    """A step in each environment: [T, B, ...]."""

    observation: Array
    reset: Array  # whether it begins an episode
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    done: Array  # whether it ends one


def make_environment(settings: Settings) -> Environment:
    if settings.task == "recall":
        return Recall(settings.symbols, settings.delay)
    return Pole(settings.limit)


def make_network(settings: Settings) -> ActorCritic:
    return ActorCritic(make_environment(settings).actions, settings.hidden, settings.scan)


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    steps = settings.updates * settings.epochs * settings.minibatches
    rate = optax.linear_schedule(settings.learning_rate, 0.0, steps)
    return optax.chain(optax.clip_by_global_norm(settings.clip), optax.adam(rate, eps=1e-5))


@partial(jax.jit, static_argnums=0)
def fresh_learner(settings: Settings) -> Learner:
    environment, network = make_environment(settings), make_network(settings)
    count = settings.environments
    key, params_key = jax.random.split(jax.random.key(settings.seed))
    carry, resets = network.start(count), jnp.ones(count, bool)
    observation = jnp.zeros((1, count, environment.features))
    params = network.init(params_key, carry, observation, resets[None])
    environments = jax.vmap(environment.reset)(jax.random.split(key, count))
    optimizer = make_optimizer(settings).init(params)
    zeros = jnp.zeros(count)
    return Learner(params, optimizer, environments, resets, carry, zeros, zeros + jnp.nan)


def play(
    learner: Learner, key: Array, memoryless: Array | bool, length: int, settings: Settings
) -> tuple[Learner, Transition]:
    """`length` steps in every environment. A memoryless policy begins anew at every step."""
    environment, network = make_environment(settings), make_network(settings)
    step_all = jax.vmap(partial(step_or_reset, environment))

    def step(learner: Learner, key: Array) -> tuple[Learner, Transition]:
        keys = jax.random.split(key, 1 + len(learner.resets))
        observation = jax.vmap(environment.observe)(learner.environments)
        reset = learner.resets | memoryless
        result: Any = network.apply(learner.params, learner.carry, observation[None], reset[None])
        carry, logits, value = result
        action = jax.random.categorical(keys[0], logits[0])
        log_prob = chosen(jax.nn.log_softmax(logits[0]), action)
        environments, reward, done = step_all(learner.environments, action, keys[1:])
        returned = learner.returned + reward
        after = learner._replace(
            environments=environments,
            resets=done,
            carry=carry,
            returned=jnp.where(done, 0.0, returned),
            last_return=jnp.where(done, returned, learner.last_return),
        )
        return after, Transition(observation, reset, action, log_prob, value[0], reward, done)

    return jax.lax.scan(step, learner, jax.random.split(key, length))


@partial(jax.jit, static_argnames="settings")
def evaluate(params: Any, memoryless: bool, *, settings: Settings) -> Array:
    """Returns of fresh episodes [episodes]."""
    environment = make_environment(settings)
    count = settings.episodes
    keys = jax.random.split(jax.random.key(settings.seed + 2), count + 1)
    zeros = jnp.zeros(count)
    learner = Learner(
        params,
        (),
        jax.vmap(environment.reset)(keys[1:]),
        jnp.ones(count, bool),
        make_network(settings).start(count),
        zeros,
        zeros,
    )
    _, played = play(learner, keys[0], memoryless, environment.limit, settings)
    first = jnp.cumsum(played.done, 0) - played.done == 0  # of the first episode
    return jnp.where(first, played.reward, 0.0).sum(0)


def chosen(log_probs: Array, action: Array) -> Array:
    """The log probabilities of the actions taken."""
    return jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0]
