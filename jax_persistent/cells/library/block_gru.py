# SPDX-License-Identifier: Apache-2.0
"""GRU of block diagonal recurrence, normalised by its mean square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import Parameters, StepCell, Weights, gated_by_heads, ones
from jax_persistent.cells.library.operations import dot, dot_by_heads, rms_norm, sigmoid


@dataclass(frozen=True)
class BlockGRU(StepCell):
    """GRU of DreamerV3 (Hafner et al., 2023): block diagonal, normalised by its mean square.

        r, u, n = norm(x W + h R + b) * s, with R block diagonal
        n = tanh(sigmoid(r) * n)
        u = sigmoid(u - 1)
        h' = u * n + (1 - u) * h

    Carry h. The recurrent kernel is [3, K, H/K, H/K], of each gate and head; s is `scale` [3*H].
    """

    heads: int = 8

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        return gated_by_heads(3, inputs, hidden, self.heads) | {"scale": ((3 * hidden,), ones)}

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h = carry
        of_h = dot_by_heads(h, p["recurrent_kernel"])
        gates = rms_norm(dot(x, p["input_kernel"]) + of_h + p["bias"], p["scale"])
        r, u, n = jnp.split(gates, 3)
        n = jnp.tanh(sigmoid(r) * n)
        u = sigmoid(u - 1)
        h = u * n + (1 - u) * h
        return h, h
