# SPDX-License-Identifier: Apache-2.0
"""The equations in plain numpy, row by row and step by step, apart from JAX and the package.

Everything is float64, batch-major, and takes any number of leading axes on every array, so that one
call evaluates many perturbed problems at once.

Shapes: x [...,B,T,I], input_kernel [...,I,G*H], recurrent_kernel [...,H,G*H], bias and
recurrent_bias [...,G*H], h0, c0, reset_h and reset_c [...,B,H]; resets [B,T], the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]

GATES = {"lstm": 4, "gru": 3, "elman-tanh": 1, "elman-relu": 1}
CELLS = tuple(GATES)
RANKS = {"x": 3, "input_kernel": 2, "recurrent_kernel": 2, "bias": 1, "recurrent_bias": 1} | {
    "h0": 2,
    "c0": 2,
    "reset_h": 2,
    "reset_c": 2,
}


Watch = Callable[[np.ndarray, np.ndarray], None]


def ignore(a: np.ndarray, recurrent: np.ndarray) -> None:
    """Watch nothing."""


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * a))


def relu(a: np.ndarray) -> np.ndarray:
    return np.where(a.real > 0, a, 0.0 * a)


def matvec(h: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """h [...,K], kernel [...,K,N] -> [...,N]"""
    return np.einsum("...k,...kn->...n", h, kernel)


def lstm_step(a: np.ndarray, r: np.ndarray, h: np.ndarray, c: np.ndarray):
    i, f, g, o = np.split(a + r, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(a: np.ndarray, r: np.ndarray, h: np.ndarray, c: np.ndarray):
    a_r, a_z, a_n = np.split(a, 3, axis=-1)
    r_r, r_z, r_n = np.split(r, 3, axis=-1)
    reset, update = sigmoid(a_r + r_r), sigmoid(a_z + r_z)
    n = np.tanh(a_n + reset * r_n)
    return (1.0 - update) * n + update * h, c


STEPS = {
    "lstm": lstm_step,
    "gru": gru_step,
    "elman-tanh": lambda a, r, h, c: (np.tanh(a + r), c),
    "elman-relu": lambda a, r, h, c: (relu(a + r), c),
}


def run(
    cell: str,
    params: Arrays,
    lengths: np.ndarray | None,
    reverse: bool,
    resets: np.ndarray | None = None,
    watch: Watch = ignore,
) -> dict:
    """-> outputs [...,B,T,H], h [...,B,H], and c [...,B,H] for the LSTM. Absent params are zeros.

    `watch` sees both parts of every pre-activation.
    """
    x, w, r = params["x"], params["input_kernel"], params["recurrent_kernel"]
    lead = np.broadcast_shapes(*(v.shape[: v.ndim - RANKS[name]] for name, v in params.items()))
    (batch, steps), hidden = x.shape[-3:-1], r.shape[-2]
    kind = np.result_type(*params.values())
    state = np.zeros((*lead, batch, hidden), kind)
    h0, c0 = params.get("h0", state), params.get("c0", state)
    reset_h, reset_c = params.get("reset_h", state), params.get("reset_c", state)
    bias = params.get("bias", np.zeros(w.shape[-1]))
    recurrent_bias = params.get("recurrent_bias", np.zeros(w.shape[-1]))

    outputs = np.zeros((*lead, batch, steps, hidden), kind)
    final_h, final_c = np.zeros_like(state), np.zeros_like(state)
    for b in range(batch):
        length = steps if lengths is None else int(lengths[b])
        h, c = h0[..., b, :], c0[..., b, :]
        order = range(length)
        for t in reversed(order) if reverse else order:
            if resets is not None and resets[b, t]:
                h, c = reset_h[..., b, :], reset_c[..., b, :]
            a = matvec(x[..., b, t, :], w) + bias
            recurrent = matvec(h, r) + recurrent_bias
            watch(a, recurrent)
            h, c = STEPS[cell](a, recurrent, h, c)
            outputs[..., b, t, :] = h
        final_h[..., b, :], final_c[..., b, :] = h, c
    results = {"outputs": outputs, "h": final_h}
    return results | {"c": final_c} if cell == "lstm" else results


def loss(
    cell: str, params: Arrays, lengths, reverse: bool, resets, cotangents: Arrays
) -> np.ndarray:
    """The results weighted by their cotangents and summed -> [...]"""
    results = run(cell, params, lengths, reverse, resets)
    total = np.zeros(())
    for name, cotangent in cotangents.items():
        axes = tuple(range(-cotangent.ndim, 0))
        total = total + (results[name] * cotangent).sum(axis=axes)
    return total


def gradients(
    cell: str, params: Arrays, lengths, reverse: bool, resets, cotangents: Arrays
) -> dict:
    """The loss differentiated entry by entry with a complex step, which cancels no digits."""
    tiny = 1e-30
    found = {}
    for name, value in params.items():
        perturbed = np.tile(value.astype(np.complex128), (value.size, *(1,) * value.ndim))
        perturbed.reshape(value.size, value.size)[np.diag_indices(value.size)] += 1j * tiny
        others = {k: v[None] for k, v in params.items() if k != name}
        moved = loss(cell, {**others, name: perturbed}, lengths, reverse, resets, cotangents)
        found[name] = (moved.imag / tiny).reshape(value.shape)
    return found


def slope(
    cell: str,
    params: Arrays,
    lengths,
    reverse: bool,
    resets,
    cotangents: Arrays,
    direction: Arrays,
    step: float = 1e-5,
) -> float:
    """The loss's derivative along one direction, by a central difference."""
    ahead = {k: v + step * direction[k] for k, v in params.items()}
    behind = {k: v - step * direction[k] for k, v in params.items()}
    difference = loss(cell, ahead, lengths, reverse, resets, cotangents) - loss(
        cell, behind, lengths, reverse, resets, cotangents
    )
    return float(difference / (2 * step))
