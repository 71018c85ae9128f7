# SPDX-License-Identifier: Apache-2.0
"""PyTorch: the state dict of `torch.nn.LSTM`, `GRU` or `RNN`, all of its layers and directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_persistent.weights.arrays import (
    Layers,
    Weights,
    bias_of,
    check_directions,
    expect,
    expect_rank,
    gates_of,
    given_arrays,
    named,
    sizes_of,
    without_none,
)

_SUFFIXES = ("", "_reverse")


def from_pytorch(state: Mapping[str, Any], prefix: str = "") -> list[list[Weights]]:
    """The weights of a PyTorch module, `[layer][direction]`.

    PyTorch's gates lie as the functions' do: i, f, g, o and r, z, n. The two biases of an LSTM or
    an RNN only act as their sum, which is what is returned; a GRU keeps both. `proj_size` gives
    a `projection_kernel`, for `cells.ProjectedLSTM`.

    Args:
      state: arrays by the names of the state dict, `weight_ih_l0` [G*H, I] and so on; others are
        ignored.
      prefix: what comes before those names, such as "encoder.".

    Raises:
      ValueError: a name is missing, or a shape is wrong.
    """
    layers: list[list[Weights]] = []
    while not layers or f"{prefix}weight_ih_l{len(layers)}" in state:
        names = [f"l{len(layers)}{suffix}" for suffix in _SUFFIXES]
        if f"{prefix}weight_ih_{names[1]}" not in state:
            names.pop()
        layers.append([_from_direction(state, prefix, name) for name in names])
    return layers


def _from_direction(state: Mapping[str, Any], prefix: str, name: str) -> Weights:
    def get(kind: str) -> np.ndarray:
        return named(state, f"{prefix}{kind}_{name}")

    w_ih, w_hh = get("weight_ih"), get("weight_hh")
    for kind, array in (("weight_ih", w_ih), ("weight_hh", w_hh)):
        expect_rank(f"{prefix}{kind}_{name}", array, 2)
    w_hr = get("weight_hr") if f"{prefix}weight_hr_{name}" in state else None
    hidden = w_hh.shape[1] if w_hr is None else w_hr.shape[-1]
    gates = gates_of(f"{prefix}weight_hh_{name}", w_hh.shape, w_hh.shape[0], hidden)
    expect(f"{prefix}weight_ih_{name}", w_ih, (gates * hidden, w_ih.shape[1]))
    bias = recurrent_bias = None
    if f"{prefix}bias_ih_{name}" in state:
        bias, recurrent_bias = get("bias_ih"), get("bias_hh")
        for kind, array in (("bias_ih", bias), ("bias_hh", recurrent_bias)):
            expect(f"{prefix}{kind}_{name}", array, (gates * hidden,))
        if gates != 3:
            bias, recurrent_bias = bias + recurrent_bias, None
    found = without_none(
        input_kernel=w_ih.T,
        recurrent_kernel=w_hh.T,
        bias=bias,
        recurrent_bias=recurrent_bias,
        projection_kernel=None if w_hr is None else w_hr.T,
    )
    sizes_of(found)
    return found


def to_pytorch(layers: Layers, prefix: str = "") -> dict[str, np.ndarray]:
    """The state dict of a PyTorch module, from weights `[layer][direction]`.

    Arrays are PyTorch's names for `load_state_dict`; a module with `bias=False` if none of the
    weights has one. The one bias of an LSTM or an RNN becomes `bias_ih`, and `bias_hh` is zeros.

    Raises:
      ValueError: a shape is wrong, or there are peepholes.
    """
    state: dict[str, np.ndarray] = {}
    every = [[given_arrays(weights) for weights in layer] for layer in layers]
    biased = any("bias" in kind for layer in every for arrays in layer for kind in arrays)
    for number, layer in enumerate(every):
        check_directions(layer)
        for suffix, arrays in zip(_SUFFIXES, layer, strict=False):
            name = f"l{number}{suffix}"
            holds = ("bias", "recurrent_bias", "projection_kernel")
            sizes = sizes_of(arrays, holds, "PyTorch")
            state[f"{prefix}weight_ih_{name}"] = arrays["input_kernel"].T
            state[f"{prefix}weight_hh_{name}"] = arrays["recurrent_kernel"].T
            if biased:
                state[f"{prefix}bias_ih_{name}"] = bias_of(arrays, sizes)
                state[f"{prefix}bias_hh_{name}"] = bias_of(arrays, sizes, "recurrent_bias")
            if "projection_kernel" in arrays:
                state[f"{prefix}weight_hr_{name}"] = arrays["projection_kernel"].T
    return state
