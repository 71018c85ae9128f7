# SPDX-License-Identifier: Apache-2.0
"""A GPU's figures, and how the planner lays a shape over it, as far as that has a cost."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.problem import DTYPES, GATES, Shape
from jax_persistent.cells import CELLS
from jax_persistent.ffi.registration import native_module
from jax_persistent.problem import Problem

TILE_ROWS = 8
ARCHITECTURE = "90"


@dataclass(frozen=True)
class Chip:
    """Cycles, unless said otherwise. The defaults are the H100's and the H200's (SXM)."""

    hertz: float = 1.98e9  # the highest clock: no kernel of this kind is held back by power
    processors: int = 132
    cluster_blocks: int = 16
    shared_bytes: int = 227 << 10
    l2_trip: float = 263  # a load that hits L2, on average
    l2_far_trip: float = 414  # the same in the half of L2 that other processors are near to
    l2_bytes: float = 34.6  # a cycle, of one processor where all of them load
    port_bytes: float = 64  # the same where few do: assumed, the width of its port
    line_bytes: float = 128
    slice_bytes: float = 64  # a cycle, of the part of L2 that has a line: assumed
    dsmem_trip: float = 180
    dsmem_bytes: float = 13.2  # a cycle, of one processor
    shared_trip: float = 29
    shared_bytes_per_cycle: float = 128
    barrier: float = 30
    mma_trip: float = 33  # m16n8k16, sums in float32: assumed
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
    """Of one pass."""

    residency: str  # "grid" or "cluster"
    blocks: int  # at work at once, of all teams
    unit_blocks: int  # of a team: so many warps read a part of a message
    loads: int  # of a message, that a warp has in flight: 64 bytes of each row
    cut: int  # blocks of a cluster that share a unit block's K
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


def lay_out(shape: Shape, residency: str, backward: bool = False) -> Layout:
    """The planner's layout of a shape on an H100, in "grid" or "cluster" residency.

    Raises:
      ValueError: there is none; says why.
    """
    native, gates = native_module(), GATES[shape.cell]
    cell = CELLS["elman_tanh" if shape.cell == "elman" else shape.cell]
    pass_ = "backward" if backward else "forward"
    kept = {"residuals"} if cell.residuals else set()
    parts = kept | ({"d_gates"} if backward else {"input_gates"})
    if backward and cell.reset_after:
        parts.add("d_recurrent_gates")
    problem = Problem(
        pass_, cell, 1, shape.batch, shape.steps, 1, shape.hidden, shape.dtype
    ).having(pass_, parts)
    plan = native.plan(
        "CUDA",
        problem.encoded() | {"pass": pass_},
        native.architecture_facts("CUDA", ARCHITECTURE),
        {"exchange": residency},
    )
    if not plan["runs"]:
        raise ValueError(f"{shape} {shape.dtype}, {residency}: {plan['explanation']}")
    # Four gates fill two tiles of 16 rows with 8 units; otherwise 16 units fill one tile a gate.
    sums, eights, segments = (1, 2, gates) if backward else (gates, 1 if gates == 4 else 2, 1)
    eights *= plan["width"]
    at_once = min(plan["teams"], H100.processors // plan["workers"])
    return Layout(
        residency=residency,
        blocks=at_once * plan["workers"],
        unit_blocks=-(-shape.hidden // (8 * eights)),
        loads=4 if plan["width"] > 1 or (shape.dtype == "float32" and not backward) else 8,
        cut=plan["cut"],
        warps_m=plan["warps_for_units"],
        warps_k=plan["warps_for_depth"],
        warp_chunks=plan["chunks"],
        shared_chunks=plan["shared_chunks"],
        stream_chunks=plan["streamed_chunks"],
        tiles=plan["tiles_per_team"],
        rows=min(shape.batch, TILE_ROWS),
        row_bytes=segments * shape.hidden * DTYPES[shape.dtype].itemsize,
        mma_tiles=sums * eights // 2,
        slots=2 * eights,
        sums=sums,
        sent=segments,
    )
