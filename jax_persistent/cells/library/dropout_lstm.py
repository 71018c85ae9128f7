# SPDX-License-Identifier: Apache-2.0
"""LSTM with recurrent dropout: of what enters the cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import StepCell, Weights
from jax_persistent.cells.library.operations import check_rates, dot, mask, sigmoid


@dataclass(frozen=True)
class DropoutLSTM(StepCell):
    """LSTM with recurrent dropout (Semeniuta, Severyn and Barth, 2016): of what enters the cells.

        i, f, g, o = x W + h R + b
        c' = sigmoid(f) * c + sigmoid(i) * d * tanh(g)
        h' = sigmoid(o) * tanh(c')

    The noise d is 0 with the probability of `rate`, else 1 / (1 - rate); in evaluation d is 1.

    Carry (h, c).
    """

    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2
    rate: float = 0.25

    def __post_init__(self) -> None:
        check_rates(below_one=True, rate=self.rate)

    def draw(self, key: Array, lead: tuple[int, ...], hidden: int) -> Any:
        return mask(key, 1 - self.rate, lead, hidden) / (1 - self.rate)

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, c = carry
        d = 1 if noise is None else noise
        gates = dot(x, p["input_kernel"]) + dot(h, p["recurrent_kernel"]) + p["bias"]
        i, f, g, o = jnp.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * d * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return (h, c), h
