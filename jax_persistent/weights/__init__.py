# SPDX-License-Identifier: Apache-2.0
"""Weights of other frameworks, both ways: functions of arrays, a file for each layout.

`from_pytorch` and its like return `Weights`, the arrays that `lstm`, `gru` and `elman` take by
name; `to_pytorch` and its like take them.

    >>> layers = weights.from_pytorch(state)  # [layer][direction]
    >>> y, state = jp.lstm(x, **layers[0][0])

Arrays are moved, transposed and reordered, so that what they hold is the same bits. Three
exceptions: biases that only act as their sum are summed where there is room for one, those that are
missing are zeros where there have to be some, and Haiku's LSTM adds 1 to a bias in its call.
"""

from jax_persistent.weights.arrays import Layers, Weights
from jax_persistent.weights.cudnn import from_cudnn, to_cudnn
from jax_persistent.weights.equinox import from_equinox, to_equinox
from jax_persistent.weights.flashrnn import from_flashrnn, to_flashrnn
from jax_persistent.weights.flax import from_linen, from_nnx, to_linen, to_nnx
from jax_persistent.weights.haiku import from_haiku, to_haiku
from jax_persistent.weights.haste import from_haste, to_haste
from jax_persistent.weights.keras import from_keras, to_keras
from jax_persistent.weights.onnx import from_onnx, to_onnx
from jax_persistent.weights.pytorch import from_pytorch, to_pytorch

__all__ = [
    "Layers",
    "Weights",
    "from_cudnn",
    "from_equinox",
    "from_flashrnn",
    "from_haiku",
    "from_haste",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_onnx",
    "from_pytorch",
    "to_cudnn",
    "to_equinox",
    "to_flashrnn",
    "to_haiku",
    "to_haste",
    "to_keras",
    "to_linen",
    "to_nnx",
    "to_onnx",
    "to_pytorch",
]
