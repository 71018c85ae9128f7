# SPDX-License-Identifier: Apache-2.0
"""Elman's simple recurrent network (Elman, 1990).

h' = activation(input_gates + recurrent_gates)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.cell import Cell, States


def _cell(
    activation: str, function: Callable[[Array], Array], slope: Callable[[Array], Array]
) -> Cell:
    """`slope` is the activation's derivative in terms of h: nothing but the output is kept."""

    def step(input_gates: Array, recurrent_gates: Array, before: States) -> tuple[States, Array]:
        del before
        h = function(input_gates + recurrent_gates)
        return (h,), h[..., :0]

    def step_tangent(
        residuals: Array,
        before: States,
        h: Array,
        d_input_gates: Array,
        d_recurrent_gates: Array,
        d_before: States,
    ) -> tuple[States, Array]:
        del before, d_before
        return ((d_input_gates + d_recurrent_gates) * slope(h),), residuals

    return Cell(f"elman_{activation}", 1, 0, ("h",), False, step, step_tangent)


ELMAN = {
    "tanh": _cell("tanh", jnp.tanh, lambda h: 1 - h * h),
    "relu": _cell("relu", jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
}
CELLS = tuple(ELMAN.values())
