# SPDX-License-Identifier: Apache-2.0
"""GRU with layer normalisation, reset after the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.library.base import Parameters, StepCell, Weights, gated, ones, zeros
from jax_persistent.cells.library.operations import dot, layer_norm, sigmoid


@dataclass(frozen=True)
class LayerNormGRU(StepCell):
    """GRU with layer normalisation (Ba, Kiros and Hinton, 2016), reset after the product.

        r, z = norm(x W_rz) * s_rz + norm(h R_rz) * s'_rz + b_rz
        n = tanh(norm(x W_n) * s_n + b_n + sigmoid(r) * (norm(h R_n) * s'_n + b'))
        h' = (1 - sigmoid(z)) * n + sigmoid(z) * h

    r and z are normalised together, n by itself. Carry h; s is `input_scale` [3*H], s'
    `recurrent_scale` [3*H], b' `recurrent_bias` [H].
    """

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        scale = (3 * hidden,), ones
        return gated(3, inputs, hidden) | {
            "input_scale": scale,
            "recurrent_scale": scale,
            "recurrent_bias": ((hidden,), zeros),
        }

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h, rz = carry, 2 * carry.shape[0]
        s, t = p["input_scale"], p["recurrent_scale"]
        x_gates, h_gates = dot(x, p["input_kernel"]), dot(h, p["recurrent_kernel"])
        of_rz = layer_norm(x_gates[:rz], s[:rz]) + layer_norm(h_gates[:rz], t[:rz])
        r, z = jnp.split(sigmoid(of_rz + p["bias"][:rz]), 2)
        of_n = layer_norm(h_gates[rz:], t[rz:]) + p["recurrent_bias"]
        n = jnp.tanh(layer_norm(x_gates[rz:], s[rz:]) + p["bias"][rz:] + r * of_n)
        h = (1 - z) * n + z * h
        return h, h
