# SPDX-License-Identifier: Apache-2.0
"""Equinox: the arrays of `LSTMCell` and `GRUCell`."""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_persistent.weights.arrays import Weights, as_array, bias_of, sizes_of, without_none


def from_equinox(cell: Any) -> Weights:
    """The weights of a cell, or of anything with its attributes.

    Args:
      cell: weight_ih [G*H, I], weight_hh [G*H, H], bias [G*H] or None and, of a `GRUCell`, bias_n
        [H] or None; arrays of numpy or jax, traced or not.

    Raises:
      ValueError: a shape is wrong.
    """
    W, R = as_array(cell.weight_ih), as_array(cell.weight_hh)
    found = without_none(input_kernel=W.T, recurrent_kernel=R.T, bias=cell.bias)
    of_n = getattr(cell, "bias_n", None)
    if of_n is not None:
        of_n = as_array(of_n)
        found["recurrent_bias"] = of_n.__array_namespace__().pad(of_n, (2 * len(of_n), 0))
    sizes_of(found)
    return found


def to_equinox(weights: Weights) -> dict[str, np.ndarray]:
    """The cell's arrays by their names, for `eqx.tree_at`.

    Raises:
      ValueError: a shape is wrong, or Equinox has no place for an array.
    """
    sizes = sizes_of(weights, ("bias", "recurrent_bias"), "Equinox")
    if sizes.gates == 1:
        raise ValueError("recurrent_kernel: expected an LSTM or a GRU; Equinox has no Elman cell")
    found = {
        "weight_ih": np.asarray(weights["input_kernel"]).T,
        "weight_hh": np.asarray(weights["recurrent_kernel"]).T,
        "bias": bias_of(weights, sizes),
    }
    if sizes.gates == 3:
        rz, found["bias_n"] = np.split(
            bias_of(weights, sizes, "recurrent_bias"), [2 * sizes.hidden]
        )
        found["bias"] = found["bias"] + np.pad(rz, (0, sizes.hidden))
    return found
