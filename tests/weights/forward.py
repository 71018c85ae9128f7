# SPDX-License-Identifier: Apache-2.0
"""Forward passes in each layout, in plain numpy, from what its framework documents.

Each takes x [T, B, I] and the framework's own arrays, and returns the outputs [T, B, H] from states
of zeros. Nothing here knows the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def loop(x: np.ndarray, step: Callable[..., Any], states: Any, reverse: bool = False) -> np.ndarray:
    """Outputs of step(x, *states) -> (output, *states), aligned with x."""
    outputs = []
    for now in x[::-1] if reverse else x:
        output, *states = step(now, *states)
        outputs.append(output)
    return np.stack(outputs[::-1] if reverse else outputs)


def zeros(x: np.ndarray, units: int) -> np.ndarray:
    return np.zeros((x.shape[1], units))


def pytorch(kind: str, p: Arrays, x: np.ndarray, layers: int, ways: int) -> np.ndarray:
    """torch.nn.LSTM, GRU and RNN, from the equations in their documentation."""
    for layer in range(layers):
        each = []
        for way in range(ways):
            name = f"l{layer}{'_reverse' if way else ''}"
            W, R = p[f"weight_ih_{name}"], p[f"weight_hh_{name}"]
            b, c = (p.get(f"bias_{part}_{name}", np.zeros(len(W))) for part in ("ih", "hh"))
            of_h = p.get(f"weight_hr_{name}")
            each.append(
                loop(x, _pytorch_step(kind, W, R, b, c, of_h), _starts(kind, x, W, R), way == 1)
            )
        x = np.concatenate(each, -1)
    return x


def _starts(kind: str, x: np.ndarray, W: np.ndarray, R: np.ndarray) -> list[np.ndarray]:
    return [zeros(x, R.shape[1])] + ([zeros(x, len(W) // 4)] if kind == "lstm" else [])


def _pytorch_step(kind: str, W: Any, R: Any, b: Any, b_h: Any, of_h: Any) -> Callable[..., Any]:
    def lstm(x: Any, h: Any, c: Any) -> Any:
        i, f, g, o = np.split(x @ W.T + b + h @ R.T + b_h, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        h = h if of_h is None else h @ of_h.T
        return h, h, c

    def gru(x: Any, h: Any) -> Any:
        (i_r, i_z, i_n), (h_r, h_z, h_n) = (
            np.split(a, 3, -1) for a in (x @ W.T + b, h @ R.T + b_h)
        )
        r, z = sigmoid(i_r + h_r), sigmoid(i_z + h_z)
        h = (1 - z) * np.tanh(i_n + r * h_n) + z * h
        return h, h

    def rnn(x: Any, h: Any) -> Any:
        h = np.tanh(x @ W.T + b + h @ R.T + b_h)
        return h, h

    return {"lstm": lstm, "gru": gru, "elman": rnn}[kind]


def keras(kind: str, arrays: Any, x: np.ndarray, reset_after: bool = True) -> np.ndarray:
    """keras.layers.LSTM, GRU and SimpleRNN, from their cells' `call`."""
    W, R, b = arrays
    units = len(R)

    def lstm(x: Any, h: Any, c: Any) -> Any:
        i, f, g, o = np.split(x @ W + h @ R + b, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return h, h, c

    def gru(x: Any, h: Any) -> Any:
        of_x, of_h = (b[0], b[1]) if reset_after else (b, np.zeros_like(b))
        x_z, x_r, x_h = np.split(x @ W + of_x, 3, -1)
        R_z, R_r, R_h = np.split(R, 3, -1)
        b_z, b_r, b_h = np.split(of_h, 3)
        z, r = sigmoid(x_z + h @ R_z + b_z), sigmoid(x_r + h @ R_r + b_r)
        inner = r * (h @ R_h + b_h) if reset_after else (r * h) @ R_h
        h = z * h + (1 - z) * np.tanh(x_h + inner)
        return h, h

    def simple(x: Any, h: Any) -> Any:
        h = np.tanh(x @ W + b + h @ R)
        return h, h

    steps = {"lstm": lstm, "gru": gru, "elman": simple}
    return loop(x, steps[kind], [zeros(x, units)] * (2 if kind == "lstm" else 1))


def haiku(kind: str, params: Any, core: str, x: np.ndarray) -> np.ndarray:
    """haiku.LSTM, GRU and VanillaRNN, from their `__call__`."""

    def linear(name: str, *inputs: np.ndarray) -> np.ndarray:
        of = params[f"{core}/{name}"]
        return np.concatenate(inputs, -1) @ of["w"] + of["b"]

    def lstm(x: Any, h: Any, c: Any) -> Any:
        i, g, f, o = np.split(linear("linear", x, h), 4, -1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return h, h, c

    def gru(x: Any, h: Any) -> Any:
        of = params[core]
        W, (R_z, R_r, R_a) = of["w_i"], np.split(of["w_h"], 3, -1)
        x_z, x_r, x_a = np.split(x @ W + of["b"], 3, -1)
        z, r = sigmoid(x_z + h @ R_z), sigmoid(x_r + h @ R_r)
        h = (1 - z) * h + z * np.tanh(x_a + (r * h) @ R_a)
        return h, h

    def vanilla(x: Any, h: Any) -> Any:
        h = np.maximum(linear("linear", x) + linear("linear_1", h), 0)
        return h, h

    step, states, gates = {"lstm": (lstm, 2, 4), "gru": (gru, 1, 3), "elman": (vanilla, 1, 1)}[kind]
    (columns,) = {len(arrays["b"]) for arrays in params.values()}
    return loop(x, step, [zeros(x, columns // gates)] * states)


def equinox(kind: str, p: Arrays, x: np.ndarray) -> np.ndarray:
    """equinox.nn.LSTMCell and GRUCell, from their `__call__`."""
    W, R, b = p["weight_ih"], p["weight_hh"], p["bias"]

    def lstm(x: Any, h: Any, c: Any) -> Any:
        i, f, g, o = np.split(x @ W.T + h @ R.T + b, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return h, h, c

    def gru(x: Any, h: Any) -> Any:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = (np.split(a, 3, -1) for a in (x @ W.T + b, h @ R.T))
        n = np.tanh(x_n + sigmoid(x_r + h_r) * (h_n + p["bias_n"]))
        h = n + sigmoid(x_z + h_z) * (h - n)
        return h, h

    step, states = (lstm, 2) if kind == "lstm" else (gru, 1)
    return loop(x, step, [zeros(x, R.shape[1])] * states)


def onnx(
    kind: str, p: Arrays, x: np.ndarray, way: int = 0, linear_before_reset: int = 1
) -> np.ndarray:
    """The operators LSTM, GRU and RNN of ONNX, from the equations in their specification."""
    W, R = p["W"][way], p["R"][way]
    H = R.shape[1]
    Wb, Rb = np.split(p["B"][way], 2)
    P_i, P_o, P_f = np.split(p["P"][way], 3) if "P" in p else np.zeros((3, H))

    def lstm(x: Any, h: Any, c: Any) -> Any:
        i, o, f, g = np.split(x @ W.T + h @ R.T + Wb + Rb, 4, -1)
        i, f = sigmoid(i + P_i * c), sigmoid(f + P_f * c)
        c = f * c + i * np.tanh(g)
        h = sigmoid(o + P_o * c) * np.tanh(c)
        return h, h, c

    def gru(x: Any, h: Any) -> Any:
        x_z, x_r, x_h = np.split(x @ W.T + Wb, 3, -1)
        R_z, R_r, R_h = np.split(R, 3)
        b_z, b_r, b_h = np.split(Rb, 3)
        z, r = sigmoid(x_z + h @ R_z.T + b_z), sigmoid(x_r + h @ R_r.T + b_r)
        inner = r * (h @ R_h.T + b_h) if linear_before_reset else (r * h) @ R_h.T + b_h
        h = (1 - z) * np.tanh(x_h + inner) + z * h
        return h, h

    def rnn(x: Any, h: Any) -> Any:
        h = np.tanh(x @ W.T + h @ R.T + Wb + Rb)
        return h, h

    steps = {"lstm": lstm, "gru": gru, "elman": rnn}
    starts = [zeros(x, H)] * (2 if kind == "lstm" else 1)
    return loop(x, steps[kind], starts, reverse=way == 1)


def haste(kind: str, p: Arrays, x: np.ndarray) -> np.ndarray:
    """haste_pytorch.LSTM and GRU, from the layouts and equations in their documentation."""
    W, R, b = p["kernel"], p["recurrent_kernel"], p["bias"]

    def lstm(x: Any, h: Any, c: Any) -> Any:
        i, g, f, o = np.split(x @ W + h @ R + b, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return h, h, c

    def gru(x: Any, h: Any) -> Any:
        (x_z, x_r, x_n), (h_z, h_r, h_n) = (
            np.split(a, 3, -1) for a in (x @ W + b, h @ R + p["recurrent_bias"])
        )
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        h = z * h + (1 - z) * np.tanh(x_n + r * h_n)
        return h, h

    step, states = (lstm, 2) if kind == "lstm" else (gru, 1)
    return loop(x, step, [zeros(x, len(R))] * states)


def flashrnn(kind: str, p: Arrays, x: np.ndarray) -> np.ndarray:
    """FlashRNN's functions, from the shapes and gates that it documents: GHDP, GHD, BTGHD."""
    R, b = p["R"], p["b"]
    G, N, D = R.shape[:3]
    of_x = (x @ p["W"]).reshape(*x.shape[:2], G, N, D)

    def recurrent(h: Any) -> Any:
        return np.einsum("gndp,bnp->bgnd", R, h.reshape(-1, N, D))

    def flat(*arrays: Any) -> Any:
        return tuple(a.reshape(len(a), -1) for a in arrays)

    def lstm(x: Any, h: Any, c: Any) -> Any:
        raw = x + recurrent(h) + b
        i, f, g, o = flat(*(raw[:, gate] for gate in range(4)))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return h, h, c

    def gru(x: Any, h: Any) -> Any:
        Rh = recurrent(h)
        g, r = Rh[:, 0] + b[0], sigmoid(x[:, 0] + Rh[:, 1] + b[1])
        z, n = sigmoid(x[:, 1] + Rh[:, 2] + b[2]), x[:, 2] + b[3]
        z, n = flat(z, np.tanh(n + r * g))
        h = z * h + (1 - z) * n
        return h, h

    def elman(x: Any, h: Any) -> Any:
        (h,) = flat(np.tanh(x + recurrent(h) + b)[:, 0])
        return h, h

    steps = {"lstm": lstm, "gru": gru, "elman": elman}
    return loop(of_x, steps[kind], [zeros(x, N * D)] * (2 if kind == "lstm" else 1))
