# SPDX-License-Identifier: Apache-2.0
"""Arrays of wrong shapes, missing ones, and those that a layout has no place for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jax_persistent import weights

I, H = 4, 6  # noqa: E741


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


LSTM = {"input_kernel": ones(I, 4 * H), "recurrent_kernel": ones(H, 4 * H), "bias": ones(4 * H)}
GRU = {name: a[..., : 3 * H] for name, a in LSTM.items()} | {"recurrent_bias": ones(3 * H)}
ELMAN = {name: a[..., :H] for name, a in LSTM.items()}
PEEPHOLES = LSTM | {"peephole": ones(3 * H)}
PROJECTED = LSTM | {"recurrent_kernel": ones(2, 4 * H), "projection_kernel": ones(H, 2)}
STATE = weights.to_pytorch([[LSTM]])
NODE = weights.to_onnx([LSTM])
FLASH = weights.to_flashrnn(ELMAN)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        # The functions' own arrays.
        (lambda: weights.to_linen([[LSTM]]), r"one layer and direction, .*; got a list"),
        (
            lambda: weights.from_pytorch({f"rnn.{name}": a for name, a in STATE.items()}),
            r"weight_ih_l0: expected an array .*\. If it is rnn\.weight_ih_l0: prefix='rnn\.'",
        ),
        (
            lambda: weights.to_keras([{"input_kernel": ones(I, H)}]),
            r"recurrent_kernel: expected an",
        ),
        (
            lambda: weights.to_keras([LSTM | {"kernel": ones(1)}]),
            r"names of `lstm`, .* \{'kernel'\}",
        ),
        (
            lambda: weights.to_keras([LSTM | {"recurrent_kernel": ones(H, 2 * H)}]),
            r"recurrent_kernel: expected G\*H by H, with G = 4 gates \(LSTM\).*got shape \(6, 12\)",
        ),
        (
            lambda: weights.to_haste(LSTM | {"input_kernel": ones(I, 3 * H)}),
            r"input_kernel: expected shape \(4, 24\); got \(4, 18\)",
        ),
        (
            lambda: weights.to_pytorch([[LSTM | {"bias": ones(H)}]]),
            r"bias: expected shape \(24,\); got \(6,\)",
        ),
        (
            lambda: weights.to_keras([LSTM | {"bias": np.ones(4 * H)}]),
            "bias: expected float32, as input_kernel has; got float64",
        ),
        (
            lambda: weights.to_pytorch([[LSTM | {"recurrent_bias": ones(4 * H)}]]),
            "recurrent_bias: expected none, which the LSTM has no use for",
        ),
        # What a layout has no place for.
        (lambda: weights.to_pytorch([[PEEPHOLES]]), "peephole: expected none, as PyTorch has no"),
        (lambda: weights.to_onnx([PROJECTED]), "projection_kernel: expected none, as ONNX has no"),
        (
            lambda: weights.to_keras([GRU], reset_after=False),
            "recurrent_bias: .* a Keras layer has",
        ),
        (lambda: weights.to_nnx(GRU), "recurrent_bias: expected zeros for n, as nnx.GRUCell"),
        (lambda: weights.to_haiku(GRU, "gru"), "recurrent_bias: .* a Haiku core has no place"),
        (lambda: weights.to_equinox(ELMAN), "expected an LSTM or a GRU; Equinox has no Elman"),
        (lambda: weights.to_haste(ELMAN), "Haste has no Elman network"),
        (lambda: weights.to_cudnn([[GRU]]), "cuDNN's vector holds the LSTM of 1 layers of 6 units"),
        (lambda: weights.to_flashrnn(ELMAN, 4), "heads: expected a divisor of the 6 units; got 4"),
        (lambda: weights.to_flashrnn(ELMAN, 3), "expected zeros between the units of 3 heads"),
        # The others' arrays.
        (
            lambda: weights.from_haiku({"gru": {"w": ones(1)}}, "lstm"),
            r"linear/w: expected an array of this name; got \[\]",
        ),
        (
            lambda: weights.from_haiku(
                {"gru": {"w_i": ones(I, 3 * H), "w_h": ones(H, 3 * H)}}, "gru"
            ),
            "b: expected an array of this name",
        ),
        (
            lambda: weights.from_pytorch({}),
            r"weight_ih_l0: expected an array of this name; got \[\]",
        ),
        (
            lambda: weights.from_pytorch(STATE, "encoder."),
            r"encoder.weight_ih_l0: expected an array of this name; got \['bias_hh_l0', ",
        ),
        (
            lambda: weights.from_pytorch(STATE | {"weight_ih_l0": ones(3 * H, I)}),
            r"weight_ih_l0: expected shape \(24, 4\); got \(18, 4\)",
        ),
        (
            lambda: weights.from_pytorch(STATE | {"weight_hh_l0": ones(5 * H, H)}),
            r"weight_hh_l0: expected G\*H by H",
        ),
        (
            lambda: weights.from_pytorch(STATE | {"bias_hh_l0": ones(H)}),
            r"bias_hh_l0: expected shape \(24,\); got \(6,\)",
        ),
        (lambda: weights.to_keras([LSTM] * 3), "directions: expected those of one layer, .* got 3"),
        (lambda: weights.from_keras([ones(I, H)]), "expected 2 or 3 a direction, .* got 1"),
        (lambda: weights.from_keras([ones(I, H), ones(H)]), r"recurrent_kernel: expected rank 2"),
        (
            lambda: weights.from_keras([ones(I, H), ones(H, 3 * H)]),
            r"kernel: expected shape \(4, 18\); got \(4, 6\)",
        ),
        (
            lambda: weights.from_keras([ones(I, 4 * H), ones(H, 4 * H), ones(2, 4 * H)]),
            r"bias: expected shape \(24,\); got \(2, 24\)",
        ),
        (lambda: weights.from_onnx(NODE["W"][0], NODE["R"]), r"W: expected rank 3; got shape"),
        (
            lambda: weights.from_onnx(NODE["W"], NODE["R"], ones(1, 4 * H)),
            r"B: expected shape \(1, 48\); got \(1, 24\)",
        ),
        (
            lambda: weights.from_onnx(**weights.to_onnx([GRU]), P=ones(1, 3 * H)),
            "P: expected none, as the GRU has no peepholes",
        ),
        (
            lambda: weights.from_cudnn(ones(7), I, H),
            r"weights: expected \[288\] for I = 4, H = 6, 1 layers and 1 directions; got \(7,\)",
        ),
        (
            lambda: weights.from_haste({"kernel": ones(1)}),
            r"recurrent_kernel: expected an array of",
        ),
        (
            lambda: weights.from_flashrnn(**FLASH | {"b": ones(2, 1, H)}),
            r"b: expected shape \(1, 1, 6\); got \(2, 1, 6\)",
        ),
        (
            lambda: weights.from_linen({"x": {}}),
            r"params: expected those of an LSTM, GRU or simple",
        ),
        (
            lambda: weights.from_linen(weights.to_linen(LSTM) | {"hf": {"kernel": ones(H, 2)}}),
            r"hf/kernel: expected shape \(6, 6\); got \(6, 2\)",
        ),
        (
            lambda: weights.from_linen({"i": {"kernel": ones(I, H)}}),
            "h: expected parameters of this",
        ),
        (
            lambda: weights.from_nnx({"x": {}}),
            "state: expected that of an LSTM, GRU or simple cell",
        ),
    ],
)
def test_what_is_wrong_is_said(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
