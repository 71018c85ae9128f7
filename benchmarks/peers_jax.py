# SPDX-License-Identifier: Apache-2.0
"""The peers in JAX: ours, as functions and as a layer, and flax's layer over `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jax_persistent as jp
import jax_persistent.linen
from benchmarks.problem import DTYPES, Arrays, Shape

Weights = Any  # a tree of arrays

CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}
# Flax's names of a cell's layers, in the library's order of gates: of the inputs, of the state.
LAYERS = {
    "lstm": (["ii", "if", "ig", "io"], ["hi", "hf", "hg", "ho"]),
    "gru": (["ir", "iz", "in"], ["hr", "hz", "hn"]),
    "elman": (["i"], ["h"]),
}


class JaxPeer:
    """What the JAX peers share; they differ in their weights' tree and in how they apply it."""

    def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None:
        self.shape = shape
        self._weights = jax.tree.map(self._on_device, self._pack(arrays))
        self._x, self._cotangent = map(self._on_device, (arrays.x, arrays.cotangent))
        self._forward, self._backward = jax.jit(self._apply), jax.jit(self._pull)

    @staticmethod
    def refuses(shape: Shape, direction: str) -> str | None:
        return None

    def forward(self) -> Array:
        return jax.block_until_ready(self._forward(*self._operands("forward")))

    def backward(self) -> tuple[Array, tuple[Weights, Array]]:
        return jax.block_until_ready(self._backward(*self._operands("backward")))

    def outputs(self) -> np.ndarray:
        return np.asarray(self.forward(), np.float32)

    def gradients(self) -> dict[str, np.ndarray]:
        _, (weights, x) = self.backward()
        found = self._unpack(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), weights))
        return {"x": np.asarray(x, np.float32)} | found

    def compiled(self, direction: str) -> tuple[Any, Callable[[], Any]]:
        """The compiled program of a direction, and a call of it."""
        operands = self._operands(direction)
        function = self._forward if direction == "forward" else self._backward
        program = function.lower(*operands).compile()
        return program, lambda: jax.block_until_ready(program(*operands))

    def _operands(self, direction: str) -> tuple[Any, ...]:
        both = self._weights, self._x
        return both if direction == "forward" else (*both, self._cotangent)

    def _on_device(self, array: np.ndarray) -> Array:
        return jnp.asarray(array, DTYPES[self.shape.dtype])

    def _pull(self, weights: Weights, x: Array, cotangent: Array) -> Any:
        outputs, pull = jax.vjp(self._apply, weights, x)
        return outputs, pull(cotangent)

    def _apply(self, weights: Weights, x: Array) -> Array:
        raise NotImplementedError

    def _pack(self, arrays: Arrays) -> Weights:
        raise NotImplementedError

    def _unpack(self, gradients: Weights) -> dict[str, np.ndarray]:
        raise NotImplementedError


class Ours(JaxPeer):
    backend: str | None = "native"

    def _apply(self, weights: Weights, x: Array) -> Array:
        function: Any = {"lstm": jp.lstm, "gru": jp.gru, "elman": jp.elman}[self.shape.cell]
        return function(x, **weights, time_major=True, backend=self.backend)[0]

    def _pack(self, arrays: Arrays) -> Weights:
        names = ["input_kernel", "recurrent_kernel", "bias"]
        names += ["recurrent_bias"] if self.shape.cell == "gru" else []
        return {name: getattr(arrays, name) for name in names}

    def _unpack(self, gradients: Weights) -> dict[str, np.ndarray]:
        return {name: gradients[name] for name in ("input_kernel", "recurrent_kernel", "bias")}


class Scan(Ours):
    """Our reference, a `lax.scan`."""

    backend = "reference"


class Chosen(Ours):
    """Whichever of the two the package takes by itself."""

    backend = None


class Packed(Ours):
    """The kernel on weights that were packed before the call; forward only."""

    def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None:
        super().__init__(shape, arrays, threads)
        names = ("input_kernel", "recurrent_kernel")
        kernels = {name: self._weights[name] for name in names}
        self._weights |= jp.pack(shape.cell, kernels)

    @staticmethod
    def refuses(shape: Shape, direction: str) -> str | None:
        return None if direction == "forward" else "packed weights are for inference"


class Flax(JaxPeer):
    RNN: Any = nn.RNN

    def _apply(self, weights: Weights, x: Array) -> Array:
        dtype = DTYPES[self.shape.dtype]
        cell = CELLS[self.shape.cell](self.shape.hidden, dtype=dtype, param_dtype=dtype)
        return self.RNN(cell, time_major=True).apply({"params": {"cell": weights}}, x)

    def _pack(self, arrays: Arrays) -> Weights:
        inputs, states = LAYERS[self.shape.cell]

        def gates(array: np.ndarray) -> list[np.ndarray]:
            return np.split(array, len(inputs), axis=-1)

        tree = {
            name: {"kernel": kernel}
            for names, array in ((inputs, arrays.input_kernel), (states, arrays.recurrent_kernel))
            for name, kernel in zip(names, gates(array), strict=True)
        }
        for name, bias in zip(self._biased(), gates(arrays.bias), strict=True):
            tree[name]["bias"] = bias
        if self.shape.cell == "gru":
            tree["hn"]["bias"] = gates(arrays.recurrent_bias)[-1]
        return tree

    def _unpack(self, gradients: Weights) -> dict[str, np.ndarray]:
        inputs, states = LAYERS[self.shape.cell]

        def joined(names: list[str], part: str) -> np.ndarray:
            return np.concatenate([gradients[name][part] for name in names], axis=-1)

        return {
            "input_kernel": joined(inputs, "kernel"),
            "recurrent_kernel": joined(states, "kernel"),
            "bias": joined(self._biased(), "bias"),
        }

    def _biased(self) -> list[str]:
        """The layers that hold the gates' bias: flax's LSTM has it with the state's kernels."""
        inputs, states = LAYERS[self.shape.cell]
        return states if self.shape.cell == "lstm" else inputs


class OurLayer(Flax):
    """The same layer with one import changed."""

    RNN = jax_persistent.linen.RNN
