# SPDX-License-Identifier: Apache-2.0
"""The benchmark of short calls: every way is timed, and its means count what is slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import short


def test_it_writes_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "short.json"
    small = ["--cells", "gru", "--steps", "2", "--batch", "1", "--hidden", "16", "--rounds", "1"]
    command = [sys.executable, "-m", "benchmarks.short", *small, "--output", str(out)]
    root = Path(__file__).resolve().parents[2]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
    results = json.loads(out.read_text())
    (row,) = results["rows"]
    assert (row["cell"], row["steps"], row["batch"], row["hidden"]) == ("gru", 2, 1, 16)
    assert row["us"].keys() - set(short.PEERS) == set(short.WAYS)
    for over in ("flax_over", "best_over"):
        assert row[over].keys() == set(short.WAYS) - {"flax"} == results["means"][over].keys()
    assert all(value > 0 for value in (*row["us"].values(), *row["flax_over"].values()))
    assert "2x1x16" in printed


def test_means_say_how_many_are_slow() -> None:
    rows = [{"flax_over": {"chosen": ratio}} for ratio in (0.5, 2.0, 1.0)]
    found = short.means(rows)["chosen"]
    assert found["geometric_mean"] == pytest.approx(1)
    assert (found["least"], found["below_0.9"], found["of"]) == (0.5, 1, 3)
