# SPDX-License-Identifier: Apache-2.0
"""Haste (github.com/lmnt-com/haste): the parameters of its `LSTM` and `GRU`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_persistent.weights.arrays import (
    Weights,
    bias_of,
    expect,
    gates_of,
    named,
    sizes_of,
)
from jax_persistent.weights.gates import reordered

_ORDERS = {4: "igfo", 3: "zrn"}
_NAMES = {
    "kernel": "input_kernel",
    "recurrent_kernel": "recurrent_kernel",
    "bias": "bias",
    "recurrent_bias": "recurrent_bias",
}


def from_haste(tensors: Mapping[str, Any]) -> Weights:
    """The weights of a Haste layer.

    Args:
      tensors: `kernel` [I, G*H], `recurrent_kernel` [H, G*H], `bias` [G*H] and, of a GRU,
        `recurrent_bias` [G*H]; gates lie in the order i, g, f, o or z, r, n.

    Raises:
      ValueError: a name is missing, or a shape is wrong.
    """
    recurrent = named(tensors, "recurrent_kernel")
    gates = gates_of("recurrent_kernel", recurrent.shape, recurrent.shape[-1], len(recurrent))
    expected = list(_NAMES)[: 4 if gates == 3 else 3]
    found = {_NAMES[name]: named(tensors, name) for name in expected}
    expect("kernel", found["input_kernel"], (*found["input_kernel"].shape[:1], recurrent.shape[1]))
    order = _order(gates)
    return {n: reordered(a, order, sizes_of(found).order) for n, a in found.items()}


def to_haste(weights: Weights) -> dict[str, np.ndarray]:
    """The parameters of a Haste layer; biases that the weights lack are zeros.

    Raises:
      ValueError: a shape is wrong, or Haste has no place for an array.
    """
    sizes = sizes_of(weights, ("bias", "recurrent_bias"), "Haste")
    order = _order(sizes.gates)
    tensors = {}
    for name, own in list(_NAMES.items())[: 4 if sizes.gates == 3 else 3]:
        array = weights[own] if "kernel" in own else bias_of(weights, sizes, own)
        tensors[name] = reordered(np.asarray(array), sizes.order, order)
    return tensors


def _order(gates: int) -> str:
    if gates not in _ORDERS:
        raise ValueError("recurrent_kernel: expected an LSTM or a GRU; Haste has no Elman network")
    return _ORDERS[gates]
