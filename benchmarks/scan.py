# SPDX-License-Identifier: Apache-2.0
"""`jp.scan` against `jax.lax.scan`, and against the functions that have kernels of their own.

    python -m benchmarks.scan

Each step runs forward, and forward with the gradients of a sum of squares with respect to weights
and xs, at every batch and width; all in turns, medians of the rounds' own ratios. Each shape has a
process of its own: what was allocated before changes how much memory is mapped anew in every call.
`policy` is a GRU of one row whose carry is reset, as recurrent PPO scans it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

import jax_persistent as jp
from benchmarks import limits
from benchmarks.options import positive
from benchmarks.rows import measured
from jax_persistent import cells

Step = Callable[[Any, Any, Any], Any]
# fmt: off
LIBRARY = [
    "ResetBeforeGRU", "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "LayerNormGRU", "BlockGRU",
    "SLSTM", "MinimalGatedUnit", "IndRNN", "RecurrentHighway", "MultiplicativeLSTM",
]
# fmt: on
KERNELS = {"lstm": 4, "gru": 3, "elman": 1}
STEPS = 128


def lstm(w: Any, carry: Any, x: jax.Array) -> Any:
    h, c = carry
    i, f, g, o = jnp.split(x @ w["W"] + h @ w["R"] + w["b"][None], 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru(w: Any, h: jax.Array, x: jax.Array) -> Any:
    of_x, of_h = jnp.split(x @ w["W"] + w["b"][None], 3, -1), jnp.split(h @ w["R"], 3, -1)
    r, z = jax.nn.sigmoid(of_x[0] + of_h[0]), jax.nn.sigmoid(of_x[1] + of_h[1])
    n = jnp.tanh(of_x[2] + r * of_h[2])
    h = (1 - z) * n + z * h
    return h, h


def elman(w: Any, h: jax.Array, x: jax.Array) -> Any:
    h = jnp.tanh(x @ w["W"] + h @ w["R"] + w["b"][None])
    return h, h


def policy(w: Any, h: jax.Array, given: Any) -> Any:
    x, done = given
    return gru(w, jnp.where(done[:, None], 0, h), x)


PLAIN = {"lstm": lstm, "gru": gru, "elman": elman, "policy": policy}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan")
    parser.add_argument("--steps", nargs="+", choices=[*PLAIN, *LIBRARY], default=None)
    parser.add_argument("--batch", nargs="+", type=positive, default=[1, 4, 16])
    parser.add_argument("--hidden", nargs="+", type=positive, default=[128, 256, 512])
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    cases = [
        (name, batch, hidden, options.rounds)
        for name in options.steps or [*PLAIN, *LIBRARY]
        for hidden in options.hidden
        for batch in options.batch
        if name != "policy" or batch == 1
    ]
    how = {"steps": STEPS, "limits": limits.of_one_and_all()}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        rows = alone.map(timed, *zip(*cases, strict=True))
        return measured("scan", rows, line, means, options.output, **how)


def timed(name: str, batch: int, hidden: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each way, and the medians of the rounds' ratios to jp.scan."""
    weights, carry, xs, step = arguments(name, batch, hidden)
    ways = {
        "scan": lambda w, xs: jp.scan(partial(step, w), carry, xs)[1],
        "lax": lambda w, xs: jax.lax.scan(partial(step, w), carry, xs)[1],
    }
    if name in KERNELS:
        ways["function"] = lambda w, xs: getattr(jp, name)(
            xs, w["W"], w["R"], w["b"], time_major=True, backend="native"
        )[0]
    row: dict[str, Any] = {"step": name, "batch": batch, "hidden": hidden}
    for kind in ("forward", "gradients"):
        calls = {
            way: jax.jit(
                run
                if kind == "forward"
                else jax.grad(partial(squares, run), (0, 1), allow_int=True)
            )
            for way, run in ways.items()
        }
        seconds: dict[str, list[float]] = {way: [] for way in calls}
        for _ in range(rounds):
            for way, call in calls.items():
                seconds[way].append(of_one(call, weights, xs))
        row[kind] = {way: 1e3 * median(times) for way, times in seconds.items()}
        for way in calls.keys() - {"scan"}:
            pairs = zip(seconds[way], seconds["scan"], strict=True)
            row[kind][f"{way}_over_scan"] = median(other / ours for other, ours in pairs)
    return row


def squares(run: Callable[..., Any], weights: Any, xs: Any) -> jax.Array:
    return sum(jnp.square(y).sum() for y in jax.tree.leaves(run(weights, xs)))  # type: ignore[return-value]


def of_one(call: Callable[..., Any], *given: Any) -> float:
    """Seconds of a call, behind one that is not timed: the mean of those that fill 10 ms."""
    jax.block_until_ready(call(*given))
    began, calls, passed = time.perf_counter(), 0, 0.0
    while passed < 0.01:
        jax.block_until_ready(call(*given))
        calls, passed = calls + 1, time.perf_counter() - began
    return passed / calls


def arguments(name: str, batch: int, hidden: int) -> tuple[Any, Any, Any, Step]:
    """Weights, the first carry, xs and the step."""
    keys = jax.random.split(jax.random.key(0), 4)
    xs = jax.random.normal(keys[0], (STEPS, batch, hidden))
    if name in LIBRARY:
        cell = getattr(cells, name)()
        return cell.init(keys[1], hidden, hidden), cell.start(hidden, batch), xs, cell
    gates = KERNELS.get(name, 3)
    scale = hidden**-0.5
    weights = {
        "W": scale * jax.random.normal(keys[1], (hidden, gates * hidden)),
        "R": scale * jax.random.normal(keys[2], (hidden, gates * hidden)),
        "b": jnp.zeros(gates * hidden),
    }
    h = jnp.zeros((batch, hidden))
    if name == "policy":
        return weights, h, (xs, jax.random.uniform(keys[3], (STEPS, batch)) < 0.05), policy
    return weights, (h, h) if name == "lstm" else h, xs, PLAIN[name]


def line(row: dict[str, Any]) -> str:
    parts = [f"{row['step']:18} B={row['batch']:<3} H={row['hidden']:<4}"]
    for kind in ("forward", "gradients"):
        found = row[kind]
        text = f"{kind} {found['scan']:8.3f} ms, lax.scan {found['lax_over_scan']:5.2f}x"
        if "function" in found:
            text += f", function {found['function_over_scan']:4.2f}x"
        parts.append(text)
    return "  ".join(parts)


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Geometric means of the ratios, of steps with kernels of their own and of the others."""
    found = {}
    for kind in ("forward", "gradients"):
        for group, inside in (("hot", True), ("library", False)):
            for ratio in ("lax_over_scan", "function_over_scan"):
                logs = [
                    math.log(row[kind][ratio])
                    for row in rows
                    if ((row["step"] in KERNELS) == inside) and ratio in row[kind]
                ]
                if logs:
                    found[f"{kind} {group} {ratio}"] = math.exp(sum(logs) / len(logs))
    return found


if __name__ == "__main__":
    main()
