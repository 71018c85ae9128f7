# SPDX-License-Identifier: Apache-2.0
"""The CPU benchmark runs end to end at a tiny shape, and its arithmetic is right."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import cpu, limits, machine, measure, memory, options, peers, plot, summary
from benchmarks.limits import Limits
from benchmarks.problem import GATES, PASSES, Shape, draw
from jax_persistent.cli import timing

LIMITS = Limits(
    threads=2,
    caches={"L1": 1000, "L2": 10_000, "L3": 100_000},
    bandwidth={"L1": 8e9, "L2": 4e9, "L3": 2e9, "memory": 1e9},
    flops={"float32": 1e12, "bfloat16": 2e12},
)


def entry(ours: list[float], rivals: dict[str, list[float]], **changes) -> dict:
    times = {peers.OURS: ours} | rivals
    shape = Shape("lstm", 5, 2, 3, 3, "float32")
    return (
        dataclasses.asdict(shape)
        | {"pass": "forward", "load": 0.1, "refused": {}, "limit_ms": 0.5}
        | {"peers": {name: measure.spread([t / 1e3 for t in ts]) for name, ts in times.items()}}
        | changes
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a run at a tiny shape leaves; only the peers that the library itself needs."""
    path = tmp_path_factory.mktemp("results") / "cpu.json"
    arguments = "--cells elman --steps 3 --batch 2 --hidden 8 --rounds 1"
    cpu.main([*arguments.split(), "--peers", "jax_persistent,flax", "--output", str(path)])
    return path


def test_run_writes_every_pass_of_every_peer(written):
    results = json.loads(written.read_text())
    assert [(e["cell"], e["pass"]) for e in results["entries"]] == [("elman", p) for p in PASSES]
    for each in results["entries"]:
        assert list(each["peers"]) == ["jax_persistent", "flax"]
        assert all(peer["median_ms"] > 0 for peer in each["peers"].values())
        assert each["limit_ms"] > 0
    assert results["machine"]["isa"] in ("avx512", "avx2", "neon", "baseline")
    assert results["machine"]["versions"]["jax"]
    assert results["refused"] == results["skipped"] == []
    assert set(results["limits"]["bandwidth"]) >= {"memory"}


def test_run_draws_a_picture_for_each_pass(written):
    for direction in PASSES:
        name = f"cpu-float32-T3-{direction.replace('+', '-')}.png"
        picture = written.with_name(name)
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_table_of_a_file(written, capsys):
    cpu.main(["--table", str(written)])
    printed = capsys.readouterr().out
    assert "| elman 3x2x8 | forward |" in printed
    assert "| elman 3x2x8 | forward+backward |" in printed
    assert "float32 forward: geometric mean" in printed
    cpu.main(["--plot", str(written)])
    assert "cpu-float32-T3-forward.png" in capsys.readouterr().out


def stored(path, entries, rivals=("flax",), **machine):
    facts = {"cpu": "a", "isa": "avx2", "commit": "c", "cores": 2, "date": "2026-01-01"}
    facts |= {"versions": {}, "load_at_start": 0.1} | machine
    results = {"machine": facts, "threads": 2, "peers": [peers.OURS, *rivals], "missing": {}}
    lists = {"entries": entries, "refused": [], "skipped": [], "memory": []}
    path.write_text(json.dumps(results | lists))
    return str(path)


def test_tables_of_several_files_are_one(tmp_path, capsys):
    small = stored(tmp_path / "small.json", [entry([1], {"flax": [2]})])
    large = entry([1], {"pytorch": [8]}, batch=4)
    large = stored(tmp_path / "large.json", [large], rivals=("pytorch",))
    cpu.main(["--table", small, large])
    printed = capsys.readouterr().out
    assert "| lstm 5x2x3 | forward | 1 | 2 | – | 2.00 (flax) | 50 % |" in printed
    assert "| lstm 5x4x3 | forward | 1 | – | 8 | 8.00 (pytorch) | 50 % |" in printed
    assert "geometric mean 4.00x the best peer" in printed
    cpu.main(["--batch", "4", "--cells", "lstm,gru", "--table", small, large])
    printed = capsys.readouterr().out
    assert "lstm 5x4x3" in printed
    assert "lstm 5x2x3" not in printed


def test_tables_of_files_that_do_not_belong_together(tmp_path):
    one = stored(tmp_path / "one.json", [entry([1], {"flax": [2]})])
    again = stored(tmp_path / "again.json", [entry([1], {"flax": [2]})])
    with pytest.raises(SystemExit, match=r"expected files of different shapes; got lstm 5x2x3 tw"):
        cpu.main(["--table", one, again])
    other = stored(tmp_path / "other.json", [entry([1], {"flax": [2]}, batch=4)], cpu="b")
    with pytest.raises(SystemExit, match="expected files with one cpu; got a, b"):
        cpu.main(["--table", one, other])


