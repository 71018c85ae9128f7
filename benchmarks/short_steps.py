# SPDX-License-Identifier: Apache-2.0
"""Step functions of one to ten steps: `lax.scan`, `jp.scan`, and `jp.scan` with packed matrices.

    python -m benchmarks.short_steps          # one core, forward

Each step multiplies x [T, B, H] and its own h with matrices. All ways in turns, medians of the
rounds' own ratios; times are CPU time of the process, as in `benchmarks.short`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.options import numbers, positive
from benchmarks.rows import CPU_TIME, measured, ratios
from benchmarks.short import means

WAYS = ("lax", "scan", "packed")
CELLS, STEPS, BATCH, HIDDEN = (
    ["lstm", "PeepholeLSTM"],
    [1, 4, 10],
    [1, 4, 32],
    [128, 256, 512, 1024],
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.short_steps")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--steps", type=numbers, default=STEPS, metavar="T")
    parser.add_argument("--batch", type=numbers, default=BATCH, metavar="B")
    parser.add_argument("--hidden", type=numbers, default=HIDDEN, metavar="H")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--threads", type=positive, default=1, help="cores; all CPU time counts")
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    machine.limit_cores(options.threads)  # before XLA starts

    rows = (
        timed(cell, steps, batch, hidden, options.rounds)
        for cell, steps, hidden, batch in itertools.product(
            options.cells, options.steps, options.hidden, options.batch
        )
    )
    how = {"threads": options.threads, "clock": CPU_TIME}
    summary = partial(means, over="lax_over")
    return measured("short-steps", rows, line, summary, options.output, **how)


def timed(cell: str, steps: int, batch: int, hidden: int, rounds: int) -> dict[str, Any]:
    """Microseconds of each way, and medians of the rounds' ratios of lax.scan's time to them."""
    import jax
    import numpy as np

    import jax_persistent as jp
    from benchmarks.scan import arguments
    from jax_persistent.cli.timing import round_robin

    weights, carry, xs, step = arguments(cell, batch, hidden)
    xs = xs[:steps]
    matrices = {name: w for name, w in weights.items() if w.ndim == 2 and min(w.shape) > 1}
    packed = weights | jp.pack("scan", matrices)
    ways = {
        "lax": (jax.lax.scan, weights),
        "scan": (jp.scan, weights),
        "packed": (jp.scan, packed),
    }
    calls, outputs = {}, {}
    for way, (scan, given) in ways.items():
        run = jax.jit(lambda w, c, x, scan=scan: scan(partial(step, w), c, x))
        outputs[way] = run(given, carry, xs)[1]
        calls[way] = lambda run=run, given=given: jax.block_until_ready(run(given, carry, xs))
    for way in ways:
        np.testing.assert_allclose(outputs[way], outputs["lax"], atol=1e-5, err_msg=way)
    seconds = round_robin(calls, rounds, math.inf, time.process_time)
    us = {way: round(1e6 * median(times), 1) for way, times in seconds.items()}
    over = ratios(seconds["lax"], seconds, WAYS[1:])
    sizes = {"steps": steps, "batch": batch, "hidden": hidden}
    return {"cell": cell, **sizes, "us": us, "lax_over": over}


def line(row: dict[str, Any]) -> str:
    sizes = f"{row['steps']}x{row['batch']}x{row['hidden']}"
    over = " ".join(f"{way} {ratio:5.2f}x" for way, ratio in row["lax_over"].items())
    return f"{row['cell']:12} {sizes:10} lax.scan {row['us']['lax']:9.1f} us  {over}"


if __name__ == "__main__":
    main()
