# SPDX-License-Identifier: Apache-2.0
"""Times calls that want all cores at once: from threads, and on virtual devices.

    python -m benchmarks.contention                 # LSTM, 8 at once, half a minute
    python -m benchmarks.contention --help

Each worker of a call waits for the others at every step, so calls that share cores could make each
other wait, step after step. The same calls one after the other are the measure: a ratio of 1 says
that being called at once costs nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.machine import RESULTS
from benchmarks.measure import spread
from benchmarks.options import positive
from benchmarks.peers import OURS, SOURCES
from benchmarks.problem import GATES, Shape, draw
from benchmarks.scaling_virtual import COUNT, stacked
from benchmarks.summary import as_json
from jax_persistent.cli.timing import round_robin

IN_TURN, THREADS, DEVICES = "one after the other", "from threads", "on virtual devices"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contention")
    parser.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--calls", type=positive, default=8, help="at once (%(default)s)")
    parser.add_argument("--steps", type=positive, default=128, metavar="T")
    parser.add_argument("--batch", type=positive, default=4, metavar="B", help="of each call")
    parser.add_argument("--hidden", type=positive, nargs="+", default=[128, 512], metavar="H")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {COUNT}={options.calls}".strip()
    shapes = [
        Shape(cell, options.steps, options.batch, hidden, hidden, "float32")
        for cell in options.cells
        for hidden in options.hidden
    ]
    results = {"machine": _machine(), "calls": options.calls, "entries": []}
    for shape in shapes:
        results["entries"].append(measure(shape, options.calls, options.rounds))
        print(line(results["entries"][-1]), flush=True)
    stamp = f"{results['machine']['date'][:10]}"
    path = options.output or RESULTS / f"contention-{os.cpu_count()}-cores-{stamp}.json"
    path.write_text(as_json(results))
    print(f"results: {path}")
    return results


def _machine() -> dict[str, Any]:
    from jax_persistent.ffi.registration import native_module

    return machine.describe(native_module().cpu_isa())


def measure(shape: Shape, calls: int, rounds: int) -> dict[str, Any]:
    """An entry: forward and backward `calls` times, in each of the three ways."""
    threads = machine.limit_cores(None)
    ours: Any = SOURCES[OURS].load()
    one = ours(shape, draw(shape), threads)
    wide = Shape(**{**vars(shape), "batch": calls * shape.batch})
    split = stacked(ours, 1, calls)(wide, draw(wide), threads)
    one.backward(), split.backward()  # compiled
    with ThreadPoolExecutor(calls) as pool:
        ways = {
            IN_TURN: partial(_repeat, one.backward, calls),
            THREADS: lambda: list(pool.map(lambda _: one.backward(), range(calls))),
            DEVICES: split.backward,
        }
        times = round_robin(ways, rounds, seconds=60.0)
    in_turn = times[IN_TURN]
    return (
        vars(shape)
        | {"ways": {way: spread(found) for way, found in times.items()}}
        | {
            "ratios": {
                way: round(median(t / turn for t, turn in zip(times[way], in_turn, strict=True)), 3)
                for way in (THREADS, DEVICES)
            }
        }
    )


def _repeat(call: Any, times: int) -> None:
    for _ in range(times):
        call()


def line(entry: dict[str, Any]) -> str:
    shape = "{cell} {steps}x{batch}x{hidden}".format(**entry)
    ratios = ", ".join(f"{way} {ratio:.2f}x of that" for way, ratio in entry["ratios"].items())
    return f"{shape}: {IN_TURN} {entry['ways'][IN_TURN]['median_ms']:.1f} ms, {ratios}"


if __name__ == "__main__":
    main()
