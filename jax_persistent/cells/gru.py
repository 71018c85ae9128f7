# SPDX-License-Identifier: Apache-2.0
"""Gated recurrent unit, reset after the product (Cho et al., 2014; the form of cuDNN and flax).

r, z = sigmoid(input_rz + recurrent_rz)
n = tanh(input_n + r * recurrent_n)
h' = (1 - z) * n + z * h
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.cell import Cell, States


def _step(input_gates: Array, recurrent_gates: Array, before: States) -> tuple[States, Array]:
    (h_before,) = before
    input_r, input_z, input_n = jnp.split(input_gates, 3, axis=-1)
    recurrent_r, recurrent_z, recurrent_n = jnp.split(recurrent_gates, 3, axis=-1)
    r = jax.nn.sigmoid(input_r + recurrent_r)
    z = jax.nn.sigmoid(input_z + recurrent_z)
    n = jnp.tanh(input_n + r * recurrent_n)
    h = (1 - z) * n + z * h_before
    return (h,), jnp.concatenate([r, z, n, recurrent_n], axis=-1)


def _step_tangent(
    residuals: Array,
    before: States,
    h: Array,
    d_input_gates: Array,
    d_recurrent_gates: Array,
    d_before: States,
) -> tuple[States, Array]:
    del h
    (h_before,) = before
    (dh_before,) = d_before
    r, z, n, recurrent_n = jnp.split(residuals, 4, axis=-1)
    d_input_r, d_input_z, d_input_n = jnp.split(d_input_gates, 3, axis=-1)
    d_recurrent_r, d_recurrent_z, d_recurrent_n = jnp.split(d_recurrent_gates, 3, axis=-1)
    dr = (d_input_r + d_recurrent_r) * r * (1 - r)
    dz = (d_input_z + d_recurrent_z) * z * (1 - z)
    dn = (d_input_n + dr * recurrent_n + r * d_recurrent_n) * (1 - n * n)
    dh = dz * (h_before - n) + (1 - z) * dn + z * dh_before
    return (dh,), jnp.concatenate([dr, dz, dn, d_recurrent_n], axis=-1)


GRU = Cell("gru", 3, 4, ("h",), True, _step, _step_tangent)
CELLS = (GRU,)
