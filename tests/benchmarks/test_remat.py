# SPDX-License-Identifier: Apache-2.0
"""Running layers again takes less memory than saving, for the same gradients."""

from __future__ import annotations

from benchmarks import remat
from benchmarks.problem import Shape


def test_less_is_kept_where_layers_run_again() -> None:
    found = remat.measure(Shape("lstm", 12, 3, 16, 16, "float32"), layers=5, rounds=3)
    kept = {way: found["ways"][way]["temporary_bytes"] for way in found["ways"]}
    saved = 12 * 3 * 16 * 5 * 4  # bytes that one layer saves: five values a unit
    assert kept[remat.PLAIN] - kept[remat.AGAIN] > 3 * saved
    assert all(way["median_ms"] > 0 for way in found["ways"].values())
    assert "5 layers of" in remat.report(found)
