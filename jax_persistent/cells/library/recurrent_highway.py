# SPDX-License-Identifier: Apache-2.0
"""Recurrent highway network, of coupled gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import Parameters, StepCell, Weights, lecun, orthogonal
from jax_persistent.cells.library.operations import dot, sigmoid


@dataclass(frozen=True)
class RecurrentHighway(StepCell):
    """Recurrent highway network (Zilly et al., 2017), of coupled gates.

        For each n in 0..depth-1:
          h, t = s R_n + b_n, and x W more for n = 0
          s = tanh(h) * sigmoid(t) + s * (1 - sigmoid(t))

    Carry s; R_n is `recurrent_kernel_n` [H, 2*H], b_n `bias_n` [2*H], W [I, 2*H].
    """

    depth: int = 3

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        found: Parameters = {"input_kernel": ((inputs, 2 * hidden), lecun)}
        for n in range(self.depth):
            found[f"recurrent_kernel_{n}"] = (hidden, 2 * hidden), orthogonal(2)
            found[f"bias_{n}"] = (2 * hidden,), closed
        return found

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        s, of_x = carry, dot(x, p["input_kernel"])
        for n in range(self.depth):
            gates = dot(s, p[f"recurrent_kernel_{n}"]) + p[f"bias_{n}"]
            h, t = jnp.split(gates + of_x if n == 0 else gates, 2)
            s = jnp.tanh(h) * sigmoid(t) + s * (1 - sigmoid(t))
        return s, s


def closed(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Of h 0, of t -2: at first a layer hands on most of what it gets."""
    del key
    return jnp.repeat(jnp.array([0, -2], dtype), shape[0] // 2)
