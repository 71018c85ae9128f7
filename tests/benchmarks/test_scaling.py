# SPDX-License-Identifier: Apache-2.0
"""The scaling program end to end at tiny sizes, and its claims against sums done by hand."""

from __future__ import annotations

import json
import shutil

import pytest

from benchmarks import cpu, gpu, limits, peers, scaling, scaling_virtual
from benchmarks.limits import Limits
from benchmarks.measure import compare, results_of
from benchmarks.problem import Shape, draw
from benchmarks.scaling_claims import claims_table
from benchmarks.scaling_measured import Measured, find_gpu, of_gpu
from benchmarks.scaling_model import LINKS, Cluster, Link, Times
from benchmarks.scaling_options import cluster, parse
from benchmarks.scaling_summary import scaling_table

NO_LINK = Link(0.0, float("inf"), None, "none")


def measured(**changes) -> Measured:
    """One on which the paper's claims come true by a hair."""
    kernels = {
        "persistent": {4: Times(0.0625, 0.0625), 64: Times(0.5, 0.5)},
        "scan": {4: Times(0.5, 0.5), 64: Times(1.0, 1.0)},
    }
    shape = Shape("elman", 5, 4, 6, 4, "float32")  # 1800 operations a sequence
    return Measured("name", "", shape, kernels | changes, 1800 * 128.0)


def claims(half: Measured | None) -> list[list[str]]:
    table = claims_table(half, None, Cluster(3, NO_LINK, "ring"))
    assert table.endswith("No GPU has been measured: no figure.")
    rows = [line.split(" | ")[1:] for line in table.splitlines()[2:6]]
    return [[cell.strip("| ") for cell in row] for row in rows]


def test_claims_beside_the_papers():
    assert claims(measured()) == [
        ["4: 16x fewer", "4: 16x fewer", "–"],
        ["8", "8", "–"],
        ["28 %, 31 %", "25 %, 50 %", "–"],
        ["30x", "8.00x", "–"],
    ]
    assert {row[1] for row in claims(None)} == {"–"}


def test_claims_that_fail_say_how():
    slow = {4: Times(0.5, 0.5), 32: Times(1.0, 1.0)}
    found = claims(measured(persistent=slow, scan={4: Times(0.2, 0.2), 32: Times(0.5, 0.5)}))
    assert found[0][1] == "none: at most 50 % of it (a scan with 32)"
    assert found[1][1] == "none is enough"
    assert found[3][1] == "0.40x"


def test_table_says_where_a_curve_ends():
    text = scaling_table(measured(), 32, Cluster(3, LINKS["nvlink4"], "faster"))
    assert [line.split(" | ")[0] for line in text.splitlines()[4:8]] == [
        f"| {devices}" for devices in (1, 2, 4, 8)
    ]
    assert "32 sequences don't split over more than 32 devices." in text
    assert "This link connects no more than 8 devices." in text


