# SPDX-License-Identifier: Apache-2.0
"""LSTM with a coupled input and forget gate, CIFG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import StepCell, Weights
from jax_persistent.cells.library.operations import dot, sigmoid


@dataclass(frozen=True)
class CoupledLSTM(StepCell):
    """LSTM with a coupled input and forget gate, CIFG (Greff et al., 2017).

        f, g, o = x W + h R + b
        c' = sigmoid(f) * c + (1 - sigmoid(f)) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Carry (h, c).
    """

    gates: ClassVar[int] = 3
    states: ClassVar[int] = 2

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, c = carry
        gates = dot(x, p["input_kernel"]) + dot(h, p["recurrent_kernel"]) + p["bias"]
        f, g, o = jnp.split(gates, 3)
        f = sigmoid(f)
        c = f * c + (1 - f) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return (h, c), h
