# SPDX-License-Identifier: Apache-2.0
"""PyTorch's recurrent layers, with the library's gate orders and equations; on a GPU, cuDNN's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.problem import Arrays, Shape

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Torch:
    device = "cpu"

    def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None:
        torch.set_num_threads(threads)
        dtype = DTYPES[shape.dtype]
        self._layer = LAYERS[shape.cell](
            shape.inputs, shape.hidden, dtype=dtype, device=self.device
        )
        values = (
            arrays.input_kernel.T,
            arrays.recurrent_kernel.T,
            arrays.bias,
            arrays.recurrent_bias,
        )
        self._weights: list[Tensor] = list(self._layer.parameters())
        with torch.no_grad():
            for parameter, value in zip(self._weights, values, strict=True):
                parameter.copy_(torch.from_numpy(value.copy()))
        self._x = torch.from_numpy(arrays.x).to(self.device, dtype)
        self._x_to_learn = self._x.clone().requires_grad_()
        self._cotangent = torch.from_numpy(arrays.cotangent).to(self.device, dtype)

    @staticmethod
    def refuses(shape: Shape, direction: str) -> str | None:
        return None

    def forward(self) -> Tensor:
        with torch.inference_mode():
            return self._layer(self._x)[0]

    def backward(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        outputs, _ = self._layer(self._x_to_learn)
        wanted = [self._x_to_learn, *self._weights]
        return outputs, torch.autograd.grad(outputs, wanted, self._cotangent)

    def outputs(self) -> np.ndarray:
        return self.forward().float().cpu().numpy()

    def gradients(self) -> dict[str, np.ndarray]:
        _, found = self.backward()
        x, input_kernel, recurrent_kernel, bias, _ = (each.float().cpu().numpy() for each in found)
        return {
            "x": x,
            "input_kernel": input_kernel.T,
            "recurrent_kernel": recurrent_kernel.T,
            "bias": bias,
        }


class GpuTorchPeer(Torch):
    def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # As everyone else: float32 is float32.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        super().__init__(shape, arrays, threads)

    def prepare(self, direction: str) -> Callable[[], None]:
        return lambda: None

    def launch(self, direction: str) -> Any:
        return self.forward() if direction == "forward" else self.backward()

    def wait(self, results: Any) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class Cudnn(GpuTorchPeer):
    """`torch.nn.LSTM`, `GRU`, `RNN`, which on a GPU are cuDNN's."""


class CudnnFloat16(GpuTorchPeer):
    """A bfloat16 shape in float16, for which alone cuDNN has persistent kernels."""

    def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None:
        half = Shape(**(vars(shape) | {"dtype": "float16"}))
        super().__init__(half, arrays, threads)

    @staticmethod
    def refuses(shape: Shape, direction: str) -> str | None:
        return None if shape.dtype == "bfloat16" else "beside bfloat16 only"
