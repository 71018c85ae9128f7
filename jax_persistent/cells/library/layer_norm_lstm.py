# SPDX-License-Identifier: Apache-2.0
"""LSTM with layer normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import Parameters, StepCell, Weights, gated, ones, zeros
from jax_persistent.cells.library.operations import dot, layer_norm, sigmoid


@dataclass(frozen=True)
class LayerNormLSTM(StepCell):
    """LSTM with layer normalisation (Ba, Kiros and Hinton, 2016).

        i, f, g, o = norm(x W) * s_x + norm(h R) * s_h + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(norm(c') * s_c + b_c)

    Products are normalised over all gates. Carry (h, c); s_x is `input_scale` [4*H], s_h
    `recurrent_scale` [4*H], s_c `cell_scale` [H] and b_c `cell_bias` [H].
    """

    states: ClassVar[int] = 2

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        scale = (4 * hidden,), ones
        return gated(4, inputs, hidden) | {
            "input_scale": scale,
            "recurrent_scale": scale,
            "cell_scale": ((hidden,), ones),
            "cell_bias": ((hidden,), zeros),
        }

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, c = carry
        of_x = layer_norm(dot(x, p["input_kernel"]), p["input_scale"])
        of_h = layer_norm(dot(h, p["recurrent_kernel"]), p["recurrent_scale"])
        i, f, g, o = jnp.split(of_x + of_h + p["bias"], 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(layer_norm(c, p["cell_scale"]) + p["cell_bias"])
        return (h, c), h
