# SPDX-License-Identifier: Apache-2.0
"""Independently recurrent network, IndRNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
from jax.nn import initializers

from jax_persistent.cells.library.base import Parameters, StepCell, Weights, lecun, zeros
from jax_persistent.cells.library.operations import dot


@dataclass(frozen=True)
class IndRNN(StepCell):
    """Independently recurrent network, IndRNN (Li et al., 2018).

        h' = relu(x W + u * h + b)

    Carry h; u is `recurrent_scale` [H].
    """

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        return {
            "input_kernel": ((inputs, hidden), lecun),
            "recurrent_scale": ((hidden,), initializers.uniform(1.0)),  # 0..1
            "bias": ((hidden,), zeros),
        }

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        h = jax.nn.relu(dot(x, p["input_kernel"]) + p["recurrent_scale"] * carry + p["bias"])
        return h, h
