# SPDX-License-Identifier: Apache-2.0
"""Calls of one to ten steps, as of a decoder or a policy: the ways to run them, and packing.

    python -m benchmarks.short                # one core, forward

Each shape runs as flax's own layer, as our reference (a `lax.scan`), as the kernel, as the one of
the two that is chosen, and as the kernel on packed weights, beside PyTorch and ONNX Runtime where
they are installed: all in turns, medians of the rounds' own ratios, to flax and to the fastest
peer. Times are CPU time of the process, so that other work on the machine counts for less.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.options import DTYPES, names_of, numbers, positive
from benchmarks.problem import GATES, Shape
from benchmarks.rows import CPU_TIME, measured, ratios

WAYS = ("flax", "scan", "kernel", "chosen", "packed")
PEERS = ("pytorch", "onnxruntime")
STEPS, BATCH, HIDDEN = [1, 2, 4, 10], [1, 4, 32], [64, 128, 256, 512, 1024]
EQUAL = 0.9  # of flax's time: the least that is asked of what is chosen


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.short")
    parser.add_argument("--cells", type=names_of(GATES), default=list(GATES), metavar="NAMES")
    parser.add_argument("--steps", type=numbers, default=STEPS, metavar="T")
    parser.add_argument("--batch", type=numbers, default=BATCH, metavar="B")
    parser.add_argument("--hidden", type=numbers, default=HIDDEN, metavar="H")
    parser.add_argument("--dtypes", type=names_of(DTYPES), default=["float32"], metavar="NAMES")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--threads", type=positive, default=1, help="cores; all CPU time counts")
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    machine.limit_cores(options.threads)  # before XLA starts

    rows = (
        timed(Shape(cell, steps, batch, hidden, hidden, dtype), options.rounds)
        for dtype, cell, steps, hidden, batch in itertools.product(
            options.dtypes, options.cells, options.steps, options.hidden, options.batch
        )
    )
    how = {"threads": options.threads, "clock": CPU_TIME}
    return measured("short", rows, line, means_of_all, options.output, **how)


def timed(shape: Shape, rounds: int) -> dict[str, Any]:
    """Microseconds of each way, and the rounds' ratios of flax's and the best peer's to it."""
    from benchmarks.measure import Disagreement
    from benchmarks.peers import available, disagreement
    from benchmarks.peers_jax import Chosen, Flax, Ours, Packed, Scan
    from benchmarks.problem import draw
    from jax_persistent.cli.timing import round_robin

    classes: dict[str, Any] = dict(zip(WAYS, (Flax, Scan, Ours, Chosen, Packed), strict=True))
    others = {n: c for n, c in available(PEERS)[0].items() if not c.refuses(shape, "forward")}
    classes |= others
    arrays = draw(shape)
    peers = {name: way(shape, arrays, 1) for name, way in classes.items()}
    expected = {"outputs": peers["flax"].outputs()}
    for name, peer in peers.items():
        found = disagreement(expected, {"outputs": peer.outputs()}, shape.dtype)
        if found is not None:
            raise Disagreement(f"{shape} {shape.dtype}: {name} is not flax's layer: {found}")
    calls = {name: peer.forward for name, peer in peers.items()}
    seconds = round_robin(calls, rounds, math.inf, time.process_time)
    row: dict[str, Any] = {
        "cell": shape.cell,
        "dtype": shape.dtype,
        "steps": shape.steps,
        "batch": shape.batch,
        "hidden": shape.hidden,
        "us": {name: round(1e6 * median(times), 1) for name, times in seconds.items()},
    }
    rounds_of_peers = zip(*(seconds[name] for name in ("flax", *others)), strict=True)
    against = {"flax_over": seconds["flax"], "best_over": [min(each) for each in rounds_of_peers]}
    return row | {over: ratios(theirs, seconds, WAYS[1:]) for over, theirs in against.items()}


def line(row: dict[str, Any]) -> str:
    sizes = f"{row['steps']}x{row['batch']}x{row['hidden']}"
    over = " ".join(f"{way} {ratio:5.2f}x" for way, ratio in row["flax_over"].items())
    packed = f"packed, over the best peer {row['best_over']['packed']:5.2f}x"
    flax = f"flax {row['us']['flax']:9.1f} us"
    return f"{row['cell']:5} {row['dtype']:8} {sizes:10} {flax}  {over}  {packed}"


def means_of_all(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {over: means(rows, over) for over in ("flax_over", "best_over")}


def means(rows: Sequence[dict[str, Any]], over: str = "flax_over") -> dict[str, Any]:
    """Of a time to each way's: geometric means, the least, and shapes below `EQUAL`."""
    found: dict[str, Any] = {}
    for way in rows[0][over]:
        values = [row[over][way] for row in rows]
        found[way] = {
            "geometric_mean": round(math.exp(sum(map(math.log, values)) / len(values)), 3),
            "least": min(values),
            f"below_{EQUAL}": sum(ratio < EQUAL for ratio in values),
            "of": len(values),
        }
    return found


if __name__ == "__main__":
    main()
