# SPDX-License-Identifier: Apache-2.0
"""The benchmark of `jp.scan`: every way is timed, and its means are of the right steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scan, scan_limits
from benchmarks.limits import Limits


def test_it_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scan.json"
    small = ["--batch", "1", "--hidden", "16", "--rounds", "1", "--output", str(out)]
    scan.main(["--steps", "gru", "policy", "CoupledLSTM", *small])
    results = json.loads(out.read_text())
    assert [row["step"] for row in results["rows"]] == ["gru", "policy", "CoupledLSTM"]
    for row in results["rows"]:
        ways = {"scan", "lax"} | ({"function"} if row["step"] == "gru" else set())
        for kind in ("forward", "gradients"):
            assert ways <= row[kind].keys()
            assert all(row[kind][way] > 0 for way in ways)
    assert "CoupledLSTM" in capsys.readouterr().out


def test_means_are_geometric_and_by_kind_of_step() -> None:
    kind = {"lax_over_scan": 2.0}
    rows = [
        {"step": "lstm", "forward": kind | {"function_over_scan": 0.5}, "gradients": kind},
        {"step": "SLSTM", "forward": {"lax_over_scan": 8.0}, "gradients": kind},
        {"step": "policy", "forward": kind, "gradients": kind},
    ]
    found = scan.means(rows)
    assert found["forward library lax_over_scan"] == pytest.approx(4)
    assert found["forward hot function_over_scan"] == pytest.approx(0.5)
    assert "gradients hot function_over_scan" not in found


CACHES = {"L1": 1 << 20}
QUICK = {"lanes": 16, "store": 1e-15, "divide": 1e-15, "dependent": 1e-15}


def test_limits_are_those_of_products_and_of_operations() -> None:
    """A GRU of one row, once with slow caches, once with slow multipliers."""
    hidden, steps = 16, scan.STEPS
    row = {"step": "gru", "batch": 1, "hidden": hidden}
    product = 2 * hidden * 3 * hidden
    slow = Limits(1, CACHES, {"L1": 1e6, "memory": 1e6}, {"float32": 1e12}, vector=QUICK)
    alone, whole = scan_limits.least(row, "forward", slow, slow)
    assert alone == pytest.approx(1e3 * steps * (2 * product / 1e6 + product / 1e12))
    assert whole > alone
    fast = Limits(1, CACHES, {"L1": 1e12, "memory": 1e12}, {"float32": 1e6}, vector=QUICK)
    alone, whole = scan_limits.least(row, "gradients", fast, fast)
    # With x and with h, forward and backward, and both gradients of weights.
    assert alone == pytest.approx(1e3 * steps * 6 * product / 1e6)
    # Three exponential functions forward; what is left are few operations.
    exponential = 3 * scan_limits.AS_MULTIPLY_ADDS
    least = 1e3 * steps * 2 * hidden * exponential / 1e6
    assert least < whole - alone < 3 * least


def test_a_step_takes_what_is_slowest_in_it() -> None:
    """Of 1,000 weights and 100 features, on one core or two, of which each can be the limit."""
    rates = {"L1": 1e12, "memory": 1e12}, {"float32": 2e6}
    one = Limits(1, CACHES, *rates, vector=QUICK)
    two = Limits(2, CACHES, {"L1": 2e12, "memory": 2e12}, {"float32": 4e6}, vector=QUICK)
    step = scan_limits.Work(1000, 0, 0, 0, 0, 1)
    assert scan_limits.step_seconds(step, 1, one, one) == pytest.approx((1e-3, 1e-3))
    assert scan_limits.step_seconds(step, 1, one, two) == pytest.approx((5e-4, 5e-4))
    # Half of the products hide a meeting, or a part of it; or one core does all.
    for meeting, least in ((1e-4, 5e-4), (4e-4, 6.5e-4), (1e-2, 1e-3)):
        meets = replace(two, meeting=meeting)
        assert scan_limits.step_seconds(step, 1, one, meets)[1] == pytest.approx(least)
    # Cores that share two rows do not meet.
    meets = replace(two, meeting=1e-2)
    assert scan_limits.step_seconds(step, 2, one, meets)[1] == pytest.approx(1e-3)
    slow = {"store": (0, 0, 160, 0), "divide": (0, 160, 0, 0), "dependent": (0, 0, 0, 10)}
    for kind, counts in slow.items():
        cores = replace(one, vector=QUICK | {kind: 1e-3})
        _, whole = scan_limits.step_seconds(scan_limits.Work(1000, *counts, 0), 1, cores, cores)
        assert whole == pytest.approx(1e-3 + 10 * 1e-3)
