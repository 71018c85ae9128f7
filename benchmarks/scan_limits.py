# SPDX-License-Identifier: Apache-2.0
"""How fast this machine could run the shapes of `benchmarks.scan` at most.

    python -m benchmarks.scan_limits benchmarks/results/scan-<machine>.json

A scan multiplies at the speed that limits.cc measured, or reads its recurrent matrices in every
step at that of the caches, whichever takes longer; the gradients of weights and xs are products at
full speed. Its operations on vectors take the time of a multiply-add each, exponential functions
that of their polynomial and division. Nothing else takes time: no call, no wait, no memory.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax

import jax_persistent as jp
from benchmarks import limits, scan
from benchmarks.programs import operations
from jax_persistent.programs import step as steps
from jax_persistent.programs.program import OPERATIONS, Program

EXPONENTIAL, AS_MULTIPLY_ADDS = ("exp", "log", "log1p", "logistic", "tanh"), 16


def programs(run: Callable[..., Any], *arguments: Any) -> list[Program]:
    """Those that a function runs."""
    found: list[Program] = []
    make = steps.program_of

    def kept(*given: Any) -> Program:
        found.append(make(*given))
        return found[-1]

    jax.clear_caches()
    with mock.patch.object(steps, "program_of", kept):
        jax.jit(run).lower(*arguments)
    return found


def weights(program: Program) -> int:
    """How many weights a step of one row multiplies."""
    loops = [loop for loops in program.stages for loop in loops]
    return sum(s.k * len(s.gates) * loop.width for loop in loops for s in loop.slices)


def multiply_adds(program: Program) -> int:
    """What a step's operations on vectors take, of one row, in multiply-adds of a feature."""
    found = 0
    for loop in (loop for loops in program.stages for loop in loops):
        for name in (OPERATIONS[code[0]] for code in loop.code):
            if not name.startswith(("load", "store", "reduce")):
                found += loop.width * (AS_MULTIPLY_ADDS if name in EXPONENTIAL else 1)
    return found


def seconds_of_weights(count: int, rows: int, measured: limits.Limits) -> float:
    """Of a step: the least time to read them and to multiply with them, which overlap."""
    multiplied = 2 * rows * count / measured.flops["float32"]
    return max(multiplied, limits.read_seconds(4 * count, measured))


def least(row: dict[str, Any], kind: str, measured: limits.Limits) -> tuple[float, float]:
    """Milliseconds of a shape at least: of its products, and with operations on vectors."""
    given, carry, xs, step = scan.arguments(row["step"], row["batch"], row["hidden"])

    def outputs(of: Callable[..., Any], weights: Any, xs: Any) -> Any:
        return of(partial(step, weights), carry, xs)[1]

    def whole(of: Callable[..., Any]) -> Callable[..., Any]:
        run = partial(outputs, of)
        if kind == "forward":
            return run
        return jax.grad(partial(scan.squares, run), (0, 1), allow_int=True)

    speed, rows = measured.flops["float32"], row["batch"]
    ours = programs(whole(partial(jp.scan, backend="native")), given, xs)
    ours = ours[-2:] if kind == "gradients" else ours[-1:]
    counts = [weights(p) for p in ours]
    recurrent = sum(seconds_of_weights(n, rows, measured) for n in counts)
    all_products = operations(jax.make_jaxpr(whole(jax.lax.scan))(given, xs))
    others = max(all_products - 2 * scan.STEPS * rows * sum(counts), 0) / speed
    products = others + scan.STEPS * recurrent
    vectors = scan.STEPS * rows * 2 * sum(map(multiply_adds, ours)) / speed
    return 1e3 * products, 1e3 * (products + vectors)


def groups(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    found = defaultdict(list)
    for row in rows:
        name = row["step"]
        group = "hot" if name in scan.KERNELS else "library" if name in scan.LIBRARY else name
        found[group].append(row)
    yield from found.items()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan_limits")
    parser.add_argument("results", type=Path, help="what benchmarks.scan wrote on this machine")
    options = parser.parse_args(arguments)
    results = json.loads(options.results.read_text())
    machine = results["machine"]
    measured = limits.measure(machine["cores"], machine["caches"], seconds=0.05)

    def mean(ratios: list[float]) -> float:
        return math.exp(sum(map(math.log, ratios)) / len(ratios))

    for group, rows in groups(results["rows"]):
        for kind in ("forward", "gradients"):
            shapes = [(row[kind], *least(row, kind, measured)) for row in rows]
            alone = mean([times["lax"] / products for times, products, _ in shapes])
            at_most = mean([times["lax"] / whole for times, _, whole in shapes])
            reached = mean([times["lax_over_scan"] for times, _, _ in shapes])
            print(
                f"{group:8} {kind:9}  lax.scan over jp.scan {reached:.2f}, at most {at_most:.2f}; "
                f"of the products alone {alone:.2f}"
            )


if __name__ == "__main__":
    main()
