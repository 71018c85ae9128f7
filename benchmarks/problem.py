# SPDX-License-Identifier: Apache-2.0
"""The shapes that are timed, and the arrays that every peer is given.

Legend: T steps, B batch, I inputs, H hidden, G gates. Arrays are time-major and gates in the
library's order: LSTM i, f, g, o; GRU r, z, n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np

GATES = {"lstm": 4, "gru": 3, "elman": 1}
DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
# Gradients are with respect to the inputs and to all weights, the biases among them.
PASSES = ("forward", "forward+backward")


@dataclass(frozen=True)
class Shape:
    cell: str
    steps: int
    batch: int
    hidden: int
    inputs: int
    dtype: str

    @property
    def gates(self) -> int:
        return GATES[self.cell]

    def __str__(self) -> str:
        inputs = "" if self.inputs == self.hidden else f" I={self.inputs}"
        return f"{self.cell} {self.steps}x{self.batch}x{self.hidden}{inputs}"


class Arrays(NamedTuple):
    """float32, with values that the shape's dtype holds exactly."""

    x: np.ndarray  # [T,B,I]
    input_kernel: np.ndarray  # [I,G*H]
    recurrent_kernel: np.ndarray  # [H,G*H]
    bias: np.ndarray  # [G*H]
    recurrent_bias: np.ndarray  # [G*H]; flax has it for the GRU's n alone: zero elsewhere
    cotangent: np.ndarray  # [T,B,H], of the outputs


def draw(shape: Shape, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    width, bound = shape.gates * shape.hidden, shape.hidden**-0.5

    def exact(array: np.ndarray) -> np.ndarray:
        return array.astype(DTYPES[shape.dtype]).astype(np.float32)

    def weights(*sizes: int) -> np.ndarray:
        return exact(random.uniform(-bound, bound, sizes))

    def normal(*sizes: int) -> np.ndarray:
        return random.standard_normal(sizes, dtype=np.float32)

    recurrent_bias = np.zeros(width, np.float32)
    if shape.cell == "gru":
        recurrent_bias[2 * shape.hidden :] = weights(shape.hidden)
    return Arrays(
        x=exact(normal(shape.steps, shape.batch, shape.inputs)),
        input_kernel=weights(shape.inputs, width),
        recurrent_kernel=weights(shape.hidden, width),
        bias=weights(width),
        recurrent_bias=recurrent_bias,
        cotangent=exact(normal(shape.steps, shape.batch, shape.hidden)),
    )
