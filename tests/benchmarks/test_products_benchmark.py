# SPDX-License-Identifier: Apache-2.0
"""The benchmark of products: each is timed both ways, after both were found to agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import machine, products


def test_it_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    out = tmp_path / "products.json"
    products.main(["--batch", "1", "--hidden", "16", "--rounds", "1", "--output", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["product"] for row in rows] == list(products.PRODUCTS)
    assert [row["sizes"] for row in rows] == [[128, 16, 64], [128, 64, 16], [16, 128, 64]]
    assert all(row[key] > 0 for row in rows for key in ("xla_us", "ours_us", "xla_over_ours"))
