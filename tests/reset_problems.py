# SPDX-License-Identifier: Apache-2.0
"""What a recurrent layer with resets computes: the cell, one step after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.recurrent import flip_sequences
from flax_problems import Options, T

Step = Callable[[Any, jax.Array], tuple[Any, jax.Array]]


def some_resets(options: Options) -> np.ndarray:
    """Two steps in five, others in each row, the first and the last among them."""
    flags = np.random.default_rng(5).random((*options.batch, T)) < 0.4
    flags[..., 0] |= flags[..., 1]
    return np.moveaxis(flags, -1, 0) if options.time_major else flags


def by_hand(
    step: Step, x: jax.Array, carry: Any, resets: np.ndarray, reset_carry: Any, options: Options
) -> Any:
    """flax's results with resets: `carry` is what a call without resets begins with."""
    lengths = options.flags()["seq_lengths"]
    axis = 0 if options.time_major else len(options.batch)

    def flip(sequence: Any) -> Any:
        return flip_sequences(sequence, lengths, len(options.batch), options.time_major)

    if options.reverse:
        x, resets = flip(x), flip(jnp.asarray(resets))

    def reset_step(carry: Any, given: Any) -> Any:
        x, reset = given
        carry = jax.tree.map(lambda c, r: jnp.where(reset[..., None], r, c), carry, reset_carry)
        carry, y = step(carry, x)
        return carry, (carry, y)

    xs = jax.tree.map(lambda a: jnp.moveaxis(a, axis, 0), (x, jnp.asarray(resets)))
    final, (carries, ys) = jax.lax.scan(reset_step, carry, xs)
    y = jnp.moveaxis(ys, 0, axis)
    if options.reverse and options.keep_order:
        y = flip(y)
    if not options.return_carry:
        return y
    if lengths is None:
        return final, y

    def at_length(initial: jax.Array, after: jax.Array) -> jax.Array:
        every = jnp.concatenate([initial[None], after])
        index = jnp.broadcast_to(lengths[..., None], initial.shape)[None]
        return jnp.take_along_axis(every, index, axis=0)[0]

    return jax.tree.map(at_length, carry, carries), y
