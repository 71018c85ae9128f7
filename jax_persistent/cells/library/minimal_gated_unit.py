# SPDX-License-Identifier: Apache-2.0
"""Minimal gated unit: a GRU whose gates are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import StepCell, Weights
from jax_persistent.cells.library.operations import dot, sigmoid


@dataclass(frozen=True)
class MinimalGatedUnit(StepCell):
    """Minimal gated unit (Zhou et al., 2016): a GRU whose gates are one.

        f = sigmoid(x W_f + h R_f + b_f)
        n = tanh(x W_n + (f * h) R_n + b_n)
        h' = (1 - f) * h + f * n

    Carry h; gates in the order f, n.
    """

    gates: ClassVar[int] = 2

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, H = carry, carry.shape[0]
        of_x, R = dot(x, p["input_kernel"]) + p["bias"], p["recurrent_kernel"]
        f = sigmoid(of_x[:H] + dot(h, R[:, :H]))
        n = jnp.tanh(of_x[H:] + dot(f * h, R[:, H:]))
        h = (1 - f) * h + f * n
        return h, h
