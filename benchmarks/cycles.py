"""A cycle model of one step of the CUDA kernels: what each part should cost, by published figures.

    python -m benchmarks.cycles        # the table of cuda/README.md

Two numbers for a step. `predict` follows our kernels as native/plan/gpu_plan.cc lays them out, part
by part, so that a measurement can say which part is not what it should be. `limit` is what is left
for a kernel that waits for nothing but the trip to the other blocks, the matrix units and the
cell's own arithmetic: none of its bandwidths is full, its blocks are never late.

Legend: B batch, H hidden, G gates, K the elements of a message. Sources: cuda/README.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.problem import DTYPES, GATES, Shape

TILE_ROWS, CHUNK_BYTES, MOST_WARPS, MOST_TILES = 8, 64, 8, 16
LOADS_AHEAD = {2: 4, 4: 2}  # chunks in flight of a warp, by the bytes of an element
STATES = {"lstm": 2, "gru": 1, "elman": 1}


@dataclass(frozen=True)
class Chip:
    """Cycles, unless said otherwise. The defaults are the H100's and the H200's (SXM)."""

    hertz: float = 1.98e9  # the highest clock: no kernel of this kind is held back by power
    processors: int = 132
    cluster_blocks: int = 16
    shared_bytes: int = 227 << 10
    l2_trip: float = 263  # a load that hits L2, on average
    l2_far_trip: float = 414  # the same in the half of L2 that other processors are near to
    l2_bytes: float = 34.6  # a cycle, of one processor
    dsmem_trip: float = 180
    dsmem_bytes: float = 13.2  # a cycle, of one processor
    shared_trip: float = 29
    shared_bytes_per_cycle: float = 128
    barrier: float = 30
    mma_trip: float = 33  # m16n8k16, sums in float32
    mma_per_cycle: float = 0.629  # of one processor; 1 is the peak, which only wgmma comes near
    fma_per_cycle: float = 128  # of one processor
    alu: float = 4  # an ordinary instruction, before its result can be used
    special: float = 20  # ex2, rcp
    shuffle: float = 23

    def microseconds(self, cycles: float) -> float:
        return 1e6 * cycles / self.hertz


H100 = Chip()


@dataclass(frozen=True)
class Layout:
    """What native/plan/gpu_plan.cc decides, as far as it has a cost."""

    residency: str  # "grid" or "cluster"
    blocks: int  # of a team, which hold the weights once
    warps_m: int  # unit blocks of a block
    warps_k: int  # warps that share a unit block's K
    warp_chunks: int  # of a warp: 64 bytes of each row
    shared_chunks: int  # of those, whose weights are in shared memory
    stream_chunks: int  # and, read at every step, in L2
    tiles: int  # of 8 rows, that a team works on one after the other
    rows: int  # in use in a tile
    row_bytes: int  # of a message
    mma_tiles: int  # of 16 rows, that a warp multiplies
    slots: int  # (unit, row) pairs of a lane
    sums: int  # of a pair: its gates forward, one backward
    sent: int  # elements a pair sends


def lay_out(shape: Shape, residency: str, backward: bool = False, chip: Chip = H100) -> Layout:
    """The layout of a shape in "grid" or "cluster" residency.

    Raises:
      ValueError: a cluster doesn't hold the weights.
    """
    gates, size = GATES[shape.cell], DTYPES[shape.dtype].itemsize
    rows_of_unit, halves, segments = (1, 2, gates) if backward else (gates, 1 + (gates < 4), 1)
    slots, mma_tiles = 2 * halves, rows_of_unit * halves // 2
    in_registers = (14 if size == 4 else 16) if backward else {1: 16, 3: 4, 4: 8}[gates]
    unit_blocks = -(-shape.hidden // (8 * halves))
    if residency == "cluster":
        row_bytes = segments * unit_blocks * 8 * halves * size
    else:
        row_bytes = segments * -(-shape.hidden * size // 16) * 16
    chunks = -(-row_bytes // CHUNK_BYTES)
    most = chip.cluster_blocks if residency == "cluster" else chip.processors
    sizes = [2**n for n in range(most.bit_length())] if residency == "cluster" else [most]
    best = None
    for blocks in sizes:
        warps_m = -(-unit_blocks // blocks)
        if warps_m > MOST_WARPS:
            continue
        warps_k = min(MOST_WARPS // warps_m, chunks)
        warp_chunks = -(-chunks // warps_k)
        used = -(-unit_blocks // warps_m)
        all_tiles = -(-shape.batch // TILE_ROWS)
        team = blocks if residency == "cluster" else used
        teams = max(1, min(chip.processors // team, all_tiles))
        tiles = min(-(-all_tiles // teams), MOST_TILES)
        beyond = max(0, warp_chunks - in_registers)
        chunk_bytes = warps_m * warps_k * 2 * mma_tiles * 512
        while True:  # fewer tiles leave more room for weights
            lane_floats = 2 * warps_m * warps_k * slots * rows_of_unit
            lane_floats += tiles * warps_m * slots * STATES[shape.cell]
            stage = warps_m * warps_k * 1024 if size == 4 else 0
            pitch = (chunks | 1) * CHUNK_BYTES if residency == "cluster" else 0
            barriers = 128 * -(-tiles // 8) if residency == "cluster" else 0
            taken = 128 * lane_floats + stage + tiles * 2 * TILE_ROWS * pitch + barriers
            fitting = max(0, (chip.shared_bytes - taken) // chunk_bytes)
            streamed = max(0, beyond - fitting)
            if streamed == 0 or tiles == 1 or residency == "grid":
                break
            tiles = (tiles + 1) // 2
        if residency == "cluster" and streamed:
            continue
        best = Layout(
            residency=residency,
            blocks=used,
            warps_m=warps_m,
            warps_k=warps_k,
            warp_chunks=warp_chunks,
            shared_chunks=beyond - streamed,
            stream_chunks=streamed,
            tiles=tiles,
            rows=min(shape.batch, TILE_ROWS),
            row_bytes=row_bytes,
            mma_tiles=mma_tiles,
            slots=slots,
            sums=rows_of_unit,
            sent=gates if backward else 1,
        )
        if beyond == 0:
            break
    if best is None:
        raise ValueError(
            f"{residency}: {most} blocks don't hold the {shape.dtype} weights of {shape.cell}, "
            f"H={shape.hidden}; ask for the grid"
        )
    return best


def cell_cycles(cell: str, dtype: str, backward: bool, chip: Chip = H100) -> float:
    """The longest chain of a cell's own arithmetic, from the product to the values to be sent."""
    precise = 60 if dtype == "float32" else 0  # expf and tanhf instead of the quick ones
    curve = 4 * chip.alu + 2 * chip.special + precise  # scale, ex2, add, rcp, scale
    if backward:  # the curves' values were saved, except for tanh(c)
        return {"lstm": curve + 6 * chip.alu, "gru": 8 * chip.alu, "elman": 3 * chip.alu}[cell]
    chains = {"lstm": 2 * curve + 3 * chip.alu, "gru": 2 * curve + 4 * chip.alu, "elman": curve}
    return chains[cell] + 2 * chip.alu  # the sum with x; rounding


