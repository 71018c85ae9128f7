# SPDX-License-Identifier: Apache-2.0
"""The cycle model: its layouts are the planner's, its parts add up, its arithmetic is by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from benchmarks import cycles
from benchmarks.cycles import limit, limit_seconds, predict
from benchmarks.gpu_layout import H100, Layout, lay_out
from benchmarks.problem import GATES, Shape


def test_what_a_cluster_cannot_hold():
    shape = Shape("lstm", 1024, 1, 2048, 2048, "bfloat16")
    with pytest.raises(
        ValueError, match=r"lstm 1024x1x2048 bfloat16, cluster: a cluster of 16 blo"
    ):
        lay_out(shape, "cluster")


@pytest.mark.parametrize(
    ("cell", "backward", "expected"),
    [("lstm", False, (2, 2, 4, 1)), ("gru", False, (3, 4, 3, 1)), ("gru", True, (1, 4, 1, 3))],
)
def test_what_a_lane_has(cell, backward, expected):
    at = lay_out(Shape(cell, 9, 5, 96, 96, "float16"), "grid", backward)
    assert (at.mma_tiles, at.slots, at.sums, at.sent) == expected
    assert at.row_bytes == at.sent * 96 * 2
    assert at.rows == 5


def test_parts_add_up():
    for residency, batch in product(("grid", "cluster"), (1, 8, 64)):
        parts = predict(Shape("lstm", 9, batch, 512, 512, "bfloat16"), residency)
        assert sum(parts.values()) == pytest.approx(2 * parts["step"])
        assert all(value >= 0 for value in parts.values())
        assert parts["step"] > limit(Shape("lstm", 9, batch, 512, 512, "bfloat16"), residency)


def test_a_grid_step_by_hand():
    """LSTM, H=1024, B=1: 128 blocks of 8 warps, each with 4 chunks of K and two tiles of rows."""
    shape = Shape("lstm", 1024, 1, 1024, 1024, "bfloat16")
    assert lay_out(shape, "grid") == Layout(
        residency="grid",
        blocks=128,
        unit_blocks=128,
        loads=8,
        cut=1,
        warps_m=1,
        warps_k=8,
        warp_chunks=4,
        shared_chunks=0,
        stream_chunks=0,
        tiles=1,
        rows=1,
        row_bytes=2048,
        mma_tiles=2,
        slots=2,
        sums=4,
        sent=1,
    )
    parts = predict(shape, "grid")
    assert parts["exchange"] == pytest.approx(2 * H100.l2_far_trip)
    # One row of 2 KiB: each block takes it in sooner than 128 blocks are served with one line.
    assert parts["message"] == pytest.approx(128 * 128 / H100.slice_bytes)
    eight = predict(replace(shape, batch=8), "grid")
    assert eight["message"] == pytest.approx(8 * 2048 / (H100.l2_bytes * 132 / 128))
    assert parts["product"] == pytest.approx(128 / H100.mma_per_cycle)  # 8 warps x 4 x 2 x 2
    assert parts["streamed weights"] == 0


def test_a_step_whose_k_is_cut_by_hand():
    """LSTM backward, H=1024, B=8: pairs of blocks share 32 units, and the message."""
    shape = Shape("lstm", 1024, 8, 1024, 1024, "bfloat16")
    at = lay_out(shape, "grid", True)
    assert (at.cut, at.blocks, at.unit_blocks, at.slots) == (2, 64, 32, 8)
    parts = predict(shape, "grid", True)
    assert parts["message"] == pytest.approx(8 * 4 * 1024 / H100.port_bytes)
    # One warp adds up the eight warps' sums of the other block's 16 units, four a lane.
    sending = 8 * H100.alu + H100.shared_trip + 512 / H100.dsmem_bytes + H100.dsmem_trip
    assert parts["sum over blocks"] == pytest.approx(sending + 2 * H100.alu + H100.shared_trip)
    assert predict(replace(shape, batch=1), "grid", True)["sum over blocks"] == 0


def test_a_cluster_step_by_hand():
    """LSTM, H=512: the rows there are travel, all 8 of a tile are read by the four unit blocks."""
    parts = predict(Shape("lstm", 1024, 3, 512, 512, "bfloat16"), "cluster")
    assert parts["exchange"] == pytest.approx(H100.dsmem_trip + H100.shared_trip)
    read = 4 * 8 * 1024 / H100.shared_bytes_per_cycle
    assert parts["message"] == pytest.approx(3 * 1024 / H100.dsmem_bytes + read + H100.shared_trip)
    assert parts["product"] == pytest.approx(256 / H100.mma_per_cycle)


def test_a_long_chain_is_waited_for():
    """GRU backward, H=512: one tile of rows, whose two sums wait for each other's 33 cycles."""
    shape = Shape("gru", 1024, 1, 512, 512, "bfloat16")
    at = lay_out(shape, "grid", True)
    assert at.mma_tiles == 1
    chain = at.warp_chunks * H100.mma_trip
    assert predict(shape, "grid", True)["product"] == pytest.approx(chain)


