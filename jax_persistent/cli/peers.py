# SPDX-License-Identifier: Apache-2.0
"""Who `bench` times: ours, and the ways to run the same layer that are installed here.

A peer is a function of the shape and of arrays by name, as `jp.lstm` takes them (x [T, B, I]); it
returns a call that is done when its results are there, and that returns the outputs [T, B, H].
Those have the same weights, through `jax_persistent.weights`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_persistent as jp
from jax_persistent import cells, weights
from jax_persistent.cells.library import __all__ as LIBRARY
from jax_persistent.cli.timing import use_fastest

CELLS: dict[str, tuple[Callable[..., Any], int]] = {
    "lstm": (jp.lstm, 4),
    "gru": (jp.gru, 3),
    "elman": (jp.elman, 1),
}
OURS, SCAN = "jax_persistent", "lax.scan"
_TORCH = {"lstm": "LSTM", "gru": "GRU", "elman": "RNN"}

Call = Callable[[], Any]
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    cell: str
    steps: int
    batch: int
    features: int
    hidden: int
    dtype: str
    gradient: bool

    def __str__(self) -> str:
        sizes = f"T {self.steps}, B {self.batch}, I {self.features}, H {self.hidden}"
        return f"{self.cell}, {sizes}, {self.dtype}, {'gradient' * self.gradient or 'forward'}"


def draw(shape: Shape) -> dict[str, np.ndarray]:
    """x and the weights of a hot cell, in float32."""
    random = np.random.default_rng(0)
    wide, bound = CELLS[shape.cell][1] * shape.hidden, shape.hidden**-0.5
    sizes = {
        "input_kernel": (shape.features, wide),
        "recurrent_kernel": (shape.hidden, wide),
        "bias": (wide,),
    }
    x = random.standard_normal((shape.steps, shape.batch, shape.features))
    drawn = {name: random.uniform(-bound, bound, size) for name, size in sizes.items()}
    return {name: a.astype(np.float32) for name, a in {"x": x, **drawn}.items()}


def of_function(shape: Shape, function: Callable[[Any, Any], Any], params: Any, x: Any) -> Call:
    """A call of a function (params, x) -> outputs of jax's, or of it and its gradient."""
    cast = lambda a: jnp.asarray(a, shape.dtype)  # noqa: E731
    params, x = jax.tree.map(cast, params), cast(x)

    def both(params: Any, x: Any) -> Any:
        outputs, pull = jax.vjp(function, params, x)
        return outputs, pull(jnp.ones_like(outputs))

    run = jax.jit(both if shape.gradient else function)

    def call() -> Any:
        found = jax.block_until_ready(run(params, x))
        return found[0] if shape.gradient else found

    return call


def _function(backend: str | None, shape: Shape, arrays: Arrays) -> Call:
    params = {name: array for name, array in arrays.items() if name != "x"}
    function = CELLS[shape.cell][0]

    def run(params: Any, x: Any) -> Any:
        return function(x, **params, time_major=True, backend=backend)[0]

    return of_function(shape, run, params, arrays["x"])


def library_cells() -> list[str]:
    """The cells of the library that sizes alone make."""
    return [name for name in LIBRARY if name not in ("StepCell", "Stacked")]


