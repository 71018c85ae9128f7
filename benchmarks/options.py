# SPDX-License-Identifier: Apache-2.0
"""The program's options, and the shapes they ask for."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import DEFAULT, SOURCES
from benchmarks.problem import GATES, Shape

DTYPES = ("float32", "bfloat16")  # that there are CPU kernels for
QUICK = {"steps": [128], "batch": [1, 4, 16, 64], "hidden": [256, 512], "minutes": 5.0}
FULL = {
    "steps": [64, 128, 512],
    "batch": [1, 2, 4, 8, 16, 32, 64],
    "hidden": [64, 128, 192, 256, 384, 512, 768, 1024],
    "minutes": 120.0,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu",
        description="Times the layers against flax, PyTorch and ONNX Runtime on this CPU.",
        epilog="Lists are separated by commas. With --table and --plot, --cells, --steps, --batch "
        "and --hidden choose from the files.",
    )
    sets = parser.add_mutually_exclusive_group()
    sets.add_argument(
        "--quick", dest="preset", action="store_const", const=QUICK, help=f"{_say(QUICK)} (default)"
    )
    sets.add_argument("--full", dest="preset", action="store_const", const=FULL, help=_say(FULL))
    parser.add_argument("--cells", type=names_of(GATES), default=list(GATES), metavar="NAMES")
    parser.add_argument("--steps", type=numbers, metavar="T", help="time steps")
    parser.add_argument("--batch", type=numbers, metavar="B")
    parser.add_argument("--hidden", type=numbers, metavar="H")
    parser.add_argument(
        "--inputs",
        type=positive,
        metavar="I",
        help="H if not given; 1 leaves little but the recurrence",
    )
    parser.add_argument("--dtypes", type=names_of(DTYPES), default=["float32"], metavar="NAMES")
    parser.add_argument(
        "--peers",
        type=names_of(SOURCES),
        default=list(DEFAULT),
        metavar="NAMES",
        help=f"of {', '.join(SOURCES)}",
    )
    parser.add_argument("--threads", type=positive, help="cores of every peer; all if not given")
    parser.add_argument("--rounds", type=positive, default=10, help="at most, for each shape")
    parser.add_argument(
        "--minutes",
        type=float,
        help="aimed at: few rounds are made, then shapes left out, to end in time",
    )
    parser.add_argument("--memory", action="store_true", help="peak memory too, in own processes")
    parser.add_argument("--output", type=Path, help="the results file; pictures go beside it")
    stored = parser.add_mutually_exclusive_group()
    stored.add_argument(
        "--table", type=Path, nargs="+", metavar="FILE", help="only print the tables of files"
    )
    stored.add_argument(
        "--plot", type=Path, nargs="+", metavar="FILE", help="only draw the pictures of files"
    )
    options = parser.parse_args(arguments)
    if options.table or options.plot:
        return options
    for name, value in (options.preset or QUICK).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def shapes(options: argparse.Namespace) -> list[Shape]:
    return [
        Shape(cell, steps, batch, hidden, options.inputs or hidden, dtype)
        for dtype, cell, steps, hidden, batch in itertools.product(
            options.dtypes, options.cells, options.steps, options.hidden, options.batch
        )
    ]


def _say(preset: dict[str, Any]) -> str:
    names = {"steps": "T", "batch": "B", "hidden": "H"}
    lists = [f"{names[name]} {','.join(map(str, preset[name]))}" for name in names]
    return f"{'; '.join(lists)}; {preset['minutes']:g} minutes"


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def numbers(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def names_of(known: Any) -> Callable[[str], list[str]]:
    def parse_names(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"expected some of {', '.join(known)}; got {name!r}"
                )
        return names

    return parse_names
