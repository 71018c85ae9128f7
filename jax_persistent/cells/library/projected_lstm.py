# SPDX-License-Identifier: Apache-2.0
"""LSTM with a projection, LSTMP, without peepholes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import Parameters, StepCell, Weights, gated, lecun
from jax_persistent.cells.library.operations import dot, sigmoid


@dataclass(frozen=True)
class ProjectedLSTM(StepCell):
    """LSTM with a projection, LSTMP (Sak, Senior and Beaufays, 2014), without peepholes.

        i, f, g, o = x W + r R + b
        c' = clip(sigmoid(f) * c + sigmoid(i) * tanh(g))
        r' = (sigmoid(o) * tanh(c')) P

    `projection` units come back and come out; `clip` bounds the cells to -clip..clip. Carry
    (r [P], c [H]); R is [P, 4*H], P `projection_kernel` [H, P].
    """

    projection: int
    clip: float | None = None

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        own = gated(4, inputs, hidden, self.projection)
        return own | {"projection_kernel": ((hidden, self.projection), lecun)}

    def sizes(self, hidden: int) -> Any:
        return self.projection, hidden

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        r, c = carry
        gates = dot(x, p["input_kernel"]) + dot(r, p["recurrent_kernel"]) + p["bias"]
        i, f, g, o = jnp.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        if self.clip is not None:
            c = jnp.clip(c, -self.clip, self.clip)
        r = dot(sigmoid(o) * jnp.tanh(c), p["projection_kernel"])
        return (r, c), r
