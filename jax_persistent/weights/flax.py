# SPDX-License-Identifier: Apache-2.0
"""flax: the parameters of the LSTM, GRU and simple cells of `flax.linen` and `flax.nnx`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_persistent.weights.arrays import (
    Weights,
    bias_of,
    expect,
    named,
    sizes_of,
    without_none,
)

Tree = dict[str, dict[str, np.ndarray]]

# Of each gate, in the functions' order: the layer of the inputs and that of the state.
_LINEN: dict[int, list[tuple[str, str]]] = {
    4: [("ii", "hi"), ("if", "hf"), ("ig", "hg"), ("io", "ho")],
    3: [("ir", "hr"), ("iz", "hz"), ("in", "hn")],
    1: [("i", "h")],
}
_NNX_LSTM = [("ii", "hi"), ("if_", "hf"), ("ig", "hg"), ("io", "ho")]


def from_linen(params: Mapping[str, Any]) -> Weights:
    """The weights of a `linen.OptimizedLSTMCell`, `LSTMCell`, `GRUCell` or `SimpleCell`.

    Args:
      params: the cell's own parameters, such as `variables["params"]["cell"]` of an `RNN`.

    Raises:
      ValueError: a name is missing, or a shape is wrong.
    """
    layers = next((own for own in _LINEN.values() if own[0][0] in params), None)
    if layers is None:
        raise ValueError(
            f"params: expected those of an LSTM, GRU or simple cell; got {list(params)}"
        )
    inputs, states = ([pair[n] for pair in layers] for n in range(2))
    # Biases lie with the states in an LSTM; in a GRU with the inputs, and n has two.
    biased = states if len(layers) == 4 else inputs
    found = {
        "input_kernel": _joined(params, inputs, "kernel"),
        "recurrent_kernel": _joined(params, states, "kernel"),
        "bias": _joined(params, biased, "bias"),
    }
    if len(layers) == 3:
        of_n = _joined(params, ["hn"], "bias")
        found["recurrent_bias"] = np.pad(of_n, (2 * len(of_n), 0))
    sizes_of(found)
    return found


def to_linen(weights: Weights) -> Tree:
    """The parameters of the linen cell, by layer and "kernel" or "bias"; an LSTM's fit both cells.

    Raises:
      ValueError: a shape is wrong, or flax has no place for an array.
    """
    sizes = sizes_of(weights, ("bias", "recurrent_bias"), "flax")
    gates = sizes.gates
    inputs = np.split(np.asarray(weights["input_kernel"]), gates, axis=1)
    states = np.split(np.asarray(weights["recurrent_kernel"]), gates, axis=1)
    biases = np.split(bias_of(weights, sizes), gates)
    if gates == 3:
        others = np.split(bias_of(weights, sizes, "recurrent_bias"), 3)
        biases = [biases[0] + others[0], biases[1] + others[1], biases[2]]
    tree: Tree = {}
    for n, (of_input, of_state) in enumerate(_LINEN[gates]):
        tree[of_input] = {"kernel": inputs[n]}
        tree[of_state] = {"kernel": states[n]}
        tree[of_state if gates == 4 else of_input]["bias"] = biases[n]
    if gates == 3:
        tree["hn"]["bias"] = others[2]
    return tree


def from_nnx(state: Mapping[str, Any]) -> Weights:
    """The weights of an `nnx.OptimizedLSTMCell`, `LSTMCell`, `GRUCell` or `SimpleCell`.

    Args:
      state: the cell's parameters, such as `nnx.to_pure_dict(nnx.state(cell, nnx.Param))`.

    Raises:
      ValueError: a name is missing, or a shape is wrong.
    """
    if "ii" in state:
        inputs, states = ([pair[n] for pair in _NNX_LSTM] for n in range(2))
    elif "dense_i" in state:
        inputs, states = ["dense_i"], ["dense_h"]
    else:
        raise ValueError(f"state: expected that of an LSTM, GRU or simple cell; got {list(state)}")
    biases = [
        _joined(state, layers, "bias") if state[layers[0]].get("bias") is not None else None
        for layers in (inputs, states)
    ]
    found = {
        "input_kernel": _joined(state, inputs, "kernel"),
        "recurrent_kernel": _joined(state, states, "kernel"),
    }
    if sizes_of(found).gates == 3:
        return found | without_none(bias=biases[0], recurrent_bias=biases[1])
    one = [bias for bias in biases if bias is not None]
    return found | ({"bias": sum(one[1:], one[0])} if one else {})


def to_nnx(weights: Weights) -> Tree:
    """The parameters of the nnx cell: `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`.

    Raises:
      ValueError: a shape is wrong, or flax has no place for an array.
    """
    sizes = sizes_of(weights, ("bias", "recurrent_bias"), "flax")
    inputs = {"kernel": np.asarray(weights["input_kernel"])}
    states = {"kernel": np.asarray(weights["recurrent_kernel"])}
    (states if sizes.gates == 4 else inputs)["bias"] = bias_of(weights, sizes)
    other = weights.get("recurrent_bias")
    if other is not None:  # nnx's GRUCell has one bias
        rz, of_n = np.split(np.asarray(other), [2 * sizes.hidden])
        if of_n.any():
            raise ValueError(
                "recurrent_bias: expected zeros for n, as nnx.GRUCell has no bias there; got others"
            )
        inputs["bias"] = inputs["bias"] + np.concatenate([rz, of_n])
    return {"dense_i": inputs, "dense_h": states}


def _joined(tree: Mapping[str, Any], layers: list[str], leaf: str) -> np.ndarray:
    """The gates' arrays side by side."""
    arrays = []
    for layer in layers:
        if layer not in tree:
            raise ValueError(f"{layer}: expected parameters of this name; got {list(tree)}")
        arrays.append(named(tree[layer], leaf))
        expect(f"{layer}/{leaf}", arrays[-1], arrays[0].shape)
    return np.concatenate(arrays, axis=-1)
