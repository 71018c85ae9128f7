# SPDX-License-Identifier: Apache-2.0
"""Long short-term memory (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

i, f, g, o = input_gates + recurrent_gates
c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
h' = sigmoid(o) * tanh(c')
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent.cells.cell import Cell, States


def _step(input_gates: Array, recurrent_gates: Array, before: States) -> tuple[States, Array]:
    _, c_before = before
    i, f, g, o = jnp.split(input_gates + recurrent_gates, 4, axis=-1)
    i = jax.nn.sigmoid(i)
    f = jax.nn.sigmoid(f)
    g = jnp.tanh(g)
    o = jax.nn.sigmoid(o)
    c = f * c_before + i * g
    h = o * jnp.tanh(c)
    return (h, c), jnp.concatenate([i, f, g, o, c], axis=-1)


def _step_tangent(
    residuals: Array,
    before: States,
    h: Array,
    d_input_gates: Array,
    d_recurrent_gates: Array,
    d_before: States,
) -> tuple[States, Array]:
    del h
    _, c_before = before
    _, dc_before = d_before
    i, f, g, o, c = jnp.split(residuals, 5, axis=-1)
    tanh_c = jnp.tanh(c)
    di, df, dg, do = jnp.split(d_input_gates + d_recurrent_gates, 4, axis=-1)
    di = di * i * (1 - i)
    df = df * f * (1 - f)
    dg = dg * (1 - g * g)
    do = do * o * (1 - o)
    dc = df * c_before + f * dc_before + di * g + i * dg
    dh = do * tanh_c + dc * (o * (1 - tanh_c * tanh_c))
    return (dh, dc), jnp.concatenate([di, df, dg, do, dc], axis=-1)


LSTM = Cell("lstm", 4, 5, ("h", "c"), False, _step, _step_tangent)
CELLS = (LSTM,)
