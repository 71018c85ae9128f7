# SPDX-License-Identifier: Apache-2.0
"""Any mask of steps for recurrences that take lengths: its valid steps are gathered to the front.

Legend: T time steps, B batch, F features.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def valid_first(x: Array, mask: Array) -> tuple[Array, Array]:
    """Sequences [B, T, F] with the steps of a mask [B, T] first, in order, and how many [B]."""
    first = jnp.argsort(~mask, axis=1, stable=True)
    return _steps(x, first), mask.sum(axis=1, dtype=jnp.int32)


def at_their_steps(y: Array, mask: Array, start: Array, *, reverse: bool, zeros: bool) -> Array:
    """Outputs of the valid steps, which come first in y [B, T, F], where those steps are.

    A masked step gives the state before it, at first `start` [B, F]; or zeros.
    """
    # A run in reverse has met the valid steps behind a masked one, and not those before it.
    at = jnp.cumsum(mask, axis=1) - (mask if reverse else 1)
    none_before = (at < 0) | (at >= mask.sum(axis=1, keepdims=True))
    y = _steps(y, jnp.clip(at, 0, y.shape[1] - 1))
    y = jnp.where(none_before[:, :, None], start[:, None], y)
    return jnp.where(mask[:, :, None], y, 0) if zeros else y


def _steps(sequences: Array, at: Array) -> Array:
    return jnp.take_along_axis(sequences, at[:, :, None], axis=1)
