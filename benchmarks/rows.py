# SPDX-License-Identifier: Apache-2.0
"""What benchmarks of many shapes share: a row of figures each, their means, and a results file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine

CPU_TIME = "CPU time of the process"

Row = dict[str, Any]


def measured(
    name: str,
    rows: Iterable[Row],
    line: Callable[[Row], str],
    means: Callable[[Sequence[Row]], Any],
    output: Path | None,
    **how: Any,
) -> dict[str, Any]:
    """Measures row after row, prints each and their means, and writes all to the results file.

    The file is `output`, or one of this name and the day's date; `how` is what it says besides.
    """
    from jax_persistent.ffi.registration import native_module

    facts = machine.describe(native_module().cpu_isa())
    found = []
    for row in rows:
        print(line(row), flush=True)
        found.append(row)
    results = {"machine": facts, **how, "rows": found, "means": means(found)}
    print(json.dumps(results["means"], indent=1))
    path = output or machine.RESULTS / f"{name}-{facts['date'][:10]}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {path}")
    return results


def ratios(
    theirs: Sequence[float], seconds: Mapping[str, Sequence[float]], ways: Iterable[str]
) -> dict[str, float]:
    """Of a time to each way's: the medians of the rounds' own ratios."""
    return {
        way: round(median(t / o for t, o in zip(theirs, seconds[way], strict=True)), 3)
        for way in ways
    }
