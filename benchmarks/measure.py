# SPDX-License-Identifier: Apache-2.0
"""Times one shape: all peers in turn, round after round, after all were found to agree."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine
from benchmarks.peers import Peer, disagreement
from benchmarks.problem import PASSES, Arrays, Shape, draw

# A peer's threads may spin for a few milliseconds after a call: that time is nobody's.
SETTLE_SECONDS = 0.01
# Calls shorter than this are repeated within a turn, the first one (caches just lost) not counted.
TURN_SECONDS = 0.02
LONG_SECONDS = 0.05
FEWEST_ROUNDS = 3
# Where a call takes so many times what the fastest takes, and that is seconds, one round is enough.
HOPELESS, HOPELESS_SECONDS = 20, 1.0

Clock = Callable[[], float]


class Pace(NamedTuple):
    """How a call of a peer is timed, in its turn."""

    turn: Callable[[Any, Clock], float]
    settle_seconds: float  # of peace before it
    hopeless_seconds: float


class Disagreement(Exception):
    """Two peers compute different things, so that their times can't be compared."""


def time_shape(
    shape: Shape,
    classes: Mapping[str, type[Peer]],
    reference: type[Peer],
    threads: int,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """An entry of the results for each pass, the peers made, compiled and compared before.

    Args:
      reference: whose results, in float32, the others' must be.
      rounds: at most so many; fewer, but at least `FEWEST_ROUNDS`, once `seconds` are over.

    Raises:
      Disagreement: a peer computes something else.
    """
    began = time.perf_counter()
    load = machine.load()
    arrays = draw(shape)
    peers = {
        name: peer_class(shape, arrays, threads)
        for name, peer_class in classes.items()
        if not all(peer_class.refuses(shape, direction) for direction in PASSES)
    }
    check(shape, arrays, peers, reference, threads)
    entries = []
    for remaining, direction in zip((2, 1), PASSES, strict=True):
        refused = {name: c.refuses(shape, direction) for name, c in classes.items()}
        refused = {name: reason for name, reason in refused.items() if reason}
        calls = {
            name: peer.forward if direction == "forward" else peer.backward
            for name, peer in peers.items()
            if name not in refused
        }
        left = (seconds - (time.perf_counter() - began)) / remaining
        times = round_robin(calls, rounds, left)
        entries.append(
            dataclasses.asdict(shape)
            | {"pass": direction, "load": load, "refused": refused}
            | {"peers": {name: spread(values) for name, values in times.items()}}
        )
    return entries


def check(
    shape: Shape,
    arrays: Arrays,
    peers: Mapping[str, Peer],
    reference: type[Peer],
    threads: int,
) -> None:
    """Raises `Disagreement` unless all peers have the reference's outputs and gradients."""
    wide = reference(dataclasses.replace(shape, dtype="float32"), arrays, threads)
    expected = results_of(wide)
    for name, peer in peers.items():
        compare(shape, name, peer, expected)


def results_of(peer: Peer) -> dict[str, np.ndarray]:
    return {"outputs": peer.outputs()} | peer.gradients()


def compare(shape: Shape, name: str, peer: Peer, expected: Mapping[str, np.ndarray]) -> None:
    """Raises `Disagreement` unless a peer has the outputs and gradients expected."""
    found = disagreement(expected, results_of(peer), shape.dtype)
    if found is not None:
        raise Disagreement(f"{shape} {shape.dtype}: {name} is not the reference: {found}")


def round_robin(
    calls: Mapping[str, Any],
    rounds: int,
    seconds: float,
    clock: Clock = time.perf_counter,
    pace: Pace | None = None,
) -> dict[str, list[float]]:
    """Seconds of a call, by peer and round. Each round starts with another peer.

    A peer that is hopelessly slow takes part in the first round only.
    """
    pace = pace or Pace(turn, SETTLE_SECONDS, HOPELESS_SECONDS)
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, began = list(calls), clock()
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and clock() - began > seconds:
            break
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            time.sleep(pace.settle_seconds)
            times[name].append(pace.turn(calls[name], clock))
        fastest = min((times[name][-1] for name in names), default=0.0)
        bound = max(HOPELESS * fastest, pace.hopeless_seconds)
        names = [name for name in names if times[name][-1] <= bound]
    return times


def turn(call: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    """Seconds of a call: of the one call if it is long, else the median of several after it."""
    elapsed = _timed(call, clock)
    if elapsed >= LONG_SECONDS:
        return elapsed
    repeats = min(max(int(TURN_SECONDS / max(elapsed, 1e-9)), 1), 50)
    return median(_timed(call, clock) for _ in range(repeats))


def _timed(call: Callable[[], Any], clock: Clock) -> float:
    began = clock()
    call()
    return clock() - began


def spread(seconds: list[float]) -> dict[str, Any]:
    """Milliseconds of every round, and their quartiles."""
    milliseconds = [1e3 * value for value in seconds]
    lower, middle, upper = np.percentile(milliseconds, (25, 50, 75))
    return {
        "median_ms": _digits(middle),
        "quartiles_ms": [_digits(lower), _digits(upper)],
        "rounds_ms": [_digits(value) for value in milliseconds],
    }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
