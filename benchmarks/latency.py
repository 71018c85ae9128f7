# SPDX-License-Identifier: Apache-2.0
"""Times the doubtful figures of cycles.py's model on a GPU; latency.cu has the kernels.

python -m benchmarks.latency --output latency.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.cuda_driver import Gpu
from benchmarks.cycles import exchange_cycles
from benchmarks.gpu_layout import H100

BARRIERS, LARGEST = 128, 1024  # bytes: of arrival's barriers, of a block's messages to another


class Case(NamedTuple):
    what: str
    assumed: float  # cycles
    kernel: str
    blocks: int
    threads: int = 32
    waits: int = 1  # of a step
    messages: int = 0  # of 16 bytes, from each block of a cluster to each

    @property
    def cluster_bytes(self) -> int:
        return BARRIERS + 2 * self.blocks * LARGEST if self.messages else 0


def cases(processors: int) -> list[Case]:
    seen, arrived = exchange_cycles("grid"), exchange_cycles("cluster")
    pollers = f"store to poll, {8 * processors} pollers"
    found = [
        Case("store to poll, 1 poller", seen, "trip", 2, waits=2),
        Case(pollers, seen, "trip", processors, 256, waits=2),
    ]
    for size in (16, LARGEST):
        for blocks in (4, 16):
            what = f"st.async to arrival, {size} bytes from each of {blocks} blocks"
            assumed = arrived + blocks * size / H100.dsmem_bytes
            found.append(Case(what, assumed, "arrival", blocks, 256, messages=size // 16))
    for n in (1, 4, 8):  # and two instructions after the other for what each has brought
        assumed = H100.l2_far_trip + 2 * n * H100.alu
        found.append(Case(f"{n} loads from L2 at once", assumed, f"load_{n}", 1))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    gpu = Gpu(Path(__file__).with_suffix(".cu"), (options.steps // 4 + 2) * 16384)
    rows, failures = [], 0
    for case in cases(gpu.processors):
        sizes = (case.kernel, case.blocks, case.threads, options.steps, case.messages)
        row = {"what": case.what, "assumed": round(case.assumed)}
        try:
            found = [
                gpu.run(*sizes, cluster_bytes=case.cluster_bytes) for _ in range(options.repeats)
            ]
            if min(found) < 0:
                raise RuntimeError("a value did not come in time")
            row["measured"] = round(statistics.median(found) / options.steps / case.waits)
            print(f"{case.what}: {row['measured']} cycles, assumed {row['assumed']}")
        except RuntimeError as error:
            print(f"{case.what}: {error}")
            row["error"], failures = str(error), failures + 1
        rows.append(row)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
