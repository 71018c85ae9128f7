# SPDX-License-Identifier: Apache-2.0
"""Multiplicative LSTM: the transition depends on the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import (
    Parameters,
    StepCell,
    Weights,
    gated,
    lecun,
    orthogonal,
)
from jax_persistent.cells.library.operations import dot, sigmoid


@dataclass(frozen=True)
class MultiplicativeLSTM(StepCell):
    """Multiplicative LSTM (Krause et al., 2016): the transition depends on the input.

        m = (x W_m) * (h R_m)
        i, f, g, o = x W + m R + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Carry (h, c); W_m is `input_factor_kernel` [I, H], R_m `recurrent_factor_kernel` [H, H].
    """

    states: ClassVar[int] = 2

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        of_x, of_h = ((inputs, hidden), lecun), ((hidden, hidden), orthogonal(1))
        factors = {"input_factor_kernel": of_x, "recurrent_factor_kernel": of_h}
        return gated(4, inputs, hidden) | factors

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, c = carry
        m = dot(x, p["input_factor_kernel"]) * dot(h, p["recurrent_factor_kernel"])
        gates = dot(x, p["input_kernel"]) + dot(m, p["recurrent_kernel"]) + p["bias"]
        i, f, g, o = jnp.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return (h, c), h
