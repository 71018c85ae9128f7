# SPDX-License-Identifier: Apache-2.0
"""A cycle model of one step of the CUDA kernels: what each part should cost, by published figures.

    python -m benchmarks.cycles            # the table of cuda/README.md
    python -m benchmarks.cycles --write    # puts it there: after a change of the plan or the model

Two numbers for a step. `predict` follows our kernels as cuda/plan.cc lays them out, part
by part, so that a measurement can say which part is not what it should be. `limit` is what is left
for a kernel that waits for nothing but the trip to the other blocks, the matrix units and the
cell's own arithmetic: none of its bandwidths is full, its blocks are never late.

Legend: B batch, H hidden, G gates, K the elements of a message. Sources: cuda/README.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu_layout import H100, TILE_ROWS, Chip, Layout, lay_out
from benchmarks.machine import ROOT
from benchmarks.problem import DTYPES, GATES, Shape

README = ROOT / "cuda" / "README.md"


def cell_cycles(cell: str, dtype: str, backward: bool, chip: Chip = H100) -> float:
    """The longest chain of a cell's own arithmetic, from the product to the values to be sent."""
    precise = 60 if dtype == "float32" else 0  # expf and tanhf instead of the quick ones
    curve = 4 * chip.alu + 2 * chip.special + precise  # scale, ex2, add, rcp, scale
    if backward:  # the curves' values were saved, except for tanh(c)
        return {"lstm": curve + 6 * chip.alu, "gru": 8 * chip.alu, "elman": 3 * chip.alu}[cell]
    chains = {"lstm": 2 * curve + 3 * chip.alu, "gru": 2 * curve + 4 * chip.alu, "elman": curve}
    return chains[cell] + 2 * chip.alu  # the sum with x; rounding


def exchange_cycles(residency: str, chip: Chip = H100) -> float:
    """From a block's store until another has seen it."""
    if residency == "cluster":
        return chip.dsmem_trip + chip.shared_trip
    # The store's way to L2, the look that came just too early, the way back of the next one.
    return 0.5 * chip.l2_far_trip + chip.l2_far_trip + 0.5 * chip.l2_far_trip


def predict(
    shape: Shape, residency: str, backward: bool = False, chip: Chip = H100
) -> Mapping[str, float]:
    """Cycles of a step by part, of our kernels. A tile's exchange hides behind the other tiles'."""
    at, size = lay_out(shape, residency, backward), DTYPES[shape.dtype].itemsize
    warps = at.warps_m * at.warps_k
    message = at.rows * at.row_bytes  # what each block needs of a tile
    # Blocks share what L2 gives; a processor takes so much at most.
    intake = min(chip.port_bytes, chip.l2_bytes * chip.processors / at.blocks)
    weights = 2 * at.mma_tiles * 512 * warps
    streamed = at.stream_chunks * weights / intake
    in_shared = at.shared_chunks * weights / chip.shared_bytes_per_cycle
    product = max(_product(shape, at, chip), in_shared)
    exchange = exchange_cycles(residency, chip)
    if residency == "grid":
        # A warp's first loads are asked for again together: one early look for all of them.
        # The loads after those are asked for while what came before is multiplied. Each is the
        # first of its line since that was written: some come from the far half of L2.
        groups = math.ceil(at.warp_chunks / at.loads)
        hidden = at.loads * product / at.warp_chunks
        trips = (groups - 1) * max(0.0, chip.l2_far_trip - hidden)
        # One line, which every unit block reads, is in one slice of L2.
        hot = at.unit_blocks * min(message, chip.line_bytes) / chip.slice_bytes
        loads = max(trips, at.warps_m * message / intake, hot)
    else:
        # To every block by 16 bytes; each warp reads all 8 rows, whether in the batch or not.
        read = at.warps_m * TILE_ROWS * at.row_bytes / chip.shared_bytes_per_cycle
        loads = message / chip.dsmem_bytes + read + chip.shared_trip
    # Each warp writes its sums; the warps of a pair read all of them.
    writes = warps * at.slots * at.sums * 128 / chip.shared_bytes_per_cycle
    reads = at.warps_m * at.slots * at.sums * at.warps_k * 128 / chip.shared_bytes_per_cycle
    slots_each = math.ceil(at.slots / at.warps_k)
    adding = at.warps_k * chip.alu * slots_each + chip.shared_trip
    reduce = 0.0 if at.warps_k == 1 else writes + chip.barrier + reads + adding
    cell = slots_each * (
        cell_cycles(shape.cell, shape.dtype, backward, chip)
        + (chip.shuffle if size == 2 else 0)
        + (8 * chip.shuffle / 4 if residency == "cluster" else 0) * at.sent
    )
    busy = loads + streamed + product + reduce + cell
    # With several tiles the message of one travels while the others are worked on.
    waiting = max(0.0, exchange - (at.tiles - 1) * busy)
    parts = {
        "exchange": waiting,
        "message": at.tiles * loads,
        "streamed weights": at.tiles * streamed,
        "product": at.tiles * product,
        "sum over warps": at.tiles * reduce,
        "cell": at.tiles * cell,
    }
    return parts | {"step": sum(parts.values())}


