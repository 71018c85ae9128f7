# SPDX-License-Identifier: Apache-2.0
"""What a command has to say, and how it is shown: drawn, plain or as JSON."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


class Refused(Exception):
    """A command can't do what it is asked for; says what was expected."""


@dataclass(frozen=True)
class Table:
    """Rows under the names of columns; without names, a list of facts."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __str__(self) -> str:
        rows = [[str(cell) for cell in row] for row in self.rows]
        rows = [list(self.columns), *rows] if self.columns else rows
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = ([cell.ljust(w) for cell, w in zip(r, widths, strict=True)] for r in rows)
        return "\n".join("  ".join(cells).rstrip() for cells in padded)


@dataclass(frozen=True)
class Report:
    """What a command found.

    Attributes:
      data: the same as JSON has it.
      parts: what is shown, in order.
      errors: what goes to the standard error, a line each.
      status: of the process.
    """

    data: Any
    parts: Sequence[str | Table]
    errors: Sequence[str] = ()
    status: int = 0


def show(report: Report, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.data, indent=2, default=str))
    elif _draws(sys.stdout):
        _draw(report.parts)
    else:
        print("\n\n".join(map(str, report.parts)))
    for error in report.errors:
        print(error, file=sys.stderr)


def progress(items: Sequence[_T], label: str) -> Iterator[_T]:
    """The items, with a bar on the standard error if that is a terminal."""
    steps: Iterable[_T] = items
    if _draws(sys.stderr):
        from rich.console import Console
        from rich.progress import track

        steps = track(items, label, console=Console(stderr=True), transient=True)
    elif sys.stderr.isatty():
        steps = _counted(items, label)
    yield from steps


def _counted(items: Sequence[_T], label: str) -> Iterator[_T]:
    for number, item in enumerate(items):
        done = 30 * number // len(items)
        print(f"\r{label} [{'#' * done}{'.' * (30 - done)}]", end="", file=sys.stderr, flush=True)
        yield item
    print("\r" + " " * (len(label) + 33), end="\r", file=sys.stderr, flush=True)


def _draws(stream: Any) -> bool:
    return stream.isatty() and importlib.util.find_spec("rich") is not None


def _draw(parts: Sequence[str | Table]) -> None:
    from rich import box, table
    from rich.console import Console

    console = Console()
    for number, part in enumerate(parts):
        if number:
            console.print()
        if isinstance(part, str):
            console.print(part, markup=False, highlight=False, soft_wrap=True)
            continue
        drawn = table.Table(*part.columns, box=box.SIMPLE_HEAD, show_header=bool(part.columns))
        for row in part.rows:
            drawn.add_row(*map(str, row))
        console.print(drawn, markup=False)