def test_missing_peers_are_named(monkeypatch):
    absent = dataclasses.replace(peers.SOURCES["pytorch"], packages=("no_such_package",))
    monkeypatch.setitem(peers.SOURCES, "pytorch", absent)
    classes, missing = peers.available(("flax", "pytorch"))
    assert list(classes) == ["flax"]
    assert missing == {"pytorch": "not installed: pip install no_such_package"}
    results = {"entries": [], "missing": missing, "refused": [], "skipped": []}
    assert summary.summary(results).startswith("missing: pytorch (not installed: pip install")


@pytest.mark.parametrize("cell", GATES)
def test_peers_compute_the_same(cell):
    """All that are installed, at sizes that differ on every axis."""
    shape = Shape(cell, 5, 3, 6, 4, "float32")
    arrays = draw(shape)
    classes, _ = peers.available(tuple(peers.SOURCES))
    made = {name: peer_class(shape, arrays, 1) for name, peer_class in classes.items()}
    measure.check(shape, arrays, made, classes["flax"], 1)


def test_a_peer_that_differs_is_not_timed():
    shape = Shape("gru", 5, 3, 6, 4, "float32")
    arrays = draw(shape)
    flax = peers.SOURCES["flax"].load()
    swapped = arrays._replace(bias=np.roll(arrays.bias, shape.hidden))
    wrong = {"flax": flax(shape, swapped, 1)}
    with pytest.raises(
        measure.Disagreement, match=r"gru 5x3x6 I=4 float32: flax is not the reference: outp"
    ):
        measure.check(shape, arrays, wrong, flax, 1)


def test_disagreement_names_the_array():
    good = {"outputs": np.ones((2, 3)), "x": np.ones(4)}
    assert peers.disagreement(good, good, "float32") is None
    found = peers.disagreement(good, good | {"x": np.full(4, 1.01)}, "float32")
    assert found == "x: expected a relative error of at most 0.001; got 0.01"
    assert peers.disagreement(good, good | {"x": np.full(4, np.nan)}, "float32") is not None
    assert "expected shape (4,)" in str(peers.disagreement(good, {"x": np.ones(5)}, "float32"))


def test_rounds_rotate_and_stop_in_time(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0)
    order, now = [], [0.0]

    def call(name):
        def run():
            order.append(name)
            now[0] += 1.0

        return run

    calls = {name: call(name) for name in "abc"}
    times = timing.round_robin(calls, 10, 5.0, clock=lambda: now[0])
    assert "".join(order) == "abcbcacab"  # three rounds at least, though they took nine seconds
    assert times == {name: [1.0] * 3 for name in "abc"}


def test_a_hopeless_peer_has_one_round(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0)
    now = [0.0]

    def call(seconds):
        return lambda: now.__setitem__(0, now[0] + seconds)

    calls = {"fast": call(0.125), "slow": call(2.0), "hopeless": call(3.0)}
    times = timing.round_robin(calls, 4, 1e9, clock=lambda: now[0])
    assert {name: len(rounds) for name, rounds in times.items()} == {
        "fast": 4,
        "slow": 4,
        "hopeless": 1,
    }


def test_short_calls_are_repeated():
    now, durations = [0.0], iter([0.004, *[0.001, 0.003, 0.002] * 9])

    def call():
        now[0] += next(durations)

    assert timing.turn(call, clock=lambda: now[0]) == pytest.approx(0.002)
    assert len(list(durations)) == 27 - 5  # 20 ms of calls as long as the first


def test_ratio_is_the_median_of_the_rounds_own():
    both = entry([1.0, 2.0, 4.0], {"flax": [9.0, 9.0, 9.0], "pytorch": [3.0, 4.0, 4.0]})
    assert summary.best_rival(both) == "pytorch"
    assert summary.ratio(both) == pytest.approx(2.0)
    assert summary.fraction_of_limit(both) == pytest.approx(0.25)
    assert summary.ratio(entry([1.0], {})) is None


def test_geometric_mean():
    assert summary.geometric_mean([1.0, 2.0, 4.0]) == pytest.approx(2.0)
    assert summary.geometric_mean([0.5]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="expected at least one value"):
        summary.geometric_mean([])


def test_summary_counts_the_slower_shapes():
    entries = [
        entry([1.0], {"flax": [4.0]}),
        entry([1.0], {"flax": [0.96]}),  # counts as equal
        entry([1.0], {"flax": [0.5]}, batch=16),
    ]
    lines = summary.summary({"entries": entries, "missing": {}, "refused": [], "skipped": ["one"]})
    assert lines.splitlines() == [
        "float32 forward: geometric mean 1.24x the best peer, 1.96x for B<=4; "
        "slower at 1 of 3 shapes",
        "  lstm 5x16x3: 0.50 of flax, 50 % of the limit",
        "out of time: 1 shapes were left out",
    ]


def test_bfloat16_is_compared_with_our_own_float32():
    pair = [entry([t], {}, hidden=512, dtype=d) for t, d in ((3.0, "float32"), (1.0, "bfloat16"))]
    lines = summary.summary({"entries": pair, "missing": {}, "refused": [], "skipped": []})
    assert lines == "bfloat16 over our own float32 at B<=4, H>=512: 3.00x"


