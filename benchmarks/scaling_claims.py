# SPDX-License-Identifier: Apache-2.0
"""The paper's claims, and the same figures from what was measured here.

Source: Diamos et al., "Persistent RNNs: Stashing Recurrent Weights On-Chip", ICML 2016, with its
ICLR 2016 workshop paper: from 64 samples a processor to 4 and to 16x the processors, 30x as fast as
a standard implementation at that batch, 28 % of peak at 128 GPUs against 31 % at one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.scaling_measured import NO_GPU, PERSISTENT, SCAN, Measured
from benchmarks.scaling_model import Cluster, best_rate, efficiency, rate, step

FULL_BATCH, SMALL_BATCH, MOST_DEVICES = 64, 4, 128
NONE = "–"


def claims_table(cpu: Measured | None, gpu: Measured | None, at: Cluster) -> str:
    """The paper's claims, each with the same figure of ours."""
    total = SMALL_BATCH * MOST_DEVICES
    claims: list[tuple[str, str, Any]] = [
        (
            f"sequences a device, for the rate of a scan with {FULL_BATCH}",
            f"{SMALL_BATCH}: {FULL_BATCH // SMALL_BATCH}x fewer",
            _fewer,
        ),
        (
            f"devices for the speed of {MOST_DEVICES} with a scan, {total} sequences in all",
            f"{MOST_DEVICES // 16}",
            lambda measured: _same_work(measured, total, at),
        ),
        (
            f"of peak at {MOST_DEVICES} devices, and at one, {total} sequences in all",
            "28 %, 31 %",
            lambda measured: _parts_of_peak(measured, total, at),
        ),
        (
            f"times a scan's speed at {SMALL_BATCH} sequences a device",
            "30x",
            lambda measured: ratio(measured, SMALL_BATCH),
        ),
    ]
    rows = [
        [what, paper, *(NONE if half is None else find(half) for half in (cpu, gpu))]
        for what, paper, find in claims
    ]
    table = markdown(["claim", "paper (GPU, 2016)", "this CPU", "GPU"], rows, words=1)
    ends = NO_GPU if gpu is None else gpu.warning
    return f"{table}\n\n{ends}" if ends else table


def _fewer(measured: Measured) -> str:
    """The paper's 16x: how small a batch may be before it is worse than a scan's large one."""
    scan, ours = measured.kernels[SCAN], measured.kernels[PERSISTENT]
    full = max((batch for batch in scan if batch <= FULL_BATCH), default=min(scan))
    enough = [batch for batch in ours if rate(ours, batch) >= rate(scan, full)]
    at = "" if full == FULL_BATCH else f" (a scan with {full})"
    if not enough:
        most = max(rate(ours, batch) for batch in ours) / rate(scan, full)
        return f"none: at most {percent(most)} of it{at}"
    return f"{min(enough)}: {full / min(enough):g}x fewer{at}"


def _same_work(measured: Measured, total: int, at: Cluster) -> str:
    there = step(measured.kernels[SCAN], measured.shape, total, MOST_DEVICES, at)
    if there is None:
        return NONE
    ours = measured.curve(PERSISTENT, total, at)
    enough = [point.devices for point in ours if point.seconds <= there.seconds]
    return str(min(enough)) if enough else "none is enough"


def _parts_of_peak(measured: Measured, total: int, at: Cluster) -> str:
    best, found = best_rate(measured.kernels), []
    for devices in (MOST_DEVICES, 1):
        point = step(measured.kernels[PERSISTENT], measured.shape, total, devices, at)
        part = point and measured.fraction_of_peak(best * efficiency(point, at.layers, best))
        found.append(percent(part))
    return ", ".join(found)


def ratio(measured: Measured, batch: int) -> str:
    """How many times the persistent kernel is as fast as a scan, on one device."""
    ours, scan = measured.kernels[PERSISTENT], measured.kernels[SCAN]
    if batch not in ours or batch not in scan:
        return NONE
    return f"{scan[batch].both / ours[batch].both:.2f}x"


def percent(part: float | None) -> str:
    return NONE if part is None else f"{100 * part:.3g} %"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 0) -> str:
    """A table whose first columns are words, the others numbers."""
    lines = [heads, ["---"] * words + ["---:"] * (len(heads) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
