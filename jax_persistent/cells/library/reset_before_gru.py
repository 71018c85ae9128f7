# SPDX-License-Identifier: Apache-2.0
"""GRU, reset before the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import StepCell, Weights
from jax_persistent.cells.library.operations import dot, sigmoid


@dataclass(frozen=True)
class ResetBeforeGRU(StepCell):
    """GRU, reset before the product (Cho et al., 2014, the first form).

        r, z = sigmoid(x W_rz + h R_rz + b_rz)
        n = tanh(x W_n + (r * h) R_n + b_n)
        h' = (1 - z) * n + z * h

    Takes two exchanges a step. Carry h.
    """

    gates: ClassVar[int] = 3

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, rz = carry, 2 * carry.shape[0]
        of_x, R = dot(x, p["input_kernel"]) + p["bias"], p["recurrent_kernel"]
        r, z = jnp.split(sigmoid(of_x[:rz] + dot(h, R[:, :rz])), 2)
        n = jnp.tanh(of_x[rz:] + dot(r * h, R[:, rz:]))
        h = (1 - z) * n + z * h
        return h, h