def test_a_link_by_hand():
    at = cluster(parse(["--link", "fdr", "--latency", "2", "--layers", "5"]))
    assert at.layers == 5
    assert (at.link.latency, at.link.bandwidth) == (pytest.approx(2e-6), 6.8e9)
    assert at.link.source.endswith("; changed by hand")
    assert cluster(parse([])).link == LINKS["ndr"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--virtual-devices", "1,3"], "expected divisors of --virtual-batch, 32; got 1,3"),
        (["--link", "rope"], "invalid choice: 'rope'"),
        (["--latency", "-1"], "expected 0 or more; got -1"),
        (["--bandwidth", "0"], "expected more than 0; got 0"),
    ],
)
def test_wrong_options_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("peer", "mapped"), [(peers.OURS, False), ("flax", True)])
def test_a_partitioned_step_reduces_once(peer, mapped):
    """After the loops over time, not in them: what the model supposes. And it is the same step."""
    shape = Shape("elman", 5, 4, 6, 6, "float32")
    arrays, peer_class = draw(shape), peers.SOURCES[peer].load()
    alone, split = (
        scaling_virtual.stacked(peer_class, 2, devices, mapped)(shape, arrays, 1)
        for devices in (1, 2)
    )
    compare(shape, "split", split, results_of(alone))
    text = split.compiled("backward")[0].as_text()
    assert text.count(" all-reduce(") == 1
    assert "all-reduce(" in text[text.index("ENTRY ") :]
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {other}(" not in text


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """A GPU's results file, but for its figures."""
    path = tmp_path_factory.mktemp("gpu") / "gpu-none.json"
    arguments = "--dry-run --rounds 1 --cells elman --dtypes bfloat16 --hidden 256 --batch 1"
    gpu.main([*arguments.split(), "--exchange=auto", "--peers=scan", "--output", str(path)])
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a run at a tiny shape leaves."""
    path = tmp_path_factory.mktemp("results") / "scaling.json"
    arguments = "--cell elman --steps 3 --hidden 6 --batch 2,4 --rounds 2 --virtual-devices 1,2"
    arguments += " --virtual-batch 4 --virtual-layers 2 --global-batch 8 --output"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "RESULTS", path.parent)
        # test_cpu_benchmark.py measures them.
        rates = dict.fromkeys(("L1", "L2", "L3", "memory"), 1e10), {"float32": 1e11}
        patch.setattr(limits, "measure", lambda threads, caches: Limits(threads, caches, *rates))
        scaling.main([*arguments.split(), str(path)])
    return path


def test_run_writes_what_it_measured(written):
    results = json.loads(written.read_text())
    assert [(e["batch"], e["pass"]) for e in results["entries"]] == [
        (batch, direction) for batch in (2, 4) for direction in ("forward", "forward+backward")
    ]
    virtual = results["virtual"]
    assert (virtual["layers"], virtual["batch"], virtual["devices"]) == (2, 4, [1, 2])
    names = ("jax_persistent", "flax", "flax.shard_map")
    assert list(virtual["peers"]) == [f"{name} on {d}" for name in names for d in (1, 2)]
    assert all(each["median_ms"] > 0 for each in virtual["peers"].values())
    assert written.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_tables_of_a_file(written, capsys, monkeypatch):
    monkeypatch.setattr(cpu, "RESULTS", written.parent)
    scaling.main(["--table", str(written), "--global-batch", "8", "--link", "25gbe"])
    printed = capsys.readouterr().out
    assert "link Ethernet, 25 Gb/s" in printed
    assert printed.count("No GPU has been measured: no figure.") == 2
    for start in ("| 2 | 4 |", "| 4 | 2 |", "| persistent | 2 | 2 |", "| scan, shard_map | 2 | 2"):
        assert start in printed
    assert "nothing can get faster with more of them" in printed
    assert "| 4: 16x fewer |" in printed


def test_a_run_that_was_cut_off_without_a_compiler(written, tmp_path, capsys):
    """Has no peak and no virtual devices; what there is, is said and drawn."""
    whole = json.loads(written.read_text())
    stored = tmp_path / "scaling.json"
    stored.write_text(json.dumps(whole | {"limits": None}))
    scaling.main(["--table", str(stored)])
    printed = capsys.readouterr().out
    assert (
        "of peak at 128 devices, and at one, 512 sequences in all | 28 %, 31 % | –, – |" in printed
    )
    assert "| persistent | 2 | 2 |" in printed
    stored.write_text(json.dumps(whole | {"entries": whole["entries"][:1], "virtual": None}))
    scaling.main(["--table", str(stored)])
    printed = capsys.readouterr().out
    assert "The CPU was not measured: no figure." in printed
    assert "Virtual devices" not in printed
    scaling.main(["--plot", str(stored)])
    assert stored.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_dry_run_is_no_gpu(written, dry_run, capsys, monkeypatch):
    monkeypatch.setattr(cpu, "RESULTS", dry_run.parent)
    assert find_gpu(dry_run.parent, "elman") is None
    scaling.main(["--table", str(written)])
    assert "No GPU has been measured: no figure." in capsys.readouterr().out
    scaling.main(["--table", str(written), "--gpu", str(dry_run)])
    printed = capsys.readouterr().out
    assert "No GPU has been measured" not in printed
    assert printed.count("A dry run on the CPU: no figure here means anything.") == 2
    scaling.main(["--plot", str(written), "--gpu", str(dry_run)])
    assert capsys.readouterr().out.strip() == str(written.with_suffix(".png"))
    gru = written.with_name("gru.json")
    gru.write_text(json.dumps(json.loads(written.read_text()) | {"cell": "gru"}))
    with pytest.raises(SystemExit, match="expected gru times of both kernels; got none"):
        scaling.main(["--table", str(gru), "--gpu", str(dry_run)])


def test_the_newest_gpu_is_found(dry_run, tmp_path):
    results = json.loads(dry_run.read_text())
    results["machine"] |= {"dry_run": False, "gpu": "NVIDIA H200", "date": "2027-02-01"}
    (tmp_path / "gpu-new.json").write_text(json.dumps(results))
    results["machine"]["date"] = "2027-01-01"
    (tmp_path / "gpu-a.json").write_text(json.dumps(results))
    shutil.copy(dry_run, tmp_path)
    found = find_gpu(tmp_path, "elman")
    assert found.name == "NVIDIA H200 (gpu-new.json)"
    assert found.warning == ""
    assert found.peak == pytest.approx(2 * 132 * 1.98e9 * 16 * 8 * 16)
    assert found.shape.cell == "elman"
    times = {
        entry["pass"]: entry["peers"]["scan"]["median_ms"] / 1e3 for entry in results["entries"]
    }
    assert found.kernels["scan"][2].both == pytest.approx(max(times.values()))
    assert of_gpu(results | {"entries": []}, "elman", "gpu.json") is None
