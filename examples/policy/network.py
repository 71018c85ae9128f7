# SPDX-License-Identifier: Apache-2.0
"""The policy: a GRU over the steps of a rollout, whose memory ends with an episode.

Legend: T steps, B environments, F features of an observation, H hidden units, A actions.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_persistent import linen as persistent

SCANS = {
    "persistent": persistent.scan,
    "flax": nn.scan,
}


class ResetGRU(nn.Module):
    """A step of a GRU; its carry is zeros where an episode begins."""

    hidden: int

    @nn.compact
    def __call__(
        self, carry: jax.Array, given: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        x, resets = given  # [B, H], [B]
        carry = jnp.where(resets[:, None], jnp.zeros_like(carry), carry)
        return nn.GRUCell(self.hidden)(carry, x)


class ActorCritic(nn.Module):
    """Logits of the actions, and the value, at every step."""

    actions: int
    hidden: int
    scan: str  # of SCANS

    @nn.compact
    def __call__(
        self, carry: jax.Array, observations: jax.Array, resets: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """carry [B, H], observations [T, B, F], resets [T, B] -> carry, [T, B, A], [T, B]."""
        x = nn.tanh(nn.Dense(self.hidden)(observations))
        gru = SCANS[self.scan](ResetGRU, variable_broadcast="params", split_rngs={"params": False})
        carry, x = gru(self.hidden, name="gru")(carry, (x, resets))
        small = nn.initializers.orthogonal(0.01)  # every action is about as likely at first
        logits = nn.Dense(self.actions, kernel_init=small)(x)
        return carry, logits, nn.Dense(1)(x)[..., 0]

    def start(self, batch: int) -> jax.Array:
        return jnp.zeros((batch, self.hidden))
