# SPDX-License-Identifier: Apache-2.0
"""What an environment is, and how episodes follow one another. Pure functions of one environment.

Both environments hide something that the right action depends on.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array


class Environment(Protocol):
    """Returns of an episode lie in 0..1."""

    @property
    def actions(self) -> int: ...

    @property
    def features(self) -> int:
        """Of an observation."""

    @property
    def limit(self) -> int:
        """The longest episode, in steps."""

    def reset(self, key: Array) -> Any:
        """The state at an episode's start."""

    def observe(self, state: Any) -> Array:
        """What the policy sees of a state: [features]."""

    def step(self, state: Any, action: Array, key: Array) -> tuple[Any, Array, Array]:
        """-> state, reward, and whether the episode has ended."""


def step_or_reset(
    environment: Environment, state: Any, action: Array, key: Array
) -> tuple[Any, Array, Array]:
    """`step`; the state after an episode's end is the next one's start."""
    step_key, reset_key = jax.random.split(key)
    after, reward, done = environment.step(state, action, step_key)
    fresh = environment.reset(reset_key)
    state = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, after)
    return state, reward, done
