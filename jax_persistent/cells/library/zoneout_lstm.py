# SPDX-License-Identifier: Apache-2.0
"""LSTM with zoneout: some units keep what they had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, random

from jax_persistent.cells.library.base import StepCell, Weights
from jax_persistent.cells.library.operations import check_rates, dot, mask, sigmoid


@dataclass(frozen=True)
class ZoneoutLSTM(StepCell):
    """LSTM with zoneout (Krueger et al., 2017): some units keep what they had.

        i, f, g, o = x W + h R + b
        new = sigmoid(f) * c + sigmoid(i) * tanh(g)
        c' = z_c * c + (1 - z_c) * new
        h' = z_h * h + (1 - z_h) * sigmoid(o) * tanh(new)

    The noise (z_c, z_h) is 1 with the probability of its rate, else 0; in evaluation z is the rate.

    Carry (h, c).
    """

    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2
    cell_rate: float = 0.5
    hidden_rate: float = 0.05

    def __post_init__(self) -> None:
        check_rates(cell_rate=self.cell_rate, hidden_rate=self.hidden_rate)

    def draw(self, key: Array, lead: tuple[int, ...], hidden: int) -> Any:
        of_c, of_h = random.split(key)
        return mask(of_c, self.cell_rate, lead, hidden), mask(of_h, self.hidden_rate, lead, hidden)

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, c = carry
        z_c, z_h = (self.cell_rate, self.hidden_rate) if noise is None else noise
        gates = dot(x, p["input_kernel"]) + dot(h, p["recurrent_kernel"]) + p["bias"]
        i, f, g, o = jnp.split(gates, 4)
        new = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        c = z_c * c + (1 - z_c) * new
        h = z_h * h + (1 - z_h) * sigmoid(o) * jnp.tanh(new)
        return (h, c), h
