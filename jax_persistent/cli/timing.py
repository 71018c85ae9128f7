# SPDX-License-Identifier: Apache-2.0
"""Times calls of several peers in turn, so that what disturbs the machine disturbs them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Any, NamedTuple

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


def round_robin(
    calls: Mapping[str, Any],
    rounds: int,
    seconds: float,
    clock: Clock = time.perf_counter,
    pace: Pace | None = None,
    shown: Callable[[range], Iterable[int]] = iter,
) -> dict[str, list[float]]:
    """Seconds of a call, by peer and round. Each round starts with another peer.

    A peer that is hopelessly slow takes part in the first round only. `shown` passes the rounds on,
    with a bar perhaps.
    """
    pace = pace or Pace(turn, SETTLE_SECONDS, HOPELESS_SECONDS)
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, began = list(calls), clock()
    for number in shown(range(rounds)):
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


def use_fastest(
    choices: Iterable[int],
    use: Callable[[int], None],
    call: Callable[[], Any],
    clock: Clock = time.perf_counter,
) -> None:
    """Uses the choice with which the least time of three calls, after a first one, is shortest."""

    def least(choice: int) -> float:
        use(choice)
        call()
        return min(_timed(call, clock) for _ in range(3))

    use(min(choices, key=least))


def _timed(call: Callable[[], Any], clock: Clock) -> float:
    began = clock()
    call()
    return clock() - began
