# SPDX-License-Identifier: Apache-2.0
"""The GPU program's options, and the shapes they ask for, the most telling ones first."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from benchmarks.options import names_of, numbers, positive
from benchmarks.peers import GPU_DEFAULT, GPU_SOURCES, OURS
from benchmarks.problem import DTYPES, GATES, Shape

STEPS = 1024
BATCH = (1, 2, 4, 8, 16, 32, 64, 128)
HIDDEN = (256, 512, 768, 1024, 1536, 2048)
EXCHANGES = ("auto", "grid", "grid-barrier", "cluster")
# What a first look must have: the aims, one of every cell and dtype, one beyond each residency.
QUICK = (
    ("lstm", "bfloat16", 1024, (1, 4, 8)),
    ("lstm", "bfloat16", 512, (1, 8)),
    ("lstm", "bfloat16", 768, (16,)),
    ("gru", "bfloat16", 1024, (4,)),
    ("elman", "bfloat16", 1024, (4,)),
    ("lstm", "float32", 512, (4,)),
    ("lstm", "bfloat16", 1024, (64,)),
    ("lstm", "bfloat16", 2048, (4,)),
    ("lstm", "float16", 1024, (16,)),
)
# The rest, in this order: a run that is cut short has seen some of everything.
BATCH_ORDER = (4, 64, 1, 16, 8, 32, 2, 128)
DTYPE_ORDER = ("bfloat16", "float32", "float16")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Times the layers against lax.scan, cuDNN and FlashRNN on this GPU.",
        epilog="Lists are separated by commas.",
    )
    parser.add_argument("--quick", action="store_true", help="a few shapes, 150 seconds at most")
    parser.add_argument("--cells", type=names_of(GATES), default=list(GATES), metavar="NAMES")
    parser.add_argument(
        "--dtypes", type=names_of(DTYPES), default=["bfloat16", "float32"], metavar="NAMES"
    )
    parser.add_argument("--steps", type=positive, default=STEPS, metavar="T")
    parser.add_argument("--batch", type=numbers, default=list(BATCH), metavar="B")
    parser.add_argument("--hidden", type=numbers, default=list(HIDDEN), metavar="H")
    parser.add_argument(
        "--exchange",
        type=names_of(EXCHANGES),
        default=list(EXCHANGES),
        metavar="NAMES",
        help=f"of ours, of {', '.join(EXCHANGES)}; auto is the planner's choice",
    )
    parser.add_argument(
        "--peers",
        type=names_of([name for name in GPU_SOURCES if not name.startswith(OURS)]),
        default=[name for name in GPU_DEFAULT if not name.startswith(OURS)],
        metavar="NAMES",
        help="the others; flashrnn, which compiles for minutes at each shape, must be asked for",
    )
    parser.add_argument("--rounds", type=positive, default=7, help="at most, for each shape")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="no shape is begun after that"
    )
    parser.add_argument("--output", type=Path, help="the results file; pictures go beside it")
    parser.add_argument(
        "--dry-run", action="store_true", help="everything but the kernels, on the CPU"
    )
    stored = parser.add_mutually_exclusive_group()
    stored.add_argument("--table", type=Path, metavar="FILE", help="only print a file's tables")
    stored.add_argument("--plot", type=Path, metavar="FILE", help="only draw a file's pictures")
    options = parser.parse_args(arguments)
    if options.quick and options.budget is None:
        options.budget = 150.0
    options.names = [OURS if e == "auto" else f"{OURS}.{e}" for e in options.exchange]
    options.names += options.peers
    return options


def shapes(options: argparse.Namespace) -> list[Shape]:
    """I = H throughout."""
    if options.quick:
        return [
            Shape(cell, options.steps, batch, hidden, hidden, dtype)
            for cell, dtype, hidden, batches in QUICK
            for batch in batches
        ]
    asked = [
        Shape(cell, options.steps, batch, hidden, hidden, dtype)
        for dtype, cell, hidden, batch in itertools.product(
            options.dtypes, options.cells, options.hidden, options.batch
        )
    ]
    return sorted(asked, key=_importance)


def _importance(shape: Shape) -> tuple[int, ...]:
    headline = (
        (shape.hidden == 1024 and shape.batch <= 8, 0),
        (shape.hidden == 512 and shape.batch <= 8, 1),
        (shape.hidden == 768 and shape.batch == 16, 2),
    )
    group = 3
    if (shape.cell, shape.dtype) == ("lstm", "bfloat16"):
        group = next((rank for is_one, rank in headline if is_one), 3)
    orders = (BATCH_ORDER, DTYPE_ORDER, tuple(GATES))
    values = (shape.batch, shape.dtype, shape.cell)
    ranks = [
        order.index(value) if value in order else len(order)
        for order, value in zip(orders, values, strict=True)
    ]
    return (group, *ranks, shape.hidden, shape.batch)
