# SPDX-License-Identifier: Apache-2.0
"""Times one shape: all peers in turn, round after round, after all were found to agree."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.peers import Peer, disagreement
from benchmarks.problem import PASSES, Arrays, Shape, draw
from jax_persistent.cli.timing import round_robin


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
