# SPDX-License-Identifier: Apache-2.0
"""Keras: `get_weights()` of `LSTM`, `GRU` or `SimpleRNN`, or of a `Bidirectional` of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_persistent.weights.arrays import (
    Weights,
    as_array,
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

_ORDERS = {4: "ifgo", 3: "zrn", 1: "h"}


def from_keras(arrays: Sequence[Any]) -> list[Weights]:
    """The weights of a Keras layer, [direction].

    Args:
      arrays: kernel [I, G*H], recurrent_kernel [H, G*H] and, unless the layer has none, bias
        [G*H], or [2, G*H] of a GRU with `reset_after`; twice over for a `Bidirectional`. A bias
        [G*H] of a GRU is that of `gru(reset_after=False)`. Of numpy or jax, traced or not.

    Raises:
      ValueError: a shape or the number of arrays is wrong.
    """
    if len(arrays) not in (2, 3, 4, 6):
        raise ValueError(
            f"arrays: expected 2 or 3 a direction, and 1 or 2 directions; got {len(arrays)}"
        )
    each = len(arrays) // (1 if len(arrays) < 4 else 2)
    return [_from_direction(*arrays[at : at + each]) for at in range(0, len(arrays), each)]


def _from_direction(kernel: Any, recurrent: Any, bias: Any = None) -> Weights:
    kernel, recurrent = as_array(kernel), as_array(recurrent)
    for name, array in (("kernel", kernel), ("recurrent_kernel", recurrent)):
        expect_rank(name, array, 2)
    gates = gates_of("recurrent_kernel", recurrent.shape, recurrent.shape[1], recurrent.shape[0])
    expect("kernel", kernel, (kernel.shape[0], recurrent.shape[1]))
    biases: Any = (None, None)
    if bias is not None:
        bias = as_array(bias)
        both = gates == 3 and bias.ndim == 2
        expect("bias", bias, (*([2] if both else []), recurrent.shape[1]))
        biases = (bias[0], bias[1]) if both else (bias, None)
    found = without_none(
        input_kernel=kernel, recurrent_kernel=recurrent, bias=biases[0], recurrent_bias=biases[1]
    )
    return {n: reordered(a, _ORDERS[gates], sizes_of(found).order) for n, a in found.items()}


def to_keras(directions: Sequence[Weights], reset_after: bool = True) -> list[np.ndarray]:
    """What `set_weights` of a Keras layer takes, from weights [direction].

    Args:
      directions: of one layer; two are those of a `Bidirectional`.
      reset_after: of a GRU: with it the bias is [2, 3*H], without it [3*H].

    Raises:
      ValueError: a shape is wrong, or Keras has no place for an array.
    """
    check_directions(directions)
    arrays: list[np.ndarray] = []
    for weights in directions:
        holds = ("bias", "recurrent_bias") if reset_after else ("bias",)
        sizes = sizes_of(weights, holds, "a Keras layer")
        kept = {
            name: reordered(array, sizes.order, _ORDERS[sizes.gates])
            for name, array in given_arrays(weights).items()
        }
        arrays += [kept["input_kernel"], kept["recurrent_kernel"]]
        if "bias" in kept or "recurrent_bias" in kept:
            names = ("bias", "recurrent_bias") if sizes.gates == 3 and reset_after else ("bias",)
            biases = [bias_of(kept, sizes, name) for name in names]
            arrays.append(np.stack(biases) if len(biases) > 1 else biases[0])
    return arrays
