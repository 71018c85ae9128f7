# SPDX-License-Identifier: Apache-2.0
"""The program for calls at once measures all three ways of the same work."""

from __future__ import annotations

from benchmarks import contention
from benchmarks.problem import Shape


def test_an_entry_has_every_way_and_its_ratio() -> None:
    shape = Shape("gru", 3, 2, 5, 4, "float32")
    entry = contention.measure(shape, calls=2, rounds=3)
    assert (entry["cell"], entry["batch"], entry["hidden"], entry["inputs"]) == ("gru", 2, 5, 4)
    assert set(entry["ways"]) == {contention.IN_TURN, contention.THREADS, contention.DEVICES}
    assert all(way["median_ms"] > 0 for way in entry["ways"].values())
    assert set(entry["ratios"]) == {contention.THREADS, contention.DEVICES}


def test_a_line_says_what_a_ratio_is_of() -> None:
    entry = {"cell": "lstm", "steps": 3, "batch": 2, "hidden": 5}
    entry |= {"ways": {contention.IN_TURN: {"median_ms": 4.0}}}
    entry |= {"ratios": {contention.THREADS: 1.25, contention.DEVICES: 0.5}}
    assert contention.line(entry) == (
        "lstm 3x2x5: one after the other 4.0 ms, from threads 1.25x of that, "
        "on virtual devices 0.50x of that"
    )
