# SPDX-License-Identifier: Apache-2.0
"""How fast this machine could run the shapes of `benchmarks.scan` at most.

    python -m benchmarks.scan_limits benchmarks/results/scan-<machine>.json

The results have what limits.cc measured before the shapes. A step takes the longer of two times.
One is what a core has to do: multiply or, if that takes longer, read the recurrent matrices from
the caches, and then its operations on vectors: multiply-adds, divisions and stores, of which the
slowest kind counts, as a core does several at once. The other is what one row has to wait for: its
products, the longest chain of its operations, and the meetings of cores, which half of the products
can hide, as they are of a core's own features. Cores share the rows, or the features, or one does
all: the fastest counts. Exponential functions are polynomials; those of sigmoid and tanh have a
division. The products of xs and of the weights' gradients run at full speed. Nothing else takes
time: no call, no instruction that finds its operands, no memory.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax

import jax_persistent as jp
from benchmarks import limits, scan
from benchmarks.limits import Limits
from benchmarks.programs import operations
from jax_persistent.programs import step as steps
from jax_persistent.programs.pieces import BINARY, UNARY
from jax_persistent.programs.program import OPERATIONS, Loop, Program, is_of_units

EXPONENTIAL = ("exp", "log", "log1p", "logistic", "tanh")
DIVISIONS = ("div", "logistic", "rsqrt", "sqrt", "tanh")
READS = dict.fromkeys(("select", "mul_add", "mul_sub", "sub_mul"), 3)
READS |= dict.fromkeys(BINARY, 2) | dict.fromkeys(("splat", *UNARY), 1)  # registers
AS_MULTIPLY_ADDS, AS_CHAIN = 14, 8  # of an exponential function's polynomial; in a row


@dataclass(frozen=True)
class Work:
    """What a step of one row takes, in features but for the matrices' weights and the last two."""

    weights: int
    operations: int  # multiply-adds
    divisions: int
    stores: int
    chain: int  # multiply-adds of which each waits for the one before it
    meetings: int  # of cores that share the features


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


def work(program: Program) -> Work:
    loops = [loop for loops in program.stages for loop in loops]
    counts = Counter[str]()
    for loop in loops:
        counts["weights"] += sum(s.k * len(s.gates) * loop.width for s in loop.slices)
        for code in loop.code:
            name, features = OPERATIONS[code[0]], loop.width if is_of_units(code[1]) else 1
            if name.startswith("store"):
                counts["stores"] += features
            elif not name.startswith(("load", "reduce")):
                counts["operations"] += features * (AS_MULTIPLY_ADDS if name in EXPONENTIAL else 1)
                counts["divisions"] += features * (name in DIVISIONS)
    return Work(
        counts["weights"],
        counts["operations"],
        counts["divisions"],
        counts["stores"],
        sum(max(map(chain, loops)) for loops in program.stages),
        sum(any(map(reads_of_all, loops)) for loops in program.stages),
    )


def reads_of_all(loop: Loop) -> bool:
    """Whether it reads features that other cores have computed: other than of its own heads."""
    names = [OPERATIONS[code[0]] for code in loop.code]
    return "reduce" in names or any(each.heads == 1 for each in loop.slices)


def chain(loop: Loop) -> int:
    """The longest chain of a loop's operations."""
    longest: dict[int, int] = defaultdict(int)  # to the value that a register has
    most = 0
    for op, register, *others in loop.code:
        name = OPERATIONS[op]
        if name.startswith("store"):
            continue
        if name == "reduce":
            found = math.ceil(math.log2(others[2]))
        else:
            before = max((longest[other] for other in others[: READS.get(name, 0)]), default=0)
            alone = not name.startswith(("load", "splat"))
            found = before + (AS_CHAIN if name in EXPONENTIAL else alone)
        longest[register] = found
        most = max(most, found)
    return most


def step_seconds(of: Work, rows: int, one: Limits, every: Limits) -> tuple[float, float]:
    """The least time of a step: of its products, and of everything."""
    shared = 4 * of.weights * every.threads  # bytes that all cores read, each all weights
    layouts = [
        (one, rows, 1.0, limits.read_seconds(4 * of.weights, one), 0),
        (every, rows / every.threads, 1.0, limits.read_seconds(shared, every), 0),
        (every, rows, 1 / every.threads, limits.read_seconds(4 * of.weights, every), of.meetings),
    ]
    found = []
    for cores, own_rows, part, read, meetings in layouts:
        if own_rows < 1:
            continue
        multiply = 2 * of.weights * part / (cores.flops["float32"] / cores.threads)  # a row
        products = max(own_rows * multiply, read)
        of_row = max(multiply, read)
        waits = of_row + max(0.0, meetings * cores.meeting - of_row / 2)
        busy = products + own_rows * part * vector_seconds(of, cores)
        found.append((products, max(busy, waits + of.chain * cores.vector["dependent"])))
    return min(products for products, _ in found), min(whole for _, whole in found)


def vector_seconds(of: Work, cores: Limits) -> float:
    """Of a core, for the operations of one row."""
    lanes = cores.vector["lanes"]
    multiply_add = 2 * lanes * cores.threads / cores.flops["float32"]
    kinds = (
        of.operations * multiply_add,
        of.divisions * cores.vector["divide"],
        of.stores * cores.vector["store"],
    )
    return max(kinds) / lanes


def least(row: dict[str, Any], kind: str, one: Limits, every: Limits) -> tuple[float, float]:
    """Milliseconds of a shape at least: of its products, and of everything."""
    given, carry, xs, step = scan.arguments(row["step"], row["batch"], row["hidden"])

    def outputs(of: Callable[..., Any], weights: Any, xs: Any) -> Any:
        return of(partial(step, weights), carry, xs)[1]

    def whole(of: Callable[..., Any]) -> Callable[..., Any]:
        run = partial(outputs, of)
        if kind == "forward":
            return run
        return jax.grad(partial(scan.squares, run), (0, 1), allow_int=True)

    rows = row["batch"]
    ours = programs(whole(partial(jp.scan, backend="native")), given, xs)
    steps = list(map(work, ours[-2:] if kind == "gradients" else ours[-1:]))
    seconds = [step_seconds(each, rows, one, every) for each in steps]
    all_products = operations(jax.make_jaxpr(whole(jax.lax.scan))(given, xs))
    recurrent = 2 * scan.STEPS * rows * sum(each.weights for each in steps)
    others = max(all_products - recurrent, 0) / every.flops["float32"]
    products, everything = (others + scan.STEPS * sum(each) for each in zip(*seconds, strict=True))
    return 1e3 * products, 1e3 * everything


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
    if not results.get("limits"):
        raise SystemExit(f"{options.results}: no limits were measured; a C++ compiler is needed")
    one, every = (Limits(**each) for each in results["limits"])

    def mean(ratios: list[float]) -> float:
        return math.exp(sum(map(math.log, ratios)) / len(ratios))

    for group, rows in groups(results["rows"]):
        for kind in ("forward", "gradients"):
            shapes = [(row[kind], *least(row, kind, one, every)) for row in rows]
            alone = mean([times["lax"] / products for times, products, _ in shapes])
            at_most = mean([times["lax"] / whole for times, _, whole in shapes])
            reached = mean([times["lax_over_scan"] for times, _, _ in shapes])
            print(
                f"{group:8} {kind:9}  lax.scan over jp.scan {reached:.2f}, at most {at_most:.2f}; "
                f"of the products alone {alone:.2f}"
            )


if __name__ == "__main__":
    main()