def test_the_layer_is_compared_with_the_function():
    entries = [
        entry([2.0], {peers.OUR_LAYER: [2.0]}),
        entry([2.0], {peers.OUR_LAYER: [4.5]}, batch=4),
        entry([2.0], {}, batch=8),
    ]
    lines = summary.summary({"entries": entries, "missing": {}, "refused": [], "skipped": []})
    expected = "the layer takes 1.50x the function's time, at most 2.25x (lstm 5x4x3 forward)"
    assert lines == expected


@pytest.mark.parametrize(
    ("weight_bytes", "level"),
    [(2000, "L1"), (2001, "L2"), (20_000, "L2"), (20_001, "L3"), (100_001, "memory")],
)
def test_resident_level_by_each_cores_share(weight_bytes, level):
    assert limits.resident_level(weight_bytes, LIMITS) == level


def test_limit_of_a_shape_bound_by_reading():
    # 4 * 10 * 10 weights of 4 bytes from L1: 0.2 us a step; projection 2*7*1*3*40 flops.
    shape = Shape("lstm", 7, 1, 10, 3, "float32")
    read, project = 7 * 1600 / 8e9, 1680 / 1e12
    assert limits.limit_seconds(shape, "forward", LIMITS) == pytest.approx(read + project)
    backward = 2 * read + 3 * project + 2 * 7 * 10 * 40 / 1e12
    assert limits.limit_seconds(shape, "forward+backward", LIMITS) == pytest.approx(backward)


def test_reading_what_fills_a_cache_takes_what_was_measured():
    around = dataclasses.replace(LIMITS, around_l2=[(5_000, 4e9), (10_000, 2e9), (20_000, 1e9)])
    # Both cores' shares, at a measured size and between two; outside them, by level as ever.
    assert limits.read_seconds(20_000, around) == pytest.approx(20_000 / 2e9)
    assert limits.read_seconds(30_000, around) == pytest.approx((10e-6 + 40e-6) / 2)
    assert limits.read_seconds(9_000, around) == pytest.approx(9_000 / 4e9)
    assert limits.read_seconds(50_000, around) == pytest.approx(50_000 / 2e9)


def test_limit_of_a_shape_bound_by_arithmetic():
    shape = Shape("gru", 7, 5000, 10, 3, "bfloat16")
    chain, project = 7 * 2 * 5000 * 10 * 30 / 2e12, 2 * 7 * 5000 * 3 * 30 / 2e12
    assert limits.limit_seconds(shape, "forward", LIMITS) == pytest.approx(chain + project)


def test_buffers_lie_in_their_level():
    sizes = limits.buffers(2, {"L1": 32 << 10, "L2": 512 << 10, "L3": 32 << 20})
    assert sizes == {"L1": 16 << 10, "L2": 256 << 10, "L3": 8 << 20, "memory": 64 << 20}
    assert limits.buffers(2, {}) == {"memory": 32 << 20}


def test_no_compiler_is_said(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="looked for no-such-compiler"):
        limits.measure(1, {})


def test_picture_without_limit_or_rival(tmp_path):
    facts = machine.describe("avx2")
    alone = entry([1.0, 2.0], {}, limit_ms=None)
    results = {"entries": [alone], "peers": [peers.OURS], "machine": facts, "threads": 1}
    (path,) = plot.plot(results, tmp_path / "r")
    assert path.name == "r-float32-T5-forward.png"
    assert path.stat().st_size > 1000


def test_memory_of_a_call_has_its_outputs():
    shape = Shape("elman", 6, 64, 256, 8, "float32")
    found = memory.measure("jax_persistent", shape, "forward", 1)
    assert found["output_bytes"] == 6 * 64 * 256 * 4
    assert found["peak_bytes"] >= found["output_bytes"]
    rows = [{"shape": "elman", "pass": "forward", "peak": {"jax_persistent": found}}]
    assert "(temporary " in memory.table(rows)


def test_options_ask_for_shapes():
    asked = options.shapes(options.parse(["--cells", "gru", "--steps", "7", "--hidden", "5,6"]))
    assert [str(shape) for shape in asked] == [
        f"gru 7x{batch}x{hidden}" for hidden in (5, 6) for batch in (1, 4, 16, 64)
    ]
    assert len(options.shapes(options.parse(["--full"]))) == 3 * 3 * 7 * 8


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--cells=lstm,rnn", "got 'rnn'"), ("--batch=0", "expected at least 1"), ("--peers=", "of")],
)
def test_wrong_options_are_named(argument, message, capsys):
    with pytest.raises(SystemExit):
        options.parse([argument])
    assert message in capsys.readouterr().err


def test_threads_must_come_before_jax():
    with pytest.raises(RuntimeError, match="expected jax not to be imported yet"):
        cpu.run(options.parse(["--threads", "1"]))


def test_too_many_threads():
    with pytest.raises(ValueError, match=r"expected 1 to .* got 1000000"):
        machine.limit_cores(1_000_000)
