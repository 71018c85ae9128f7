# SPDX-License-Identifier: Apache-2.0
"""ONNX: the inputs W, R, B and P of the operators LSTM, GRU and RNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_persistent.weights.arrays import (
    NAMES,
    Weights,
    bias_of,
    check_directions,
    expect,
    expect_rank,
    gates_of,
    given_arrays,
    sizes_of,
    without_none,
)
from jax_persistent.weights.gates import reordered

_ORDERS = {4: "iofg", 3: "zrn", 1: "h"}
_PEEPHOLES = "iof"


def from_onnx(W: Any, R: Any, B: Any = None, P: Any = None) -> list[Weights]:
    """The weights of an ONNX node, [direction].

    The two biases of an LSTM or an RNN only act as their sum, which is what is returned; a GRU
    keeps both, and runs as `gru(reset_after=bool(linear_before_reset))`.

    Args:
      W: [D, G*H, I] for D directions.
      R: [D, G*H, H].
      B: [D, 2*G*H], that of the inputs before the recurrent one; none if not given.
      P: [D, 3*H], peepholes of an LSTM in the order i, o, f; none if not given.

    Raises:
      ValueError: a shape is wrong.
    """
    W, R = np.asarray(W), np.asarray(R)
    expect_rank("W", W, 3)
    expect_rank("R", R, 3)
    ways, rows, hidden = R.shape
    gates = gates_of("R", R.shape, rows, hidden)
    expect("W", W, (ways, rows, W.shape[2]))
    if B is not None:
        expect("B", B := np.asarray(B), (ways, 2 * rows))
    if P is not None:
        if gates != 4:
            raise ValueError(f"P: expected none, as the {NAMES[gates]} has no peepholes")
        expect("P", P := np.asarray(P), (ways, 3 * hidden))
    found = []
    for way in range(ways):
        bias, recurrent_bias = (None, None) if B is None else np.split(B[way], 2)
        if gates != 3 and bias is not None and recurrent_bias is not None:
            bias, recurrent_bias = bias + recurrent_bias, None
        own = without_none(
            input_kernel=W[way].T,
            recurrent_kernel=R[way].T,
            bias=bias,
            recurrent_bias=recurrent_bias,
        )
        sizes = sizes_of(own)
        own = {name: reordered(a, _ORDERS[gates], sizes.order) for name, a in own.items()}
        if P is not None:
            own["peephole"] = reordered(P[way], _PEEPHOLES, "ifo")
        found.append(own)
    return found


def to_onnx(directions: Sequence[Weights]) -> dict[str, np.ndarray]:
    """W, R and, if there are any, B and P, from weights [direction].

    A GRU's node has `linear_before_reset=1` for `gru(reset_after=True)`, and 0 otherwise. The one
    bias of an LSTM or an RNN becomes the inputs' one, and the recurrent one is zeros.

    Raises:
      ValueError: a shape is wrong, or there is a projection.
    """
    found: dict[str, list[np.ndarray]] = {"W": [], "R": [], "B": [], "P": []}
    check_directions(directions)
    every = [given_arrays(weights) for weights in directions]
    biased = any("bias" in name for arrays in every for name in arrays)
    peepholes = any("peephole" in arrays for arrays in every)
    for weights, arrays in zip(directions, every, strict=True):
        sizes = sizes_of(weights, ("bias", "recurrent_bias", "peephole"), "ONNX")
        order = _ORDERS[sizes.gates]
        peephole = arrays.pop("peephole", np.zeros(3 * sizes.hidden, arrays["input_kernel"].dtype))
        arrays = {name: reordered(a, sizes.order, order) for name, a in arrays.items()}
        biases = [bias_of(arrays, sizes, name) for name in ("bias", "recurrent_bias")]
        found["W"].append(arrays["input_kernel"].T)
        found["R"].append(arrays["recurrent_kernel"].T)
        found["B"] += [np.concatenate(biases)] if biased else []
        found["P"] += [reordered(peephole, "ifo", _PEEPHOLES)] if peepholes else []
    return {name: np.stack(each) for name, each in found.items() if each}
