# SPDX-License-Identifier: Apache-2.0
"""Who is timed: ours, and the ways to run the same layer that a user has today.

A peer is made for one shape. Its calls return when the results are there.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from benchmarks.problem import Arrays, Shape

OURS = "jax_persistent"
OUR_LAYER = f"{OURS}.linen"
# How far from float32, relative to its size, an array may be: the outputs, a gradient.
BOUNDS = {"float32": (1e-4, 1e-3), "bfloat16": (0.05, 0.3), "float16": (0.01, 0.1)}


class Peer(Protocol):
    refuses: ClassVar[Callable[[Shape, str], str | None]]
    """Why this peer can't run a shape in a direction, None if it can."""

    def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None: ...

    def forward(self) -> Any:
        """The outputs [T,B,H], as an array of the peer's own."""

    def backward(self) -> Any:
        """Forward and backward: the outputs, and gradients for the inputs and for all weights."""

    def outputs(self) -> np.ndarray:
        """[T,B,H] float32."""

    def gradients(self) -> dict[str, np.ndarray]:
        """Those of x, input_kernel, recurrent_kernel and bias, in the library's layout, float32."""


@dataclass(frozen=True)
class Source:
    """Where a peer's class is, and the packages it needs."""

    module: str
    name: str
    packages: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        return [p for p in self.packages if importlib.util.find_spec(p) is None]

    def load(self) -> type[Peer]:
        return getattr(importlib.import_module(self.module), self.name)


SOURCES: Mapping[str, Source] = {
    OURS: Source("benchmarks.peers_jax", "Ours"),
    OUR_LAYER: Source("benchmarks.peers_jax", "OurLayer"),
    "flax": Source("benchmarks.peers_jax", "Flax"),
    "pytorch": Source("benchmarks.peers_torch", "Torch", ("torch",)),
    "onnxruntime": Source("benchmarks.peers_onnx", "OnnxRuntime", ("onnxruntime", "onnx")),
}
DEFAULT = (OURS, OUR_LAYER, "flax", "pytorch", "onnxruntime")

FLASHRNN = "flashrnn"
GPU_SOURCES: Mapping[str, Source] = {
    OURS: Source("benchmarks.peers_gpu", "Ours"),
    f"{OURS}.grid": Source("benchmarks.peers_gpu", "OursGrid"),
    f"{OURS}.grid-barrier": Source("benchmarks.peers_gpu", "OursGridBarrier"),
    f"{OURS}.cluster": Source("benchmarks.peers_gpu", "OursCluster"),
    "scan": Source("benchmarks.peers_gpu", "Scan"),
    "jax.experimental.rnn": Source("benchmarks.peers_gpu", "JaxRnn"),
    "cudnn": Source("benchmarks.peers_torch", "Cudnn", ("torch",)),
    "cudnn-float16": Source("benchmarks.peers_torch", "CudnnFloat16", ("torch",)),
    FLASHRNN: Source("benchmarks.peers_flashrnn", "FlashRnn", ("torch", "flashrnn")),
}
# FlashRNN compiles for minutes at each shape, so it has to be asked for.
GPU_DEFAULT = tuple(name for name in GPU_SOURCES if name != FLASHRNN)


def available(
    names: tuple[str, ...], sources: Mapping[str, Source] = SOURCES
) -> tuple[dict[str, type[Peer]], dict[str, str]]:
    """The classes of the peers that are installed, and why the others are missing."""
    classes, missing = {}, {}
    for name in names:
        lacking = sources[name].missing()
        if lacking:
            missing[name] = f"not installed: pip install {' '.join(lacking)}"
        else:
            classes[name] = sources[name].load()
    return classes, missing


def disagreement(
    expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], dtype: str
) -> str | None:
    """Which array differs by more than rounding, relative to its size; None if none does."""
    for name, value in got.items():
        bounds = BOUNDS[dtype]
        bound = bounds[0] if name == "outputs" else bounds[1]
        if value.shape != expected[name].shape:
            return f"{name}: expected shape {expected[name].shape}; got {value.shape}"
        size = float(np.linalg.norm(expected[name]))
        error = float(np.linalg.norm(value - expected[name])) / max(size, 1e-30)
        if not error <= bound:  # a NaN is no agreement either
            return f"{name}: expected a relative error of at most {bound:g}; got {error:.3g}"
    return None
