# SPDX-License-Identifier: Apache-2.0
"""FlashRNN (github.com/NX-AI/flashrnn): R and b of `lstm`, `gru` and `elman`, in heads.

Legend: N heads, D units of each, so that H = N*D; I input features; G gates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_persistent.weights.arrays import (
    Weights,
    bias_of,
    expect,
    expect_rank,
    gates_of,
    sizes_of,
)
from jax_persistent.weights.gates import reordered

# FlashRNN's GRU has the recurrent n first in R, and a bias of its own for it, first in b.
_OF_R = {4: "ifgo", 3: "nrz", 1: "h"}


def from_flashrnn(W: Any, R: Any, b: Any) -> Weights:
    """The weights of a FlashRNN function, its blocks as one recurrent kernel.

    Args:
      W: [I, G*N*D], by which inputs are multiplied before they are given to FlashRNN as Wx
        [B, T, G, N, D].
      R: [G, N, D, D], the layout GHDP: for each gate and head, units by the units before them.
      b: [G, N, D], the layout GHD; of a GRU [4, N, D].

    Raises:
      ValueError: a shape is wrong.
    """
    W, R, b = np.asarray(W), np.asarray(R), np.asarray(b)
    expect_rank("R", R, 4)
    gates, heads, units, _ = R.shape
    hidden = heads * units
    gates_of("R", R.shape, gates * hidden, hidden)
    expect("R", R, (gates, heads, units, units))
    expect_rank("W", W, 2)
    expect("W", W, (len(W), gates * hidden))
    expect("b", b, (4 if gates == 3 else gates, heads, units))
    kernel = np.zeros((heads, units, gates, heads, units), R.dtype)
    for head in range(heads):
        kernel[head, :, :, head] = R[:, head].transpose(2, 0, 1)
    recurrent = kernel.reshape(hidden, gates * hidden)
    found = {"input_kernel": W, "recurrent_kernel": recurrent, "bias": b.reshape(-1)}
    sizes = sizes_of({name: a for name, a in found.items() if name != "bias"})
    found["recurrent_kernel"] = reordered(recurrent, _OF_R[gates], sizes.order)
    if gates == 3:
        of_n, found["bias"] = b[0].reshape(-1), b[1:].reshape(-1)
        found["recurrent_bias"] = np.pad(of_n, (2 * hidden, 0))
    return found


def to_flashrnn(weights: Weights, heads: int = 1) -> dict[str, np.ndarray]:
    """W, R and b of a FlashRNN function with so many heads.

    Raises:
      ValueError: a shape is wrong, the units don't divide into heads, a recurrent kernel
        connects units of two heads, or FlashRNN has no place for an array.
    """
    sizes = sizes_of(weights, ("bias", "recurrent_bias"), "FlashRNN")
    if heads < 1 or sizes.hidden % heads:
        raise ValueError(f"heads: expected a divisor of the {sizes.hidden} units; got {heads}")
    gates, units = sizes.gates, sizes.hidden // heads
    order = _OF_R[gates]
    kernel = reordered(np.asarray(weights["recurrent_kernel"]), sizes.order, order)
    kernel = kernel.reshape(heads, units, gates, heads, units)
    for head in range(heads):
        if kernel[head, :, :, np.arange(heads) != head].any():
            raise ValueError(
                f"recurrent_kernel: expected zeros between the units of {heads} heads; got others"
            )
    R = np.stack([kernel[head, :, :, head].transpose(1, 2, 0) for head in range(heads)], axis=1)
    bias = bias_of(weights, sizes)
    if gates == 3:  # r and z have one bias, and n two
        other = bias_of(weights, sizes, "recurrent_bias")
        rz, of_n = np.split(other, [2 * sizes.hidden])
        bias = np.concatenate([of_n, bias[: 2 * sizes.hidden] + rz, bias[2 * sizes.hidden :]])
    return {"W": np.asarray(weights["input_kernel"]), "R": R, "b": bias.reshape(-1, heads, units)}
