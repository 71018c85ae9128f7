# SPDX-License-Identifier: Apache-2.0
"""Any mask of steps for recurrences that take lengths: its valid steps are gathered to the front.

Legend: T time steps, B batch, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array


def run_valid_steps(
    run: Callable[..., tuple[Array, Any]],
    x: Array,
    mask: Any,
    start: Array,
    *,
    reverse: bool,
    zeros: bool,
) -> tuple[Array, Any]:
    """(outputs [B, T, H], final state) of a recurrence that passes over masked steps.

    Args:
      run: (x, lengths=, reverse=) -> (outputs, final state).
      x: [B, T, F].
      mask: [B, T] or [B, T, 1]; false where a step is passed over. None: nowhere.
      start: the outputs of masked steps [B, H] that no other step is before.
      reverse: run from the last step to the first.
      zeros: the outputs of masked steps are zeros, and not those of the step before.

    Raises:
      ValueError: the mask's shape is another.
    """
    if mask is None:
        return run(x, reverse=reverse)
    steps = x.shape[:2]
    if jnp.shape(mask) not in (steps, (*steps, 1)):
        raise ValueError(f"mask: expected [B, T] = {steps}; got {jnp.shape(mask)}")
    mask = jnp.asarray(mask, bool).reshape(steps)
    x, lengths = _valid_first(x, mask)
    y, final = run(x, lengths=lengths, reverse=reverse)
    return _at_their_steps(y, mask, start, reverse=reverse, zeros=zeros), final


def _valid_first(x: Array, mask: Array) -> tuple[Array, Array]:
    """Sequences [B, T, F] with the steps of a mask [B, T] first, in order, and how many [B]."""
    first = jnp.argsort(~mask, axis=1, stable=True)
    return _steps(x, first), mask.sum(axis=1, dtype=jnp.int32)


def _at_their_steps(y: Array, mask: Array, start: Array, *, reverse: bool, zeros: bool) -> Array:
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