def test_few_blocks_are_held_back_by_their_own_port():
    parts = predict(Shape("lstm", 9, 8, 512, 512, "bfloat16"), "grid", True)  # 32 blocks
    assert parts["message"] == pytest.approx(8 * 4 * 1024 / H100.port_bytes)


def test_loads_after_the_first_eight_wait_for_a_trip():
    """LSTM backward, H=1024: 16 chunks a warp, the second eight asked for with the first."""
    parts = predict(Shape("lstm", 9, 1, 1024, 1024, "bfloat16"), "grid", True)
    assert parts["message"] == pytest.approx(H100.l2_far_trip - parts["product"] / 2)


def test_other_tiles_hide_the_exchange():
    alone = predict(Shape("lstm", 9, 8, 2048, 2048, "bfloat16"), "grid")
    together = predict(Shape("lstm", 9, 64, 2048, 2048, "bfloat16"), "grid")
    assert together["exchange"] == 0
    busy = alone["step"] - alone["exchange"]
    assert together["step"] == pytest.approx(8 * busy)


def test_polled_together_as_simulated():
    """A simulation of 128 blocks by latencies alone, without queues: 0.69 and 0.93 µs a step."""
    shape = Shape("lstm", 9, 1, 1024, 1024, "bfloat16")
    for backward, microseconds in ((False, 0.69), (True, 0.93)):
        parts = predict(shape, "grid", backward)
        queueing = 128 * 128 / H100.slice_bytes if not backward else 0
        assert H100.microseconds(parts["step"] - queueing) == pytest.approx(microseconds, rel=0.06)


def test_streamed_weights_cost():
    shape = Shape("lstm", 9, 4, 1536, 1536, "float32")
    at = lay_out(shape, "grid")
    assert at.stream_chunks > 0
    weights = at.stream_chunks * at.warps_m * at.warps_k * 2 * at.mma_tiles * 512
    intake = H100.l2_bytes * H100.processors / at.blocks
    assert predict(shape, "grid")["streamed weights"] == pytest.approx(weights / intake)


def test_limit_by_hand():
    shape = Shape("lstm", 1024, 5, 1024, 512, "bfloat16")
    chip = replace(H100, processors=100, cluster_blocks=10)
    cell = cycles.cell_cycles("lstm", "bfloat16", False, chip)
    issue = 8 * 1024 * 4096 / (16 * 8 * 16) / 100  # five rows take a tile of eight
    expected = H100.l2_trip + H100.mma_trip + issue + cell
    assert limit(shape, "grid", False, chip) == pytest.approx(expected)
    on_ten = H100.dsmem_trip + H100.mma_trip + 10 * issue + cell
    assert limit(shape, "cluster", False, chip) == pytest.approx(on_ten)


def test_limit_of_a_call():
    shape = Shape("gru", 10, 3, 256, 128, "float32")
    peak = 2 * H100.processors * H100.fma_per_cycle * H100.hertz
    project, recurrent = (2 * 10 * 3 * inputs * 768 / peak for inputs in (128, 256))
    at = {"forward": "cluster", "backward": "grid"}
    steps = [10 * limit(shape, at[name], name == "backward") / H100.hertz for name in at]
    forward = limit_seconds(shape, "forward", at)
    assert forward == pytest.approx(steps[0] + project)
    both = limit_seconds(shape, "forward+backward", at)
    assert both == pytest.approx(sum(steps) + 3 * project + recurrent)


def test_a_float32_cell_is_slower_than_a_quick_one():
    for cell in GATES:
        slow, quick = (cycles.cell_cycles(cell, d, False) for d in ("float32", "bfloat16"))
        assert slow > quick


def test_readme_has_the_table_as_it_is():
    assert cycles.table() in cycles.README.read_text(), "run python -m benchmarks.cycles --write"


def test_the_table_is_replaced(tmp_path):
    readme = tmp_path / "README.md"
    heads = cycles.table().splitlines()[0]
    readme.write_text(f"before\n\n{heads}\n| old |\n\nafter\n")
    cycles.write(readme)
    assert readme.read_text() == f"before\n\n{cycles.table()}\n\nafter\n"
