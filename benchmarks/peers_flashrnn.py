# SPDX-License-Identifier: Apache-2.0
"""FlashRNN's fused kernels (Pöppel et al., 2024), which nvcc compiles at each shape's first call.

Its recurrence takes projected inputs, so `torch.nn.functional.linear` projects them, and arrays are
time-major with a head axis of 1: Wx [T,B,G,1,H], R [G,1,H,H], b [G,1,H]. Its GRU keeps n's
recurrent part and bias in front, and its kernels want the numbers of rows and units in multiples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flashrnn import FlashRNNConfig, flashrnn
from torch import Tensor

from benchmarks.peers_torch import DTYPES
from benchmarks.problem import Arrays, Shape


class FlashRnn:
    def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None:
        torch.set_num_threads(threads)
        self.shape = shape
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._config = FlashRNNConfig(
            backend="cuda_fused" if self.device == "cuda" else "vanilla",
            function=shape.cell,
            hidden_dim=shape.hidden,
            num_heads=1,
            batch_size=shape.batch,
            input_shape="TBGHD",
            output_shape="STBHD",
            dtype=shape.dtype,
        )
        gates, hidden = shape.gates, shape.hidden
        bias, recurrent_bias = (
            each.reshape(gates, 1, hidden) for each in (arrays.bias, arrays.recurrent_bias)
        )
        # [G,1,D,P]: from unit p of the step before to unit d.
        recurrent = arrays.recurrent_kernel.reshape(hidden, gates, 1, hidden).transpose(1, 2, 3, 0)
        if shape.cell == "gru":
            recurrent = np.roll(recurrent, 1, axis=0)
            bias = np.concatenate([recurrent_bias[2:], bias])
        self._weights = [
            self._on_device(each).requires_grad_()
            for each in (arrays.input_kernel.T, recurrent, bias)
        ]
        self._x = self._on_device(arrays.x).requires_grad_()
        self._cotangent = self._on_device(arrays.cotangent)

    @staticmethod
    def refuses(shape: Shape, direction: str) -> str | None:
        return None

    def prepare(self, direction: str) -> Callable[[], None]:
        return lambda: None

    def launch(self, direction: str) -> Any:
        if direction == "forward":
            with torch.no_grad():
                return self._run()
        outputs = self._run()
        wanted = [self._x, *self._weights]
        return outputs, torch.autograd.grad(outputs, wanted, self._cotangent)

    def wait(self, results: Any) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def forward(self) -> Tensor:
        outputs = self.launch("forward")
        self.wait(outputs)
        return outputs

    def backward(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        results = self.launch("forward+backward")
        self.wait(results)
        return results

    def outputs(self) -> np.ndarray:
        return self.forward().float().cpu().numpy()

    def gradients(self) -> dict[str, np.ndarray]:
        _, found = self.backward()
        x, input_kernel, recurrent, bias = (each.float().cpu().numpy() for each in found)
        gates, hidden = self.shape.gates, self.shape.hidden
        if self.shape.cell == "gru":
            recurrent, bias = np.roll(recurrent, -1, axis=0), bias[1:]
        kernel = recurrent.transpose(3, 0, 1, 2).reshape(hidden, gates * hidden)
        return {
            "x": x,
            "input_kernel": input_kernel.T,
            "recurrent_kernel": kernel,
            "bias": bias.reshape(gates * hidden),
        }

    def _run(self) -> Tensor:
        input_kernel, recurrent, bias = self._weights
        sizes = self.shape.steps, self.shape.batch, self.shape.gates, 1, self.shape.hidden
        gates_x = torch.nn.functional.linear(self._x, input_kernel).reshape(sizes)
        states, _ = flashrnn(gates_x, recurrent, bias, config=self._config)
        return states[0].reshape(self.shape.steps, self.shape.batch, self.shape.hidden)

    def _on_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(self.device, DTYPES[self.shape.dtype])
