# SPDX-License-Identifier: Apache-2.0
"""What a call costs besides its arithmetic, and what a program costs before it runs.

    python -m benchmarks.overhead

The smallest call (T = 1, B = 1, H = 64, forward, jitted, `backend="native"`) takes turns with a
custom call that does nothing, of the same operands and results. One layer's training step is traced
and compiled in turns with the same step through `flax.linen.RNN`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jax_persistent as jp
from benchmarks import machine
from benchmarks.machine import RESULTS
from benchmarks.options import positive
from jax_persistent import linen as persistent
from jax_persistent.ffi.registration import native_module

SOURCE = Path(__file__).with_name("empty_call.cc")
CELLS = {"lstm": (jp.lstm, 4), "gru": (jp.gru, 3), "elman": (jp.elman, 1)}
LAYERS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}
HIDDEN, CALLS = 64, 400
STEPS, BATCH = 32, 8  # of the training step


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead")
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--compilations", type=positive, default=5)
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    facts = machine.describe(native_module().cpu_isa())
    with tempfile.TemporaryDirectory() as folder:
        register_empty_call(folder)
        calls = {cell: smallest_call(cell, options.rounds) for cell in CELLS}
    programs = {cell: compilation(cell, options.compilations) for cell in CELLS}
    results = {"machine": facts, "smallest_call_us": calls, "compile_seconds": programs}
    print(json.dumps({name: results[name] for name in results if name != "machine"}, indent=1))
    path = options.output or RESULTS / f"overhead-{facts['date'][:10]}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {path}")
    return results


def register_empty_call(folder: str) -> None:
    library = f"{folder}/empty_call.so"
    include = f"-I{jax.ffi.include_dir()}"
    command = ["c++", "-O2", "-std=c++17", "-fPIC", "-shared", include, SOURCE, "-o", library]
    subprocess.run(list(map(str, command)), check=True)
    handler = jax.ffi.pycapsule(ctypes.cdll.LoadLibrary(library).EmptyCall)
    jax.ffi.register_ffi_target("benchmarks.empty", handler, platform="cpu")


def smallest_call(cell: str, rounds: int) -> dict[str, float]:
    """Medians over the rounds, in microseconds."""
    function, gates = CELLS[cell]
    draw = np.random.default_rng(0)
    sizes = (1, 1, HIDDEN), (HIDDEN, gates * HIDDEN), (HIDDEN, gates * HIDDEN)
    operands = [jnp.asarray(0.1 * draw.standard_normal(s), jnp.float32) for s in sizes]
    ours = jax.jit(lambda *o: function(*o, backend="native"))
    shapes = jax.tree.leaves(jax.eval_shape(ours, *operands))
    empty = jax.jit(jax.ffi.ffi_call("benchmarks.empty", shapes))
    seconds: dict[str, list[float]] = {"empty": [], "ours": []}
    ways = {"empty": empty, "ours": ours}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(of_one(way, operands))
    found = {name: 1e6 * median(times) for name, times in seconds.items()}
    apart = [1e6 * (o - e) for o, e in zip(seconds["ours"], seconds["empty"], strict=True)]
    return found | {"over_empty": median(apart)}


def of_one(way: Callable[..., Any], operands: Sequence[jax.Array]) -> float:
    jax.block_until_ready(way(*operands))
    began = time.perf_counter()
    for _ in range(CALLS):
        jax.block_until_ready(way(*operands))
    return (time.perf_counter() - began) / CALLS


def compilation(cell: str, rounds: int) -> dict[str, float]:
    """Medians over the rounds of tracing, lowering and compiling a step, in seconds."""
    x = jnp.ones((BATCH, STEPS, HIDDEN), jnp.float32)
    layers = {
        "flax": nn.RNN(LAYERS[cell](HIDDEN)),
        "jax_persistent": persistent.RNN(LAYERS[cell](HIDDEN)),
    }
    variables = layers["flax"].init(jax.random.key(0), x)
    seconds: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(rounds):
        for name, layer in layers.items():
            jax.clear_caches()
            began = time.perf_counter()
            jax.jit(step_of(layer)).lower(variables, x).compile()
            seconds[name].append(time.perf_counter() - began)
    found = {name: median(times) for name, times in seconds.items()}
    pairs = zip(seconds["jax_persistent"], seconds["flax"], strict=True)
    return found | {"ratio": median(ours / flax for ours, flax in pairs)}


def step_of(layer: Any) -> Callable[..., Any]:
    def loss(variables: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(layer.apply(variables, x) ** 2)

    def step(variables: Any, x: jax.Array) -> Any:
        gradients = jax.grad(loss)(variables, x)
        return jax.tree.map(lambda v, g: v - 0.1 * g, variables, gradients)

    return step


if __name__ == "__main__":
    main()
