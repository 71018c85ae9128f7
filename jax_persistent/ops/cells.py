"""The cells, stated once in jnp: one step forward, and the same step linearised.

Legend: T time steps, B batch, I input features, H hidden units, G gates.

A cell sees only what a native kernel hands it: the projected input of one step, the recurrent
product of that step, and the previous states. `step_tangent` is linear in its tangents and needs
nothing but what `step` saved, so every derivative of the recurrence, of any order and in either
mode, follows from the two functions here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

States = tuple[Array, ...]  # h [.., H] first, then the cell's private states, each [.., H]


@dataclass(frozen=True)
class Cell:
    """What distinguishes one recurrent cell from another.

    Attributes:
      name: the name the native kernels know it by.
      gates: G, the number of pre-activations per unit.
      saved: S, the number of values per unit and step that the backward pass reads.
      states: names of the recurrent states, h first.
      separate_recurrent_gradient: whether the gradient of the recurrent product differs from that
        of the projected input (the GRU multiplies the product by a gate), which is also when a
        bias on the product can't be folded into the input's.
      step: (x [.., G*H], product [.., G*H], previous) -> (states, saved [.., S*H]).
      step_tangent: (saved, previous, h [.., H], dx, dproduct, dprevious) -> (dstates, dsaved).
    """

    name: str
    gates: int
    saved: int
    states: tuple[str, ...]
    separate_recurrent_gradient: bool
    step: Callable[..., tuple[States, Array]] = field(repr=False)
    step_tangent: Callable[..., tuple[States, Array]] = field(repr=False)


def _lstm_step(x: Array, product: Array, previous: States) -> tuple[States, Array]:
    _, c_previous = previous
    i, f, g, o = jnp.split(x + product, 4, axis=-1)
    i = jax.nn.sigmoid(i)
    f = jax.nn.sigmoid(f)
    g = jnp.tanh(g)
    o = jax.nn.sigmoid(o)
    c = f * c_previous + i * g
    h = o * jnp.tanh(c)
    return (h, c), jnp.concatenate([i, f, g, o, c], axis=-1)


def _lstm_step_tangent(
    saved: Array, previous: States, h: Array, dx: Array, dproduct: Array, dprevious: States
) -> tuple[States, Array]:
    del h
    _, c_previous = previous
    _, dc_previous = dprevious
    i, f, g, o, c = jnp.split(saved, 5, axis=-1)
    tanh_c = jnp.tanh(c)
    di, df, dg, do = jnp.split(dx + dproduct, 4, axis=-1)
    di = di * i * (1 - i)
    df = df * f * (1 - f)
    dg = dg * (1 - g * g)
    do = do * o * (1 - o)
    dc = df * c_previous + f * dc_previous + di * g + i * dg
    dh = do * tanh_c + dc * (o * (1 - tanh_c * tanh_c))
    return (dh, dc), jnp.concatenate([di, df, dg, do, dc], axis=-1)


def _gru_step(x: Array, product: Array, previous: States) -> tuple[States, Array]:
    (h_previous,) = previous
    x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
    p_r, p_z, p_n = jnp.split(product, 3, axis=-1)
    r = jax.nn.sigmoid(x_r + p_r)
    z = jax.nn.sigmoid(x_z + p_z)
    n = jnp.tanh(x_n + r * p_n)
    h = (1 - z) * n + z * h_previous
    return (h,), jnp.concatenate([r, z, n, p_n], axis=-1)


def _gru_step_tangent(
    saved: Array, previous: States, h: Array, dx: Array, dproduct: Array, dprevious: States
) -> tuple[States, Array]:
    del h
    (h_previous,) = previous
    (dh_previous,) = dprevious
    r, z, n, p_n = jnp.split(saved, 4, axis=-1)
    dx_r, dx_z, dx_n = jnp.split(dx, 3, axis=-1)
    dp_r, dp_z, dp_n = jnp.split(dproduct, 3, axis=-1)
    dr = (dx_r + dp_r) * r * (1 - r)
    dz = (dx_z + dp_z) * z * (1 - z)
    dn = (dx_n + dr * p_n + r * dp_n) * (1 - n * n)
    dh = dz * (h_previous - n) + (1 - z) * dn + z * dh_previous
    return (dh,), jnp.concatenate([dr, dz, dn, dp_n], axis=-1)


def _elman_cell(
    activation: str, function: Callable[[Array], Array], slope: Callable[[Array], Array]
) -> Cell:
    """h = f(x + product); `slope` is f' in terms of h, so nothing needs saving but the output."""

    def step(x: Array, product: Array, previous: States) -> tuple[States, Array]:
        del previous
        h = function(x + product)
        return (h,), h[..., :0]

    def step_tangent(
        saved: Array, previous: States, h: Array, dx: Array, dproduct: Array, dprevious: States
    ) -> tuple[States, Array]:
        del previous, dprevious
        return ((dx + dproduct) * slope(h),), saved

    return Cell(f"elman_{activation}", 1, 0, ("h",), False, step, step_tangent)


LSTM = Cell("lstm", 4, 5, ("h", "c"), False, _lstm_step, _lstm_step_tangent)
GRU = Cell("gru", 3, 4, ("h",), True, _gru_step, _gru_step_tangent)
ELMAN = {
    "tanh": _elman_cell("tanh", jnp.tanh, lambda h: 1 - h * h),
    "relu": _elman_cell("relu", jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
}
CELLS = {cell.name: cell for cell in (LSTM, GRU, *ELMAN.values())}
