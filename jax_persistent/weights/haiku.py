# SPDX-License-Identifier: Apache-2.0
"""Haiku: the parameters of `LSTM`, `GRU` and `VanillaRNN`.

Two things are in Haiku's calls, and in our numbers: its LSTM adds 1 to the bias of the forget gate,
and the z of its GRU is how much of n to take, where ours is how much of h to keep: the logistic
function of the opposite number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_persistent.weights.arrays import ORDERS, Weights, as_array, bias_of, named, sizes_of
from jax_persistent.weights.gates import reordered

Tree = dict[str, dict[str, np.ndarray]]

_ORDERS = {4: "igfo", 3: "zrn", 1: "h"}
_NAMES = {
    4: ("linear/w", "linear/b"),
    3: ("w_i", "w_h", "b"),
    1: ("linear/w", "linear_1/w", "linear/b"),
}


def from_haiku(params: Mapping[str, Mapping[str, Any]], core: str) -> Weights:
    """The weights of a core; those of a `GRU` are for `gru(reset_after=False)`.

    Args:
      params: of a network, {module: {name: array}}; of numpy or jax, traced or not.
      core: the core's name in it: "lstm".

    Raises:
      ValueError: a name is missing, or a shape is wrong.
    """
    inside = {
        f"{module}/{name}".removeprefix(f"{core}/"): array
        for module, arrays in params.items()
        for name, array in arrays.items()
        if f"{module}/".startswith(f"{core}/")
    }
    gates = 3 if "w_i" in inside else 1 if "linear_1/w" in inside else 4
    *kernels, bias = (
        reordered(named(inside, name, as_array), _ORDERS[gates], ORDERS[gates])
        for name in _NAMES[gates]
    )
    if gates == 4:
        features = kernels[0].shape[0] - kernels[0].shape[1] // 4
        kernels = [kernels[0][:features], kernels[0][features:]]
        bias = bias + _of_gates(bias, [0, 1, 0, 0])
    elif gates == 3:
        *kernels, bias = (a * _of_gates(a, [1, -1, 1]) for a in (*kernels, bias))
    elif "linear_1/b" in inside:
        bias = bias + as_array(inside["linear_1/b"])
    found = {"input_kernel": kernels[0], "recurrent_kernel": kernels[1], "bias": bias}
    sizes_of(found)
    return found


def to_haiku(weights: Weights, core: str) -> Tree:
    """The parameters of a core of this name, {module: {name: array}}.

    Raises:
      ValueError: a shape is wrong, or Haiku has no place for an array.
    """
    sizes = sizes_of(weights, ("bias",), "a Haiku core")
    W, R, b = (
        np.asarray(weights["input_kernel"]),
        np.asarray(weights["recurrent_kernel"]),
        bias_of(weights, sizes),
    )
    if sizes.gates == 3:
        W, R, b = (a * _of_gates(a, [1, -1, 1]) for a in (W, R, b))
    if sizes.gates == 4:
        b = b - _of_gates(b, [0, 1, 0, 0])
        W = np.concatenate([W, R])
    W, R, b = (reordered(a, sizes.order, _ORDERS[sizes.gates]) for a in (W, R, b))
    if sizes.gates == 4:
        return {f"{core}/linear": {"w": W, "b": b}}
    if sizes.gates == 3:
        return {core: {"w_i": W, "w_h": R, "b": b}}
    return {f"{core}/linear": {"w": W, "b": b}, f"{core}/linear_1": {"w": R, "b": np.zeros_like(b)}}


def _of_gates(array: Any, values: list[int]) -> np.ndarray:
    """A value for each gate, as an array over its units, of the rank of `array`."""
    columns = np.repeat(np.array(values, array.dtype), array.shape[-1] // len(values))
    return columns.reshape((1,) * (array.ndim - 1) + (-1,))