def predict(
    shape: Shape, residency: str, backward: bool = False, chip: Chip = H100
) -> Mapping[str, float]:
    """Cycles of a step by part, of our kernels. A tile's exchange hides behind the other tiles'."""
    at, size = lay_out(shape, residency, backward, chip), DTYPES[shape.dtype].itemsize
    warps = at.warps_m * at.warps_k
    message = at.rows * at.row_bytes  # what each block needs of a tile
    if residency == "grid":
        # A store's way to L2, the look that came just too early, the way back of the next one.
        exchange = 0.5 * chip.l2_far_trip + chip.l2_far_trip + 0.5 * chip.l2_far_trip
        groups = math.ceil(at.warp_chunks / LOADS_AHEAD[size])
        loads = max(
            (groups - 1) * chip.l2_trip,
            at.warps_m * message / chip.l2_bytes,
        )
    else:
        # All rows of a tile are sent, whether in the batch or not, by 16 bytes to every block.
        exchange = chip.dsmem_trip + chip.shared_trip
        sent = TILE_ROWS * at.row_bytes
        read = at.warps_m * TILE_ROWS * at.row_bytes / chip.shared_bytes_per_cycle
        loads = sent / chip.dsmem_bytes + read + chip.shared_trip
    weights = 2 * at.mma_tiles * 512 * warps
    streamed = at.stream_chunks * weights / chip.l2_bytes
    in_shared = at.shared_chunks * weights / chip.shared_bytes_per_cycle
    product = max(_product(shape, at, chip), in_shared)
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
    chains = 2 if at.mma_tiles == 1 else 1
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


def limit_seconds(shape: Shape, direction: str, residency: str, chip: Chip = H100) -> float:
    """The least time of a call: `limit` for every step, and the large products at the peak rate."""
    peak = 2 * chip.processors * chip.hertz
    peak *= chip.fma_per_cycle if shape.dtype == "float32" else 16 * 8 * 16
    t, b, h, width = shape.steps, shape.batch, shape.hidden, shape.gates * shape.hidden
    project = 2 * t * b * shape.inputs * width / peak
    chain = t * limit(shape, residency, False, chip) / chip.hertz
    if direction == "forward":
        return chain + project
    chain += t * limit(shape, residency, True, chip) / chip.hertz
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


if __name__ == "__main__":
    print(table())