def library_cell(name: str, hidden: int) -> cells.StepCell:
    """A cell by its name; of one with a projection half of the units are projected to."""
    if name == "ProjectedLSTM":
        return cells.ProjectedLSTM(max(hidden // 2, 1))
    return getattr(cells, name)()


def library(shape: Shape) -> dict[str, Call]:
    """Ours and `lax.scan`, of a cell that is a step function."""
    cell, dtype = library_cell(shape.cell, shape.hidden), jnp.dtype(shape.dtype)
    params = cell.init(jax.random.key(0), shape.features, shape.hidden, dtype)
    x = jax.random.normal(jax.random.key(1), (shape.steps, shape.batch, shape.features), dtype)

    def run(backend: str | None, params: Any, x: Any) -> Any:
        start = cell.start(shape.hidden, shape.batch, dtype)
        return jp.scan(partial(cell, params), start, x, backend=backend)[1]

    ways = {OURS: None, SCAN: "reference"}
    return {n: of_function(shape, partial(run, way), params, x) for n, way in ways.items()}


def _flax(shape: Shape, arrays: Arrays) -> Call:
    from flax import linen as nn

    kinds = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}
    of_layer = {name: array for name, array in arrays.items() if name != "x"}
    dtype = jnp.dtype(shape.dtype)
    layer = nn.RNN(kinds[shape.cell](shape.hidden, dtype=dtype, param_dtype=dtype), time_major=True)

    def run(params: Any, x: Any) -> Any:
        return layer.apply({"params": {"cell": params}}, x)

    return of_function(shape, run, weights.to_linen(of_layer), arrays["x"])


def _torch(shape: Shape, arrays: Arrays) -> Call:
    import torch

    dtype = getattr(torch, shape.dtype)
    kind = getattr(torch.nn, _TORCH[shape.cell])
    layer = kind(shape.features, shape.hidden, dtype=dtype)
    of_layer = {name: array for name, array in arrays.items() if name != "x"}
    state = {n: torch.from_numpy(a.copy()) for n, a in weights.to_pytorch([[of_layer]]).items()}
    layer.load_state_dict(state)
    x = torch.from_numpy(arrays["x"]).to(dtype).requires_grad_(shape.gradient)
    wanted = [x, *layer.parameters()]

    def call() -> Any:
        if not shape.gradient:
            with torch.inference_mode():
                return layer(x)[0].float().numpy()
        outputs = layer(x)[0]
        torch.autograd.grad(outputs, wanted, torch.ones_like(outputs))
        return outputs.detach().float().numpy()

    # Threads that wait for each other can take a thousand times as long as one, on a busy machine.
    use_fastest((1, len(os.sched_getaffinity(0))), torch.set_num_threads, call)
    return call


def _onnx(shape: Shape, arrays: Arrays) -> Call:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    of_layer = {name: array for name, array in arrays.items() if name != "x"}
    constants = weights.to_onnx([of_layer])
    attributes: dict[str, Any] = {"hidden_size": shape.hidden}
    attributes |= {"linear_before_reset": 1} if shape.cell == "gru" else {}
    node = helper.make_node(_TORCH[shape.cell], ["x", *constants], ["outputs"], **attributes)
    sizes = [shape.steps, shape.batch, shape.features]
    made = [shape.steps, 1, shape.batch, shape.hidden]
    graph = helper.make_graph(
        [node],
        shape.cell,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, made)],
        [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    # Its threads spin within a run, and stop with it: the next peer needs the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    return lambda: session.run(["outputs"], {"x": arrays["x"]})[0][:, 0]


_PEERS: dict[str, tuple[Callable[[Shape, Arrays], Call], tuple[str, ...]]] = {
    OURS: (partial(_function, None), ()),
    SCAN: (partial(_function, "reference"), ()),
    "flax": (_flax, ()),
    "pytorch": (_torch, ("torch",)),
    "onnxruntime": (_onnx, ("onnxruntime", "onnx")),
}
NAMES = tuple(_PEERS)


def found_here(shape: Shape, names: tuple[str, ...]) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of those that can run the shape, and why the others can't."""
    if shape.cell not in CELLS:
        calls, reason = library(shape), f"has no {shape.cell}"
        absent = {name: reason for name in names if name not in calls}
        return {name: calls[name] for name in names if name in calls}, absent
    calls, absent, arrays = {}, {}, draw(shape)
    for name in names:
        make, packages = _PEERS[name]
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        if missing:
            absent[name] = f"not installed: pip install {' '.join(missing)}"
        elif name == "onnxruntime" and (shape.gradient or shape.dtype != "float32"):
            absent[name] = "runs float32, and no gradient"
        else:
            try:
                calls[name] = make(shape, arrays)
            except ImportError as error:  # it is there, and something that it needs is not
                absent[name] = f"can't be imported: {error}"
    return calls, absent
