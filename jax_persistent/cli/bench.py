# SPDX-License-Identifier: Apache-2.0
"""Times one shape, yours, against what else is installed here, and says what to use.

    python -m jax_persistent bench lstm --hidden 256 --batch 4 --steps 128 --gradient
    python -m jax_persistent bench SLSTM --hidden 256 --dtype bfloat16 --seconds 30

All of them compute the same: the outputs are compared before. They take turns, round after round,
and the medians of the rounds are compared, on as many cores as this process may use. The device is
jax's default one; JAX_PLATFORMS chooses it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import jax
import numpy as np

from jax_persistent.cli import peers, plan
from jax_persistent.cli.report import Refused, Report, Table, progress
from jax_persistent.cli.timing import round_robin

HELP = "your own shape, against what else is installed here"

_CLOSE = 1.05  # closer than this, two times say nothing
_ERRORS = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}  # relative, of the outputs


def add(command: argparse.ArgumentParser) -> None:
    known = (*peers.CELLS, *peers.library_cells())
    command.add_argument("cell", choices=known, metavar="cell", help=", ".join(known))
    plan.add_sizes(command)
    command.add_argument("--gradient", action="store_true", help="and the gradient of everything")
    command.add_argument(
        "--peers",
        nargs="+",
        choices=peers.NAMES,
        default=peers.NAMES,
        metavar="PEER",
        help=f"of {', '.join(peers.NAMES)}; all if not given",
    )
    command.add_argument("--rounds", type=int, default=15, help="at most; 15 if not given")
    seconds = "stop after about so many; 20 if not given"
    command.add_argument("--seconds", type=float, default=20.0, help=seconds)


def run(options: argparse.Namespace) -> Report:
    if options.dtype not in _ERRORS:
        raise Refused(f"--dtype: expected one of {', '.join(_ERRORS)}; got {options.dtype!r}")
    for name in ("steps", "batch", "features", "hidden", "rounds"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise Refused(f"--{name}: expected at least 1; got {number}")
    sizes = options.steps, options.batch, options.features or options.hidden, options.hidden
    shape = peers.Shape(options.cell, *sizes, options.dtype, options.gradient)
    names = tuple(dict.fromkeys((peers.OURS, *options.peers)))
    try:
        calls, absent = peers.found_here(shape, names)
    except ValueError as error:
        raise Refused(str(error)) from error
    _check(calls, options.dtype)
    load = os.getloadavg()[0]

    def shown(rounds: range) -> Iterable[int]:
        return progress(rounds, "timing")

    times = round_robin(calls, options.rounds, options.seconds, shown=shown)
    medians: dict[str, float] = {name: 1e3 * median(seconds) for name, seconds in times.items()}
    advice = recommendation(medians)
    rows = [
        (n, f"{m:.3g}", *_quartiles(times[n]), f"{m / medians[peers.OURS]:.2f}", len(times[n]))
        for n, m in sorted(medians.items(), key=lambda item: item[1])
    ]
    columns = ("", "median ms", "lower quartile", "upper", "times ours", "rounds")
    missing = [f"{name}: {reason}" for name, reason in absent.items()]
    data = {
        **vars(shape),
        "device": str(jax.devices()[0]),
        "median_ms": medians,
        "seconds": times,
        "absent": absent,
        "load": load,
        "recommendation": advice,
    }
    notes = "\n".join([*missing, *busy(load)])
    parts: list[str | Table] = [str(shape), Table(columns, rows), notes, advice]
    return Report(data, [part for part in parts if part])


def recommendation(medians: Mapping[str, float]) -> str:
    """What to use, from the median time of each."""
    ours = medians[peers.OURS]
    others = {name: value for name, value in medians.items() if name != peers.OURS}
    if not others:
        return "Nothing else was timed, so there is nothing to choose from."
    best = min(others, key=lambda name: others[name])
    ratio = others[best] / ours
    if ratio > _CLOSE:
        return f"Use jax_persistent here: it is {ratio:.2f} times as fast as {best}, the next."
    if ratio * _CLOSE < 1:
        return (
            f"Use {best} here: it is {1 / ratio:.2f} times as fast as jax_persistent (of which "
            "backend='reference' is lax.scan). If the machine has other work to do, time again: a "
            "kernel's workers wait for each other."
        )
    return f"Use either: jax_persistent and {best} take the same time here, within 5 %."


def busy(load: float) -> list[str]:
    """A warning where other programs have been at work, of which the load average tells."""
    cores = len(os.sched_getaffinity(0))
    if load <= cores / 2:
        return []
    found = f"a load of {load:.1f} for {cores} cores"
    return [f"The machine is busy: {found} before. Time again when it has nothing else to do"]


def _quartiles(seconds: list[float]) -> tuple[str, str]:
    lower, upper = (float(np.percentile(seconds, part)) * 1e3 for part in (25, 75))
    return f"{lower:.3g}", f"{upper:.3g}"


def _check(calls: Mapping[str, Any], dtype: str) -> None:
    """Raises Refused where a peer computes something else than the others."""
    ours = np.asarray(calls[peers.OURS](), np.float32)
    for name, call in calls.items():
        found = np.asarray(call(), np.float32)
        error = _norm(found - ours) / max(_norm(ours), 1e-30)
        if not error <= _ERRORS[dtype]:
            raise Refused(f"{name}: expected our outputs within {_ERRORS[dtype]}; got {error:.3g}")


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))
