# SPDX-License-Identifier: Apache-2.0
"""Plain lax.scan in one dtype throughout: the yardstick whose rounding error is the tests' budget.

Written apart from the package, with every optional operand given, so that one compiled function
per cell, dtype and direction serves all combinations.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


def lstm_step(a, r, h, c):
    i, f, g, o = jnp.split(a + r, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_step(a, r, h, c):
    a_r, a_z, a_n = jnp.split(a, 3, axis=-1)
    r_r, r_z, r_n = jnp.split(r, 3, axis=-1)
    z = jax.nn.sigmoid(a_z + r_z)
    n = jnp.tanh(a_n + jax.nn.sigmoid(a_r + r_r) * r_n)
    return (1 - z) * n + z * h, c


STEPS = {
    "lstm": lstm_step,
    "gru": gru_step,
    "elman-tanh": lambda a, r, h, c: (jnp.tanh(a + r), c),
    "elman-relu": lambda a, r, h, c: (jax.nn.relu(a + r), c),
}


def run(cell: str, params: dict, lengths: jax.Array, resets: jax.Array, reverse: bool) -> dict:
    """All of x [B,T,I], both kernels, both biases, h0, c0, reset_h, reset_c, lengths [B] and resets
    [B,T] -> outputs [B,T,H], h, c."""
    kernel, recurrent = params["input_kernel"], params["recurrent_kernel"]
    recurrent_bias = params["recurrent_bias"]
    a = params["x"] @ kernel + params["bias"][None, None, :]
    times = jnp.arange(a.shape[1], dtype=lengths.dtype)

    def body(carry, step):
        h, c = carry
        a_t, t, reset = step
        inside = (t < lengths)[:, None]
        reset = reset[:, None] & inside
        h, c = jnp.where(reset, params["reset_h"], h), jnp.where(reset, params["reset_c"], c)
        new_h, new_c = STEPS[cell](a_t, h @ recurrent + recurrent_bias[None, :], h, c)
        h, c = jnp.where(inside, new_h, h), jnp.where(inside, new_c, c)
        return (h, c), jnp.where(inside, h, jnp.zeros_like(h))

    carry = params["h0"], params["c0"]
    steps = jnp.swapaxes(a, 0, 1), times, resets.T
    (h, c), outputs = jax.lax.scan(body, carry, steps, reverse=reverse)
    results = {"outputs": jnp.swapaxes(outputs, 0, 1), "h": h}
    return results | {"c": c} if cell == "lstm" else results


@partial(jax.jit, static_argnums=(0, 4))
def run_and_pull(
    cell: str,
    params: dict,
    lengths: jax.Array,
    resets: jax.Array,
    reverse: bool,
    cotangents: dict,
):
    results, pull = jax.vjp(lambda p: run(cell, p, lengths, resets, reverse), params)
    return results, pull(cotangents)[0]
