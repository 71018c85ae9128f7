# SPDX-License-Identifier: Apache-2.0
"""Leaky rate network of computational neuroscience."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.nn import initializers

from jax_persistent.cells.library.base import Parameters, StepCell, Weights, gated
from jax_persistent.cells.library.operations import dot

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


@dataclass(frozen=True)
class RateNetwork(StepCell):
    """Leaky rate network (Sompolinsky et al., 1988; Song et al., 2016).

        v' = v + leak * (-v + r R + x W + b) + sqrt(2 * leak) * sigma * xi, with r = activation(v)
        y = activation(v')

    The noise xi is standard normal; in evaluation xi is 0.

    `activation` is "tanh" or "relu"; `leak` is a step in time constants; `gain` is that of the
    initial recurrent kernel: above 1 a tanh network is chaotic. Carry v.
    """

    activation: str = "tanh"
    leak: float = 0.1
    sigma: float = 0.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            known = ", ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"activation: expected one of {known}; got {self.activation!r}")

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        normal = initializers.variance_scaling(self.gain**2, "fan_in", "normal")
        return gated(1, inputs, hidden) | {"recurrent_kernel": ((hidden, hidden), normal)}

    def draw(self, key: Array, lead: tuple[int, ...], hidden: int) -> Any:
        return random.normal(key, (*lead, hidden)) if self.sigma else None

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        v, rate = carry, ACTIVATIONS[self.activation]
        drive = dot(rate(v), p["recurrent_kernel"]) + dot(x, p["input_kernel"]) + p["bias"]
        v = v + self.leak * (drive - v)
        if noise is not None:
            v = v + math.sqrt(2 * self.leak) * self.sigma * noise
        return v, rate(v)
