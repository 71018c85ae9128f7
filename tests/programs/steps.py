# SPDX-License-Identifier: Apache-2.0
"""Step functions that people write, as (weights, carry, x) -> (carry, y), and their arguments.

Legend: T steps, B rows, I features of x, H units, P of a projection, K heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

T, B, I, H, P, K = 5, 3, 4, 6, 2, 3  # noqa: E741

Weights = dict[str, Array]


class Case(NamedTuple):
    """A step with random arguments: weights by name, a carry, xs."""

    step: Callable[[Weights, Any, Any], tuple[Any, Any]]
    weights: dict[str, tuple[int, ...]]
    carry: tuple[int, ...]  # how many units each array of it has


def _sigmoid(x: Array) -> Array:
    return jax.nn.sigmoid(x)


def lstm(w: Weights, carry: Any, x: Array) -> Any:
    h, c = carry
    i, f, g, o = jnp.split(x @ w["W"] + h @ w["R"] + w["b"][None], 4, -1)
    c = _sigmoid(f) * c + _sigmoid(i) * jnp.tanh(g)
    h = _sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_reset_before(w: Weights, carry: Any, x: Array) -> Any:
    (h,) = carry
    r, z = jnp.split(_sigmoid(x @ w["W"] + h @ w["R"]), 2, -1)
    n = jnp.tanh(x @ w["Wn"] + (r * h) @ w["Rn"])
    h = (1 - z) * n + z * h
    return (h,), h


def over_concatenated(w: Weights, carry: Any, x: Array) -> Any:
    (h,) = carry
    h = jnp.tanh(jnp.concatenate([x, h], -1) @ w["W"] + w["b"][None])
    return (h,), {"h": h, "twice": 2 * h}


def peephole(w: Weights, carry: Any, x: Array) -> Any:
    h, c = carry
    i, f, g, o = jnp.split(x @ w["W"] + h @ w["R"], 4, -1)
    p = w["p"].reshape(3, 1, H)
    i, f = _sigmoid(i + p[0] * c), _sigmoid(f + p[1] * c)
    c = jnp.clip(f * c + i * jnp.tanh(g), -0.5, 0.5)
    h = _sigmoid(o + p[2] * c) * jnp.tanh(c)
    return (h, c), (h, c)


def coupled(w: Weights, carry: Any, x: Array) -> Any:
    h, c = carry
    f, g, o = jnp.split(x @ w["W"] + h @ w["R"], 3, -1)
    f = _sigmoid(f)
    c = f * c + (1 - f) * jnp.tanh(g)
    return (_sigmoid(o) * c, c), c


def projected(w: Weights, carry: Any, x: Array) -> Any:
    r, c = carry
    i, f, g, o = jnp.split(x @ w["W"] + r @ w["R"], 4, -1)
    c = _sigmoid(f) * c + _sigmoid(i) * jnp.tanh(g)
    r = (_sigmoid(o) * jnp.tanh(c)) @ w["P"]
    return (r, c), r


def normalised(w: Weights, carry: Any, x: Array) -> Any:
    (h,) = carry
    a = x @ w["W"] + h @ w["R"]
    mean = a.mean(-1, keepdims=True)
    spread = jnp.square(a - mean).mean(-1, keepdims=True)
    a = (a - mean) * jax.lax.rsqrt(spread + 1e-3) * w["s"][None]
    r, z, n = jnp.split(a, 3, -1)
    h = (1 - _sigmoid(z)) * jnp.tanh(_sigmoid(r) * n) + _sigmoid(z) * h
    return (h,), h


def by_heads(w: Weights, carry: Any, x: Array) -> Any:
    (h,) = carry
    heads = h.reshape(-1, K, H // K)
    a = jnp.einsum("bhk,hkn->bhn", heads, w["heads"]).reshape(-1, H)
    a = a * jax.lax.rsqrt(jnp.mean(a * a, -1, keepdims=True) + 1e-3)
    h = jnp.tanh(a + x @ w["W"])
    return (h,), h


def stabilised(w: Weights, carry: Any, x: Array) -> Any:
    """sLSTM (Beck et al., 2024): exponential gates, with the logarithm of their scale carried."""
    h, c, n, m = carry
    i, f, z, o = jnp.split(x @ w["W"] + h @ w["R"], 4, -1)
    f = jax.nn.log_sigmoid(f)
    scale = jnp.maximum(f + m, i)
    i, f = jnp.exp(i - scale), jnp.exp(f + m - scale)
    c = f * c + i * jnp.tanh(z)
    n = f * n + i
    h = _sigmoid(o) * c / jnp.maximum(jnp.abs(n), 1)
    return (h, c, n, scale), h


def rate(w: Weights, carry: Any, x: Array) -> Any:
    (v,) = carry
    v = v + 0.1 * (-v + jax.nn.relu(v) @ w["R"] + x @ w["W"])
    return (v,), jax.nn.relu(v)


def independent(w: Weights, carry: Any, x: Array) -> Any:
    (h,) = carry
    h = jax.nn.softplus(x @ w["W"] + w["u"][None] * h)
    return (h,), h


def highway(w: Weights, carry: Any, x: Array) -> Any:
    (s,) = carry
    for depth in range(3):
        a = s @ w[f"R{depth}"] + (x @ w["W"] if depth == 0 else 0)
        h, t = jnp.split(a, 2, -1)
        t = _sigmoid(t - 1)
        s = jnp.tanh(h) * t + s * (1 - t)
    return (s,), s


def multiplicative(w: Weights, carry: Any, x: Array) -> Any:
    h, c = carry
    m = (x @ w["Wm"]) * (h @ w["Rm"])
    i, f, g, o = jnp.split(x @ w["W"] + m @ w["R"], 4, -1)
    c = _sigmoid(f) * c + _sigmoid(i) * jnp.tanh(g)
    return (_sigmoid(o) * jnp.tanh(c), c), c


def stacked(w: Weights, carry: Any, x: Array) -> Any:
    lower, upper = carry
    lower = jnp.tanh(x @ w["W"] + lower @ w["R0"])
    upper = jnp.tanh(lower @ w["V"] + upper @ w["R1"]) + lower
    return (lower, upper), upper


def attending(w: Weights, carry: Any, x: Array) -> Any:
    """A softmax over units, and a sum over them."""
    (h,) = carry
    a = jax.nn.softmax(h @ w["R"], -1)
    h = jnp.tanh(a * (x @ w["W"])) + 0.1 * a.sum(-1, keepdims=True)
    return (h,), a.max(-1)


def halting(w: Weights, carry: Any, x: Array) -> Any:
    """A gate of one feature for all units."""
    (h,) = carry
    p = _sigmoid(h @ w["p"])
    h = p * jnp.tanh(h @ w["R"] + x @ w["W"]) + (1 - p) * h
    return (h,), (h, p[:, 0] > 0.5)


CASES = {
    "lstm": Case(lstm, {"W": (I, 4 * H), "R": (H, 4 * H), "b": (4 * H,)}, (H, H)),
    "gru_reset_before": Case(
        gru_reset_before, {"W": (I, 2 * H), "R": (H, 2 * H), "Wn": (I, H), "Rn": (H, H)}, (H,)
    ),
    "over_concatenated": Case(over_concatenated, {"W": (I + H, H), "b": (H,)}, (H,)),
    "peephole": Case(peephole, {"W": (I, 4 * H), "R": (H, 4 * H), "p": (3 * H,)}, (H, H)),
    "coupled": Case(coupled, {"W": (I, 3 * H), "R": (H, 3 * H)}, (H, H)),
    "projected": Case(projected, {"W": (I, 4 * H), "R": (P, 4 * H), "P": (H, P)}, (P, H)),
    "normalised": Case(normalised, {"W": (I, 3 * H), "R": (H, 3 * H), "s": (3 * H,)}, (H,)),
    "by_heads": Case(by_heads, {"W": (I, H), "heads": (K, H // K, H // K)}, (H,)),
    "stabilised": Case(stabilised, {"W": (I, 4 * H), "R": (H, 4 * H)}, (H, H, H, H)),
    "rate": Case(rate, {"W": (I, H), "R": (H, H)}, (H,)),
    "independent": Case(independent, {"W": (I, H), "u": (H,)}, (H,)),
    "highway": Case(highway, {"W": (I, 2 * H), **{f"R{d}": (H, 2 * H) for d in range(3)}}, (H,)),
    "multiplicative": Case(
        multiplicative, {"W": (I, 4 * H), "R": (P, 4 * H), "Wm": (I, P), "Rm": (H, P)}, (H, H)
    ),
    "stacked": Case(stacked, {"W": (I, H), "R0": (H, H), "V": (H, P), "R1": (P, P)}, (H, P)),
    "attending": Case(attending, {"W": (I, H), "R": (H, H)}, (H,)),
    "halting": Case(halting, {"W": (I, H), "R": (H, H), "p": (H, 1)}, (H,)),
}
# The upper layer of `stacked` adds the lower one, so that both are of one size.
CASES["stacked"] = Case(stacked, {"W": (I, H), "R0": (H, H), "V": (H, H), "R1": (H, H)}, (H, H))


def arguments(
    case: Case, seed: int, steps: int = T, batch: tuple[int, ...] = (B,), dtype: Any = np.float32
) -> tuple[Weights, tuple[Array, ...], Array]:
    """Weights, a carry [*batch, units] and xs [T, *batch, I]."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return jnp.asarray(draw.normal(size=shape) * 0.6, dtype)

    weights = {name: normal(*shape) for name, shape in case.weights.items()}
    carry = tuple(normal(*batch, units) for units in case.carry)
    return weights, carry, normal(steps, *batch, I)
