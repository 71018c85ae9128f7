# SPDX-License-Identifier: Apache-2.0
"""cuDNN: the flat vector of an LSTM, as `jax.experimental.rnn.lstm` takes it.

It is PyTorch's arrays end to end: of each layer and direction `weight_ih` and `weight_hh`, then of
each `bias_ih` and `bias_hh` (the docstring of `jax.experimental.rnn`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_persistent.weights.arrays import Layers, Weights
from jax_persistent.weights.pytorch import from_pytorch, to_pytorch


def _shapes(
    input_size: int, hidden_size: int, num_layers: int, bidirectional: bool
) -> dict[str, tuple[int, ...]]:
    """Of PyTorch's arrays, in cuDNN's order."""
    ways, rows = ("", "_reverse") if bidirectional else ("",), 4 * hidden_size
    names = [f"l{layer}{way}" for layer in range(num_layers) for way in ways]
    shapes: dict[str, tuple[int, ...]] = {}
    for number, name in enumerate(names):
        below = input_size if number < len(ways) else len(ways) * hidden_size
        shapes[f"weight_ih_{name}"] = rows, below
        shapes[f"weight_hh_{name}"] = rows, hidden_size
    for name in names:
        shapes |= {f"bias_ih_{name}": (rows,), f"bias_hh_{name}": (rows,)}
    return shapes


def from_cudnn(
    weights: Any,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    bidirectional: bool = False,
) -> list[list[Weights]]:
    """The weights of cuDNN's LSTM, `[layer][direction]`; both of its biases are summed.

    Args:
      weights: the flat vector.
      input_size, hidden_size, num_layers, bidirectional: as for `jax.experimental.rnn.lstm`.

    Raises:
      ValueError: the vector has another length.
    """
    flat = np.asarray(weights)
    shapes = _shapes(input_size, hidden_size, num_layers, bidirectional)
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    if flat.shape != (ends[-1],):
        raise ValueError(
            f"weights: expected [{ends[-1]}] for I = {input_size}, H = {hidden_size}, "
            f"{num_layers} layers and {2 if bidirectional else 1} directions; got {flat.shape}"
        )
    parts = np.split(flat, ends[:-1])
    return from_pytorch(
        {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
    )


def to_cudnn(layers: Layers) -> np.ndarray:
    """The flat vector of LSTM weights `[layer][direction]`, biases included.

    Raises:
      ValueError: a shape is wrong, or the weights are not those of a stacked LSTM.
    """
    state = to_pytorch(layers)
    first = np.asarray(layers[0][0]["input_kernel"])
    hidden = state["weight_hh_l0"].shape[1]
    ways = len(layers[0])
    shapes = _shapes(first.shape[0], hidden, len(layers), ways == 2)
    arrays = {name: np.zeros(shape, first.dtype) for name, shape in shapes.items()} | state
    for name, array in arrays.items():
        if shapes.get(name) != array.shape:
            raise ValueError(
                f"{name}: cuDNN's vector holds the LSTM of {len(layers)} layers of {hidden} units, "
                f"with {ways} directions each; got an array {array.shape}"
            )
    return np.concatenate([arrays[name].ravel() for name in shapes])
