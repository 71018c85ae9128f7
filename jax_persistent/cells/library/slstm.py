# SPDX-License-Identifier: Apache-2.0
"""sLSTM of xLSTM: exponential gates, and a block diagonal recurrence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import Parameters, StepCell, Weights, gated_by_heads
from jax_persistent.cells.library.operations import dot, dot_by_heads, sigmoid


@dataclass(frozen=True)
class SLSTM(StepCell):
    """sLSTM of xLSTM (Beck et al., 2024): exponential gates, and a block diagonal recurrence.

        i, f, g, o = x W + h R + b, with R block diagonal
        f = log sigmoid(f) + m, and i before the first step
        m' = max(f, i)
        i, f = exp(i - m'), exp(f - m')
        c' = f * c + i * tanh(g)
        n' = f * n + i
        h' = sigmoid(o) * c' / n'

    n is 0 before the first step and at least 1 after it. Carry (h, c, n, m); the recurrent kernel
    is [4, K, H/K, H/K], of each gate and head.
    """

    states: ClassVar[int] = 4
    heads: int = 4

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        return gated_by_heads(4, inputs, hidden, self.heads)

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, c, n, m = carry
        of_h = dot_by_heads(h, p["recurrent_kernel"])
        i, f, g, o = jnp.split(dot(x, p["input_kernel"]) + of_h + p["bias"], 4)
        f = jnp.where(n == 0, i, jax.nn.log_sigmoid(f) + m)
        m = jnp.maximum(f, i)
        i, f = jnp.exp(i - m), jnp.exp(f - m)
        c = f * c + i * jnp.tanh(g)
        n = f * n + i
        h = sigmoid(o) * c / n
        return (h, c, n, m), h
