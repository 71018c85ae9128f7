"""PyTorch's recurrent layers, whose gate orders and equations are the library's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.problem import Arrays, Shape

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Torch:
    def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None:
        torch.set_num_threads(threads)
        dtype = DTYPES[shape.dtype]
        self._layer = LAYERS[shape.cell](shape.inputs, shape.hidden, dtype=dtype)
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
        self._x = torch.from_numpy(arrays.x).to(dtype)
        self._x_to_learn = self._x.clone().requires_grad_()
        self._cotangent = torch.from_numpy(arrays.cotangent).to(dtype)

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
        return self.forward().float().numpy()

    def gradients(self) -> dict[str, np.ndarray]:
        _, found = self.backward()
        x, input_kernel, recurrent_kernel, bias, _ = (each.float().numpy() for each in found)
        return {
            "x": x,
            "input_kernel": input_kernel.T,
            "recurrent_kernel": recurrent_kernel.T,
            "bias": bias,
        }
