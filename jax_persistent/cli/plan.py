# SPDX-License-Identifier: Apache-2.0
"""Says where a recurrence's weights would live, with a picture; runs nothing.

    python -m jax_persistent plan lstm --hidden 1024 --batch 4
    python -m jax_persistent plan gru --hidden 512 --batch 64 --device sm_90 --dtype bfloat16

These are the cells with kernels of their own; `explain` knows every cell, and your own steps.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import jax

import jax_persistent as jp
from jax_persistent.backends import registry
from jax_persistent.cells import CELLS
from jax_persistent.cli import picture
from jax_persistent.cli.report import Refused, Report, Table

HELP = "where a recurrence's weights would live"

_KNOWN = ("elman", *CELLS)


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument("cell", metavar="cell", help=", ".join(_KNOWN))
    add_sizes(command, features=False)
    add_device(command)


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", help="cpu, cuda, sm_90 and the like; the default device's")


def add_sizes(command: argparse.ArgumentParser, features: bool = True) -> None:
    """What says the shape of a recurrence."""
    command.add_argument("--hidden", type=int, required=True, help="H, units")
    command.add_argument("--batch", type=int, default=1, help="B, rows; 1 if not given")
    command.add_argument("--steps", type=int, default=128, help="T; 128 if not given")
    if features:
        command.add_argument("--features", type=int, help="I, of the inputs; H if not given")
    command.add_argument("--dtype", default="float32", help="float32 if not given")


def run(options: argparse.Namespace) -> Report:
    if options.cell not in _KNOWN:
        asked = f"python -m jax_persistent explain {options.cell} --hidden {options.hidden}"
        got = f"got {options.cell!r}. For the library's cells: {asked}"
        raise Refused(f"cell: expected {', '.join(_KNOWN)}; {got}")
    sizes: dict[str, Any] = {n: getattr(options, n) for n in ("hidden", "batch", "steps")}
    device = options.device or jax.default_backend()
    try:
        plan = jp.plan(options.cell, **sizes, dtype=options.dtype, device=device)
        backend = registry.named(device)
    except (ImportError, RuntimeError, ValueError) as error:
        raise Refused(error) from error
    what = f"{options.cell} on {device}: " + ", ".join(f"{n} {s}" for n, s in sizes.items())
    parts: list[str | Table] = [f"{what}, {options.dtype}", str(plan)]
    passes = plan.details or {}
    drawn = {}
    if plan.backend == "native" and backend is not None:
        parts.append(_table(passes))
        facts = backend.facts(device)
        drawn = {
            name: picture.draw(numbers, facts, options.hidden) for name, numbers in runs(passes)
        }
        parts += [f"{name}\n{text}" for name, text in drawn.items() if text]
    data = {"cell": options.cell, "device": str(device), **sizes, "dtype": options.dtype}
    return Report(data | dataclasses.asdict(plan) | {"picture": drawn}, parts)


def runs(passes: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The passes that run on a kernel."""
    return [(name, numbers) for name, numbers in passes.items() if numbers["runs"]]


def _table(passes: dict[str, Any]) -> Table:
    rows = [
        (
            name,
            numbers["residency"],
            numbers["workers"],
            numbers["packed_bytes"] >> 10,
            (numbers["packed_bytes"] // max(numbers["workers"], 1)) >> 10,
        )
        for name, numbers in runs(passes)
    ]
    return Table(("pass", "weights in", "workers", "KiB of weights", "KiB a worker"), rows)
