# SPDX-License-Identifier: Apache-2.0
"""The library's cells once more: plain numpy, a loop over steps, from the papers' equations.

A step is (options, weights, carry, x [B, I], noise) -> (carry, y); weights as the cell names them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Step = Callable[..., tuple[Any, np.ndarray]]


def sig(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def products(w: Any, h: np.ndarray, x: np.ndarray, gates: int) -> list[np.ndarray]:
    a = x @ w["input_kernel"] + h @ w["recurrent_kernel"] + w["bias"]
    return np.split(a, gates, -1)


def peephole_lstm(of: Any, w: Any, carry: Any, x: Any, noise: Any) -> Any:
    h, c = carry
    i, f, g, o = products(w, h, x, 4)
    H = c.shape[-1]
    p = w["peephole"]
    i, f = sig(i + p[:H] * c), sig(f + p[H : 2 * H] * c)
    c = f * c + i * np.tanh(g)
    if of.clip is not None:
        c = np.minimum(np.maximum(c, -of.clip), of.clip)
    h = sig(o + p[2 * H :] * c) * np.tanh(c)
    return (h, c), h


def projected_lstm(of: Any, w: Any, carry: Any, x: Any, noise: Any) -> Any:
    r, c = carry
    i, f, g, o = products(w, r, x, 4)
    c = np.clip(sig(f) * c + sig(i) * np.tanh(g), -of.clip, of.clip)
    r = (sig(o) * np.tanh(c)) @ w["projection_kernel"]
    return (r, c), r


def coupled_lstm(of: Any, w: Any, carry: Any, x: Any, noise: Any) -> Any:
    h, c = carry
    f, g, o = products(w, h, x, 3)
    c = sig(f) * c + (1 - sig(f)) * np.tanh(g)
    h = sig(o) * np.tanh(c)
    return (h, c), h


def zoneout_lstm(of: Any, w: Any, carry: Any, x: Any, noise: Any) -> Any:
    h, c = carry
    i, f, g, o = products(w, h, x, 4)
    new_c = sig(f) * c + sig(i) * np.tanh(g)
    new_h = sig(o) * np.tanh(new_c)
    if noise is None:
        of_c, of_h = of.cell_rate, of.hidden_rate
        c = of_c * c + (1 - of_c) * new_c
        h = of_h * h + (1 - of_h) * new_h
    else:
        c, h = np.where(noise[0] == 1, c, new_c), np.where(noise[1] == 1, h, new_h)
    return (h, c), h


def dropout_lstm(of: Any, w: Any, carry: Any, x: Any, noise: Any) -> Any:
    h, c = carry
    i, f, g, o = products(w, h, x, 4)
    g = np.tanh(g)
    if noise is not None:
        g = np.where(noise == 0, 0, g / (1 - of.rate))
    c = sig(f) * c + sig(i) * g
    h = sig(o) * np.tanh(c)
    return (h, c), h


def layer_norm(a: np.ndarray) -> np.ndarray:
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)


def layer_norm_lstm(of: Any, w: Any, carry: Any, x: Any, noise: Any) -> Any:
    h, c = carry
    a = layer_norm(x @ w["input_kernel"]) * w["input_scale"] + w["bias"]
    a = a + layer_norm(h @ w["recurrent_kernel"]) * w["recurrent_scale"]
    i, f, g, o = np.split(a, 4, -1)
    c = sig(f) * c + sig(i) * np.tanh(g)
    h = sig(o) * np.tanh(layer_norm(c) * w["cell_scale"] + w["cell_bias"])
    return (h, c), h


def layer_norm_gru(of: Any, w: Any, h: Any, x: Any, noise: Any) -> Any:
    H = h.shape[-1]
    W, R = w["input_kernel"], w["recurrent_kernel"]
    s, t, b = w["input_scale"], w["recurrent_scale"], w["bias"]
    rz = slice(0, 2 * H), slice(2 * H, None)
    x_rz, x_n = (layer_norm(x @ W[:, part]) * s[part] + b[part] for part in rz)
    h_rz, h_n = (layer_norm(h @ R[:, part]) * t[part] for part in rz)
    r, z = np.split(sig(x_rz + h_rz), 2, -1)
    n = np.tanh(x_n + r * (h_n + w["recurrent_bias"]))
    h = (1 - z) * n + z * h
    return h, h


def reset_before_gru(of: Any, w: Any, h: Any, x: Any, noise: Any) -> Any:
    W_r, W_z, W_n = np.split(w["input_kernel"], 3, -1)
    R_r, R_z, R_n = np.split(w["recurrent_kernel"], 3, -1)
    b_r, b_z, b_n = np.split(w["bias"], 3)
    r, z = sig(x @ W_r + h @ R_r + b_r), sig(x @ W_z + h @ R_z + b_z)
    n = np.tanh(x @ W_n + (r * h) @ R_n + b_n)
    h = (1 - z) * n + z * h
    return h, h


def block_diagonal(blocks: np.ndarray) -> np.ndarray:
    """[G, K, n, n] as a matrix [K*n, G*K*n]."""
    gates, heads, n, _ = blocks.shape
    whole = np.zeros((heads * n, gates * heads * n))
    for g in range(gates):
        for k in range(heads):
            column = (g * heads + k) * n
            whole[k * n : (k + 1) * n, column : column + n] = blocks[g, k]
    return whole


def block_gru(of: Any, w: Any, h: Any, x: Any, noise: Any) -> Any:
    a = x @ w["input_kernel"] + h @ block_diagonal(w["recurrent_kernel"]) + w["bias"]
    a = a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-5) * w["scale"]
    reset, update, candidate = np.split(a, 3, -1)
    update = sig(update - 1)
    h = update * np.tanh(sig(reset) * candidate) + (1 - update) * h
    return h, h


def slstm(of: Any, w: Any, carry: Any, x: Any, noise: Any) -> Any:
    """Without the stabiliser, which changes no result: gates as they are, c and n as they are."""
    h, c, n, m = carry
    a = x @ w["input_kernel"] + h @ block_diagonal(w["recurrent_kernel"]) + w["bias"]
    i, f, z, o = np.split(a, 4, -1)
    scale = np.exp(m)
    true_c = sig(f) * c * scale + np.exp(i) * np.tanh(z)
    true_n = sig(f) * n * scale + np.exp(i)
    h = sig(o) * true_c / true_n
    m = np.where(n == 0, i, np.maximum(np.log(sig(f)) + m, i))
    return (h, true_c / np.exp(m), true_n / np.exp(m), m), h


def minimal_gated_unit(of: Any, w: Any, h: Any, x: Any, noise: Any) -> Any:
    W_f, W_n = np.split(w["input_kernel"], 2, -1)
    R_f, R_n = np.split(w["recurrent_kernel"], 2, -1)
    b_f, b_n = np.split(w["bias"], 2)
    f = sig(x @ W_f + h @ R_f + b_f)
    h = (1 - f) * h + f * np.tanh(x @ W_n + (f * h) @ R_n + b_n)
    return h, h


def rate_network(of: Any, w: Any, v: Any, x: Any, noise: Any) -> Any:
    rate = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[of.activation]
    drive = rate(v) @ w["recurrent_kernel"] + x @ w["input_kernel"] + w["bias"]
    v = (1 - of.leak) * v + of.leak * drive
    if noise is not None:
        v = v + np.sqrt(2 * of.leak) * of.sigma * noise
    return v, rate(v)


def indrnn(of: Any, w: Any, h: Any, x: Any, noise: Any) -> Any:
    h = np.maximum(x @ w["input_kernel"] + w["recurrent_scale"] * h + w["bias"], 0)
    return h, h


def recurrent_highway(of: Any, w: Any, s: Any, x: Any, noise: Any) -> Any:
    for depth in range(of.depth):
        a = s @ w[f"recurrent_kernel_{depth}"] + w[f"bias_{depth}"]
        if depth == 0:
            a = a + x @ w["input_kernel"]
        h, t = np.split(a, 2, -1)
        s = np.tanh(h) * sig(t) + s * (1 - sig(t))
    return s, s


def multiplicative_lstm(of: Any, w: Any, carry: Any, x: Any, noise: Any) -> Any:
    h, c = carry
    m = (x @ w["input_factor_kernel"]) * (h @ w["recurrent_factor_kernel"])
    i, f, g, o = products(w, m, x, 4)
    c = sig(f) * c + sig(i) * np.tanh(g)
    h = sig(o) * np.tanh(c)
    return (h, c), h


def stacked(of: Any, w: Any, carry: Any, x: Any, noise: Any) -> Any:
    after = []
    for n, cell in enumerate(of.cells):
        own = {name[2:]: a for name, a in w.items() if name.startswith(f"{n}_")}
        drawn = None if noise is None else noise[n]
        moved, y = step_of(cell)(cell, own, carry[n], x, drawn)
        after.append(moved)
        x = x + y if of.residual and n > 0 else y
    return tuple(after), x


STEPS: dict[str, Step] = {
    "SLSTM": slstm,
    "BlockGRU": block_gru,
    "CoupledLSTM": coupled_lstm,
    "DropoutLSTM": dropout_lstm,
    "IndRNN": indrnn,
    "LayerNormGRU": layer_norm_gru,
    "LayerNormLSTM": layer_norm_lstm,
    "MinimalGatedUnit": minimal_gated_unit,
    "MultiplicativeLSTM": multiplicative_lstm,
    "PeepholeLSTM": peephole_lstm,
    "ProjectedLSTM": projected_lstm,
    "RateNetwork": rate_network,
    "RecurrentHighway": recurrent_highway,
    "ResetBeforeGRU": reset_before_gru,
    "Stacked": stacked,
    "ZoneoutLSTM": zoneout_lstm,
}


def step_of(cell: Any) -> Step:
    return STEPS[type(cell).__name__]


def run(cell: Any, weights: Any, carry: Any, xs: np.ndarray, noise: Any = None) -> Any:
    """All steps: (carry, ys [T, B, ..])."""
    step, ys = step_of(cell), []
    for t, x in enumerate(xs):
        carry, y = step(cell, weights, carry, x, at(noise, t))
        ys.append(y)
    return carry, np.stack(ys)


def at(noise: Any, t: int) -> Any:
    if noise is None:
        return None
    return tuple(at(n, t) for n in noise) if isinstance(noise, tuple) else noise[t]
