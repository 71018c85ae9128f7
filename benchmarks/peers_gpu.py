# SPDX-License-Identifier: Apache-2.0
"""The JAX peers on a GPU: ours under each exchange, `lax.scan`, and `jax.experimental.rnn`.

A GPU peer is a `Peer` whose calls can also be queued without waiting for their results. Without a
GPU everyone runs on the CPU, ours as the reference: only a dry run asks for that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import rnn

import jax_persistent as jp
from benchmarks.peers import Peer
from benchmarks.peers_jax import JaxPeer
from benchmarks.peers_jax import Ours as OursInJax
from benchmarks.problem import Arrays, Shape

EXCHANGE = "JAX_PERSISTENT_CUDA_EXCHANGE"  # read when a call is traced; the planner's if unset
EXCHANGES = ("auto", "grid", "grid-barrier", "cluster")


class GpuPeer(Peer, Protocol):
    def prepare(self, direction: str) -> Callable[[], None]:
        """Traces a direction; what it returns compiles it, in any thread."""

    def launch(self, direction: str) -> Any:
        """Queues one call; its results, which need not be there yet."""

    def wait(self, results: Any) -> None:
        """Returns when the results of the last `launch` are there."""


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


class GpuJaxPeer(JaxPeer):
    def prepare(self, direction: str) -> Callable[[], None]:
        name = "_forward" if direction == "forward" else "_backward"
        # On a GPU, a float32 product would be one of tf32.
        precision = "highest" if self.shape.dtype == "float32" else None
        with jax.default_matmul_precision(precision):
            lowered = getattr(self, name).lower(*self._operands(direction))
        return lambda: setattr(self, name, lowered.compile())

    def launch(self, direction: str) -> Any:
        program = self._forward if direction == "forward" else self._backward
        return program(*self._operands(direction))

    def wait(self, results: Any) -> None:
        jax.block_until_ready(results)


class Ours(GpuJaxPeer, OursInJax):
    exchange = "auto"

    def prepare(self, direction: str) -> Callable[[], None]:
        with _environment(EXCHANGE, None if self.exchange == "auto" else self.exchange):
            return super().prepare(direction)

    def _apply(self, weights: Any, x: Array) -> Array:
        backend = "native" if on_gpu() else "reference"
        return self._run(weights, x, backend)

    def _run(self, weights: Any, x: Array, backend: str) -> Array:
        function: Any = {"lstm": jp.lstm, "gru": jp.gru, "elman": jp.elman}[self.shape.cell]
        return function(x, **weights, time_major=True, backend=backend)[0]


class OursGrid(Ours):
    exchange = "grid"


class OursGridBarrier(Ours):
    exchange = "grid-barrier"


class OursCluster(Ours):
    exchange = "cluster"


class Scan(Ours):
    """The reference, a plain `lax.scan`: what flax's layers run, with their equations."""

    def _apply(self, weights: Any, x: Array) -> Array:
        return self._run(weights, x, "reference")


class JaxRnn(GpuJaxPeer):
    """cuDNN as `jax.experimental.rnn` calls it, whose weights are one flat array."""

    @staticmethod
    def refuses(shape: Shape, direction: str) -> str | None:
        if shape.cell != "lstm" or shape.dtype != "float32":
            return f"LSTM in float32 only; this is {shape.cell} in {shape.dtype}"
        return None if on_gpu() else "needs a GPU with cuDNN"

    def _apply(self, weights: Any, x: Array) -> Array:
        steps, batch, hidden = self.shape.steps, self.shape.batch, self.shape.hidden
        state = jnp.zeros((1, batch, hidden), x.dtype)
        lengths = jnp.full((batch,), steps, jnp.int32)
        sizes = (self.shape.inputs, hidden, 1, 0.0, False, jax.lax.Precision.HIGHEST)
        outputs, _, _ = rnn.lstm(x, state, state, weights, lengths, *sizes)
        return outputs

    # The arrays are batch-major, as this function wants them.
    def _on_device(self, array: np.ndarray) -> Array:
        batch_major = array.swapaxes(0, 1) if array.ndim == 3 else array
        return super()._on_device(batch_major)

    def outputs(self) -> np.ndarray:
        return super().outputs().swapaxes(0, 1)

    def gradients(self) -> dict[str, np.ndarray]:
        found = super().gradients()
        return found | {"x": found["x"].swapaxes(0, 1)}

    def _pack(self, arrays: Arrays) -> np.ndarray:
        parts = (arrays.input_kernel.T, arrays.recurrent_kernel.T, arrays.bias)
        return np.concatenate([part.ravel() for part in (*parts, arrays.recurrent_bias)])

    def _unpack(self, gradients: Any) -> dict[str, np.ndarray]:
        inputs, hidden = self.shape.inputs, self.shape.hidden
        ends = np.cumsum([4 * hidden * inputs, 4 * hidden * hidden, 4 * hidden])
        input_kernel, recurrent_kernel, bias, _ = np.split(np.asarray(gradients), ends)
        return {
            "input_kernel": input_kernel.reshape(4 * hidden, inputs).T,
            "recurrent_kernel": recurrent_kernel.reshape(4 * hidden, hidden).T,
            "bias": bias,
        }


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
