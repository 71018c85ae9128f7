# SPDX-License-Identifier: Apache-2.0
"""The benchmark of `jp.scan`: every way is timed, and its means are of the right steps."""

from __future__ import annotations

import json
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


def test_limits_are_those_of_products_and_of_operations() -> None:
    """A GRU of one row, once with slow caches, once with slow multipliers."""
    hidden, steps = 16, scan.STEPS
    row = {"step": "gru", "batch": 1, "hidden": hidden}
    caches, product = {"L1": 1 << 20}, 2 * hidden * 3 * hidden
    slow = Limits(1, caches, {"L1": 1e6, "memory": 1e6}, {"float32": 1e12})
    alone, whole = scan_limits.least(row, "forward", slow)
    assert alone == pytest.approx(1e3 * steps * (2 * product / 1e6 + product / 1e12))
    assert whole > alone
    fast = Limits(1, caches, {"L1": 1e12, "memory": 1e12}, {"float32": 1e6})
    alone, whole = scan_limits.least(row, "gradients", fast)
    # With x and with h, forward and backward, and both gradients of weights.
    assert alone == pytest.approx(1e3 * steps * 6 * product / 1e6)
    # Three exponential functions forward; what is left are few operations.
    exponential = 3 * scan_limits.AS_MULTIPLY_ADDS
    least = 1e3 * steps * 2 * hidden * exponential / 1e6
    assert least < whole - alone < 3 * least
