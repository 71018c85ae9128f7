# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the ONNX operators LSTM, GRU and RNN, forward only."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.problem import Arrays, Shape

OPERATORS = {"lstm": "LSTM", "gru": "GRU", "elman": "RNN"}
# ONNX's order of gates, as indices into the library's: iofc, zrh.
ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "elman": (0,)}
OPSET, IR_VERSION = 17, 8  # old enough for any runtime of the last years


class OnnxRuntime:
    def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Its threads spin within a run, as they do by default, and stop with it: they would
        # otherwise take the cores from the peer that is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = _model(shape, arrays).SerializeToString()
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._feeds = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(arrays.x)}

    @staticmethod
    def refuses(shape: Shape, direction: str) -> str | None:
        if direction != "forward":
            return "has no backward pass"
        if shape.dtype != "float32":
            return f"has no {shape.dtype} kernel for the CPU"
        return None

    def forward(self) -> onnxruntime.OrtValue:
        return self._session.run_with_ort_values(["outputs"], self._feeds)[0]

    def backward(self) -> None:
        raise NotImplementedError("ONNX Runtime has no backward pass for recurrent layers")

    def outputs(self) -> np.ndarray:
        return self.forward().numpy()[:, 0]

    def gradients(self) -> dict[str, np.ndarray]:
        return {}


def _model(shape: Shape, arrays: Arrays) -> onnx.ModelProto:
    def gates_first(array: np.ndarray) -> np.ndarray:
        """[.., G*H] in our order -> [1, G*H, ..] in ONNX's."""
        chunks = np.split(array, shape.gates, axis=-1)
        return np.concatenate([chunks[gate].T for gate in ORDERS[shape.cell]])[None]

    biases = [gates_first(arrays.bias), gates_first(arrays.recurrent_bias)]
    initializers = {
        "w": gates_first(arrays.input_kernel),
        "r": gates_first(arrays.recurrent_kernel),
        "b": np.concatenate(biases, axis=1),
    }
    attributes: dict[str, Any] = {"linear_before_reset": 1} if shape.cell == "gru" else {}
    node = helper.make_node(
        OPERATORS[shape.cell],
        ["x", *initializers],
        ["outputs"],
        hidden_size=shape.hidden,
        **attributes,
    )
    x_sizes = [shape.steps, shape.batch, shape.inputs]
    output_sizes = [shape.steps, 1, shape.batch, shape.hidden]  # one direction
    graph = helper.make_graph(
        [node],
        shape.cell,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_sizes)],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, output_sizes)],
        [
            numpy_helper.from_array(np.ascontiguousarray(v), name)
            for name, v in initializers.items()
        ],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
