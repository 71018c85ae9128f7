# SPDX-License-Identifier: Apache-2.0
"""A cue is shown, distractors follow, and then the right action is the cue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class RecallState(NamedTuple):
    cue: Array
    symbol: Array  # shown now: the cue at first, then a distractor
    time: Array


@dataclass(frozen=True)
class Recall:
    """The reward is 1 if the action at the last step is the cue; all other rewards are 0.

    Observed: the symbol as one-hot (zeros at the last step), whether it is the cue, whether this is
    the last step.
    """

    actions: int  # symbols that a cue and distractors are drawn from
    delay: int  # distractors

    @property
    def features(self) -> int:
        return self.actions + 2

    @property
    def limit(self) -> int:
        return self.delay + 2

    def reset(self, key: Array) -> RecallState:
        cue = self._draw(key)
        return RecallState(cue, cue, jnp.zeros((), jnp.int32))

    def observe(self, state: RecallState) -> Array:
        asked = self._asked(state)
        symbol = jnp.where(asked, 0.0, jax.nn.one_hot(state.symbol, self.actions))
        return jnp.append(symbol, jnp.stack([state.time == 0, asked]).astype(symbol.dtype))

    def step(
        self, state: RecallState, action: Array, key: Array
    ) -> tuple[RecallState, Array, Array]:
        asked = self._asked(state)
        reward = jnp.where(asked & (action == state.cue), 1.0, 0.0)
        return RecallState(state.cue, self._draw(key), state.time + 1), reward, asked

    def _asked(self, state: RecallState) -> Array:
        return state.time == self.delay + 1

    def _draw(self, key: Array) -> Array:
        return jax.random.randint(key, (), 0, self.actions)
