# SPDX-License-Identifier: Apache-2.0
"""Times one shape on a GPU: who agrees with the reference takes turns, call after call queued."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks import machine
from benchmarks.measure import spread
from benchmarks.peers import disagreement
from benchmarks.peers_gpu import GpuPeer
from benchmarks.problem import PASSES, Arrays, Shape, draw
from jax_persistent.cli.timing import Clock, Pace, round_robin

# A sample is so long at least, that launching and waiting are no part of what is seen.
SAMPLE_SECONDS = 5e-3
MOST_CALLS = 200
COMPILERS = 8  # programs compiled at once
HOPELESS_SECONDS = 0.1

Outcome = dict[str, dict[str, str]]  # by direction and peer, why it has no time


@dataclasses.dataclass
class Queue:
    """Calls of one peer in one direction, launched behind one another."""

    peer: GpuPeer
    direction: str
    calls: int = 0  # of a sample; not known yet

    def seconds(self, calls: int, clock: Clock) -> float:
        """Of a call, from an idle GPU to an idle GPU."""
        began = clock()
        for _ in range(calls):
            results = self.peer.launch(self.direction)
        self.peer.wait(results)
        return (clock() - began) / calls


def turn(queue: Queue, clock: Clock = time.perf_counter) -> float:
    """Seconds of a call, in a sample that is long enough."""
    if queue.calls == 0:
        queue.seconds(1, clock)
        single = queue.seconds(1, clock)
        queue.calls = min(math.ceil(1.2 * SAMPLE_SECONDS / max(single, 1e-9)), MOST_CALLS)
    return queue.seconds(queue.calls, clock)


PACE = Pace(turn, 0.0, HOPELESS_SECONDS)


def time_shape(
    shape: Shape,
    classes: Mapping[str, type[GpuPeer]],
    reference: type[GpuPeer],
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """An entry of the results for each pass. A peer that fails or differs has its reason there.

    Args:
      reference: whose results, in float32, the others' must be.
      rounds: at most so many, fewer once half of `seconds` are over in a pass.
    """
    load, arrays = machine.load(), draw(shape)
    refused: Outcome = {direction: {} for direction in PASSES}
    peers = _make(shape, arrays, classes, refused)
    expected = _truth(shape, arrays, reference)
    _prepare(peers, refused)
    for name, peer in peers.items():
        _check(name, peer, expected, shape.dtype, refused)
    entries = []
    for direction in PASSES:
        queues = {n: Queue(p, direction) for n, p in peers.items() if n not in refused[direction]}
        times = round_robin(queues, rounds, seconds / 2, pace=PACE)
        entries.append(
            dataclasses.asdict(shape)
            | {"pass": direction, "load": load, "refused": refused[direction]}
            | {"peers": {name: spread(values) for name, values in times.items()}}
        )
    return entries


def _make(
    shape: Shape, arrays: Arrays, classes: Mapping[str, type[GpuPeer]], refused: Outcome
) -> dict[str, GpuPeer]:
    peers = {}
    for name, peer_class in classes.items():
        reasons = {d: reason for d in PASSES if (reason := peer_class.refuses(shape, d))}
        for direction, reason in reasons.items():
            refused[direction][name] = reason
        if len(reasons) < len(PASSES):
            made = _attempt(partial(peer_class, shape, arrays, 1), name, PASSES, refused)
            if made is not None:
                peers[name] = made
    return peers


def _truth(shape: Shape, arrays: Arrays, reference: type[GpuPeer]) -> dict[str, Any]:
    wide = reference(dataclasses.replace(shape, dtype="float32"), arrays, 1)
    with ThreadPoolExecutor(COMPILERS) as pool:
        for done in [pool.submit(wide.prepare(direction)) for direction in PASSES]:
            done.result()
    return {"outputs": wide.outputs()} | wide.gradients()


def _prepare(peers: Mapping[str, GpuPeer], refused: Outcome) -> None:
    """Traces one after the other, for settings are read then; compiles side by side."""
    with ThreadPoolExecutor(COMPILERS) as pool:
        running = []
        for name, peer in peers.items():
            for direction in PASSES:
                if name in refused[direction]:
                    continue
                compiling = _attempt(partial(peer.prepare, direction), name, (direction,), refused)
                if compiling is not None:
                    running.append((name, direction, pool.submit(compiling)))
        for name, direction, done in running:
            _attempt(done.result, name, (direction,), refused)


def _check(
    name: str, peer: GpuPeer, expected: Mapping[str, Any], dtype: str, refused: Outcome
) -> None:
    for direction in PASSES:
        if name in refused[direction]:
            continue
        forward = direction == "forward"

        def differs(forward: bool = forward) -> str:
            got = {"outputs": peer.outputs()} if forward else peer.gradients()
            return disagreement(expected, got, dtype) or ""

        found = _attempt(differs, name, (direction,), refused)
        if found:
            refused[direction][name] = f"differs from the reference in {found}"


def _attempt(
    function: Callable[[], Any], name: str, directions: tuple[str, ...], refused: Outcome
) -> Any:
    """The function's result; None, and its error as the reason, where a peer can't."""
    try:
        return function()
    except Exception as error:  # whatever a peer raises is its own affair
        first = (str(error).strip().splitlines() or [""])[0][:300]
        for direction in directions:
            refused[direction][name] = f"{type(error).__name__}: {first}"
        return None
