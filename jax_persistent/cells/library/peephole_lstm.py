# SPDX-License-Identifier: Apache-2.0
"""LSTM with peepholes, its cells clipped if asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import Parameters, StepCell, Weights, gated, zeros
from jax_persistent.cells.library.operations import dot, sigmoid


@dataclass(frozen=True)
class PeepholeLSTM(StepCell):
    """LSTM with peepholes (Gers and Schmidhuber, 2000), its cells clipped if asked for (Sak, 2014).

        i, f, g, o = x W + h R + b
        c' = clip(sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g))
        h' = sigmoid(o + p_o * c') * tanh(c')

    `clip` bounds the cells to -clip..clip. Carry (h, c); p is `peephole` [3*H], in the order
    i, f, o.
    """

    states: ClassVar[int] = 2
    clip: float | None = None

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        return gated(4, inputs, hidden) | {"peephole": ((3 * hidden,), zeros)}  # of i, f, o

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, c = carry
        gates = dot(x, p["input_kernel"]) + dot(h, p["recurrent_kernel"]) + p["bias"]
        i, f, g, o = jnp.split(gates, 4)
        p_i, p_f, p_o = jnp.split(p["peephole"], 3)
        c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * jnp.tanh(g)
        if self.clip is not None:
            c = jnp.clip(c, -self.clip, self.clip)
        h = sigmoid(o + p_o * c) * jnp.tanh(c)
        return (h, c), h