def _product(shape: Shape, at: Layout, chip: Chip) -> float:
    """One tile's multiplying in a block: by the chain of one warp's sums, or by the units' rate."""
    warps = at.warps_m * at.warps_k
    if shape.dtype == "float32":
        each = at.rows * 4 * 2 * at.mma_tiles * 32  # multiply-adds of a warp and chunk
        staging = at.rows * 512 / chip.shared_bytes_per_cycle
        return at.warp_chunks * warps * max(each / chip.fma_per_cycle, staging)
    chains = 2 if at.mma_tiles <= 2 else 1
    chain = 2 * at.warp_chunks * chip.mma_trip / chains
    issue = warps * at.warp_chunks * 2 * at.mma_tiles / chip.mma_per_cycle
    return max(chain, issue)


def limit(shape: Shape, residency: str, backward: bool = False, chip: Chip = H100) -> float:
    """Cycles of a step that nothing but one trip, the products and the cell takes time in."""
    trip = chip.l2_trip if residency == "grid" else chip.dsmem_trip
    rows = -(-shape.batch // TILE_ROWS) * TILE_ROWS
    blocks = chip.processors
    if residency == "cluster":
        clusters = min(rows // TILE_ROWS, chip.processors // chip.cluster_blocks)
        blocks = clusters * chip.cluster_blocks
    width = GATES[shape.cell] * shape.hidden
    if shape.dtype == "float32":
        product = chip.alu + shape.batch * shape.hidden * width / (blocks * chip.fma_per_cycle)
    else:
        count = rows * shape.hidden * width / (16 * 8 * 16)
        product = chip.mma_trip + count / blocks  # at the peak rate
    return trip + product + cell_cycles(shape.cell, shape.dtype, backward, chip)


def peak_flops(dtype: str, chip: Chip = H100) -> float:
    """Operations a second, multiplying and adding counted as two, at the highest clock."""
    each = chip.fma_per_cycle if dtype == "float32" else 16 * 8 * 16
    return 2 * chip.processors * chip.hertz * each


def limit_seconds(
    shape: Shape, direction: str, residencies: Mapping[str, str], chip: Chip = H100
) -> float:
    """The least time of a call: `limit` for every step, and the large products at the peak rate.

    `residencies` has that of the "forward" and of the "backward" kernel.
    """
    peak = peak_flops(shape.dtype, chip)
    t, b, h, width = shape.steps, shape.batch, shape.hidden, shape.gates * shape.hidden
    project = 2 * t * b * shape.inputs * width / peak
    chain = t * limit(shape, residencies["forward"], False, chip) / chip.hertz
    if direction == "forward":
        return chain + project
    chain += t * limit(shape, residencies["backward"], True, chip) / chip.hertz
    return chain + 3 * project + 2 * t * b * h * width / peak


CASES = (
    ("cluster", 512),
    ("grid", 512),
    ("cluster", 768),
    ("grid", 768),
    ("grid", 1024),
    ("grid", 2048),
)
BATCHES = (1, 8, 64)


def table(chip: Chip = H100) -> str:
    """Markdown: the predicted microseconds of a step, its parts in cycles, and the limit."""
    names = ("exchange", "message", "streamed weights", "product", "sum over warps", "cell")
    heads = ["LSTM bfloat16", "pass", "B", *names, "predicted µs", "limit µs"]
    rows = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for residency, hidden in CASES:
        for direction in ("forward", "backward"):
            for batch in BATCHES:
                shape = Shape("lstm", 1024, batch, hidden, hidden, "bfloat16")
                back = direction == "backward"
                try:
                    parts = predict(shape, residency, back, chip)
                except ValueError:
                    continue
                cycles = [f"{parts[name]:.0f}" for name in names]
                least = chip.microseconds(limit(shape, residency, back, chip))
                found = f"{chip.microseconds(parts['step']):.2f}"
                name = f"H={hidden}, {residency}"
                rows.append([name, direction, str(batch), *cycles, found, f"{least:.2f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write(readme: Path) -> None:
    """Replaces the table in a document."""
    text = readme.read_text()
    begin = text.index(table().splitlines()[0])
    readme.write_text(text[:begin] + table() + text[text.index("\n\n", begin) :])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write(README)
    else:
        print(table())
