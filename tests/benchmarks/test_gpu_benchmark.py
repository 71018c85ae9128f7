# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark's dry run walks all of it but the kernels; its order and its sums are right."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest

import jax_persistent as jp
from benchmarks import gpu, gpu_measure, gpu_options, gpu_summary, measure, peers
from benchmarks.peers_gpu import EXCHANGE, JaxRnn, OursCluster, Scan
from benchmarks.problem import PASSES, Shape, draw


class Broken(Scan):
    """Another LSTM: its gates are in another order."""

    def _pack(self, arrays):
        return super()._pack(arrays._replace(bias=np.roll(arrays.bias, self.shape.hidden)))


class Failing(Scan):
    def prepare(self, direction):
        raise NotImplementedError("a cluster doesn't hold the weights\nand more")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a dry run leaves, of three shapes with the fewest programs to compile."""
    path = tmp_path_factory.mktemp("results") / "gpu.json"
    arguments = "--dry-run --rounds 2 --cells elman --dtypes bfloat16 --hidden 256 --batch 1,4"
    arguments += " --exchange auto --peers jax.experimental.rnn,scan"
    assert gpu.main([*arguments.split(), "--output", str(path)]) == 0
    return path


def test_dry_run_writes_every_pass_of_every_peer(written):
    results = json.loads(written.read_text())
    assert [(e["batch"], e["pass"]) for e in results["entries"]] == [
        (batch, direction) for batch in (2, 3) for direction in PASSES
    ]
    for entry in results["entries"]:
        assert list(entry["peers"]) == ["jax_persistent", "scan"]
        assert all(peer["median_ms"] > 0 for peer in entry["peers"].values())
        assert entry["refused"] == {
            "jax.experimental.rnn": "LSTM in float32 only; this is elman in bfloat16"
        }
        assert entry["limit_ms"] > 0
    assert results["refused"] == results["skipped"] == []
    assert results["machine"]["dry_run"]
    assert results["plans"].keys() == {"elman 3x2x6 bfloat16", "elman 3x3x7 bfloat16"}
    assert "compiles for minutes" in results["missing"]["flashrnn"]


def test_dry_run_draws_and_prints(written, capsys):
    for direction in PASSES:
        name = f"gpu-bfloat16-T3-{direction.replace('+', '-')}.png"
        assert written.with_name(name).read_bytes().startswith(b"\x89PNG")
    assert gpu.main(["--table", str(written)]) == 0
    printed = capsys.readouterr().out
    assert "A dry run on the CPU: no figure here means anything." in printed
    assert "| elman 3x3x7 | bfloat16 | forward+backward |" in printed
    assert (
        "no time of jax.experimental.rnn: LSTM in float32 only; this is elman in bfloa" in printed
    )
    assert "and 3 more]" in printed


def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main(["--quick"]) == 2
    assert "No GPU: JAX's default backend is 'cpu'" in capsys.readouterr().err


def test_a_budget_leaves_shapes_out(tmp_path, monkeypatch):
    times = iter([0.0, 0.0, 0.0, 1.0, 11.0, 11.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(times))

    def refuse(*_):
        raise MemoryError("no memory")

    monkeypatch.setattr(gpu_measure, "time_shape", refuse)
    options = gpu_options.parse(["--dry-run", "--budget", "10", "--peers", "cudnn"])
    results = {"missing": {}, "refused": [], "skipped": [], "plans": {}, "entries": []}
    gpu._time_all(results, options, tmp_path / "r.json")
    assert [each["reason"] for each in results["refused"]] == ["MemoryError: no memory"] * 2
    assert results["skipped"] == ["lstm 3x4x8 bfloat16"]


def test_the_limit_knows_where_each_pass_runs(monkeypatch):
    details = {
        "forward": {"residency": "cluster, registers"},
        "backward": {"residency": "grid, L2"},
    }
    plan = jp.Plan("native", "why", details=details)
    monkeypatch.setattr(jp, "plan", lambda *_: plan)
    plans = {}
    shape = Shape("gru", 9, 2, 6, 6, "bfloat16")
    assert gpu._plan(plans, shape) == {"forward": "cluster", "backward": "grid"}
    assert plans == {"gru 9x2x6 bfloat16": "native: why"}
    monkeypatch.setattr(jp, "plan", lambda *_: jp.Plan("reference", "why not"))
    assert gpu._plan(plans, shape) == {"forward": "grid", "backward": "grid"}


def test_peers_that_differ_or_fail_are_not_timed(monkeypatch):
    monkeypatch.setattr(gpu_measure, "SAMPLE_SECONDS", 1e-4)
    shape = Shape("lstm", 4, 2, 5, 3, "float32")
    classes = {"jax_persistent": Scan, "broken": Broken, "failing": Failing}
    entries = gpu_measure.time_shape(shape, classes, Scan, 1, 1.0)
    assert [entry["pass"] for entry in entries] == list(PASSES)
    for entry in entries:
        assert list(entry["peers"]) == ["jax_persistent"]
        assert entry["refused"]["broken"].startswith("differs from the reference in ")
        assert entry["refused"]["failing"] == (
            "NotImplementedError: a cluster doesn't hold the weights"
        )


def test_a_sample_is_long_enough():
    now = [0.0]

    class Peer:
        launched = 0

        def launch(self, direction):
            self.launched += 1
            now[0] += 0.001
            return direction

        def wait(self, results):
            assert results == "forward"

    peer = Peer()
    queue = gpu_measure.Queue(peer, "forward")
    assert gpu_measure.turn(queue, clock=lambda: now[0]) == pytest.approx(0.001)
    assert peer.launched == 2 + 6  # 5 ms and a little, in calls of 1 ms
    assert gpu_measure.turn(queue, clock=lambda: now[0]) == pytest.approx(0.001)
    assert peer.launched == 2 + 6 + 6


def test_exchange_is_set_while_a_call_is_traced(monkeypatch):
    seen = []
    monkeypatch.setattr(
        OursCluster, "_run", lambda *_: seen.append(os.environ.get(EXCHANGE)) or _[2]
    )
    monkeypatch.setenv(EXCHANGE, "grid")
    shape = Shape("elman", 3, 2, 5, 4, "float32")
    OursCluster(shape, draw(shape), 1).prepare("forward")
    assert seen == ["cluster"]
    assert os.environ[EXCHANGE] == "grid"


def test_weights_of_jax_experimental_rnn():
    """Packed as its documentation says, and gradients unpacked likewise."""
    from jax.experimental import rnn

    shape = Shape("lstm", 2, 3, 5, 4, "float32")
    arrays = draw(shape)
    peer = JaxRnn(shape, arrays, 1)
    packed = peer._pack(arrays)
    assert packed.shape == (rnn.get_num_params_in_lstm(4, 5, 1, False),)
    w_ih, w_hh, b_ih, b_hh = rnn.unpack_lstm_weights(packed, 4, 5, 1, False)
    np.testing.assert_array_equal(w_ih[0], arrays.input_kernel.T)
    np.testing.assert_array_equal(w_hh[0], arrays.recurrent_kernel.T)
    np.testing.assert_array_equal(b_ih[0], arrays.bias)
    np.testing.assert_array_equal(b_hh[0], arrays.recurrent_bias)
    found = peer._unpack(packed)
    for name, value in found.items():
        np.testing.assert_array_equal(value, getattr(arrays, name))
    assert JaxRnn.refuses(shape, "forward") == "needs a GPU with cuDNN"


def test_the_most_telling_shapes_come_first():
    asked = gpu_options.shapes(gpu_options.parse([]))
    assert len(asked) == len(set(asked)) == 2 * 3 * 6 * 8
    head = [(s.cell, s.dtype, s.hidden, s.batch) for s in asked[:9]]
    assert head == [
        *[("lstm", "bfloat16", 1024, batch) for batch in (4, 1, 8, 2)],
        *[("lstm", "bfloat16", 512, batch) for batch in (4, 1, 8, 2)],
        ("lstm", "bfloat16", 768, 16),
    ]
    few = asked[9:45]  # a run that ends here has seen every cell and dtype
    assert {(s.cell, s.dtype) for s in few} == {
        (cell, dtype) for cell in ("lstm", "gru", "elman") for dtype in ("bfloat16", "float32")
    }
    assert {shape.steps for shape in asked} == {1024}


def test_quick_is_short_and_says_so():
    options = gpu_options.parse(["--quick"])
    asked = gpu_options.shapes(options)
    assert options.budget == 150
    assert asked[0] == Shape("lstm", 1024, 1, 1024, 1024, "bfloat16")
    assert len(asked) == 12
    assert {shape.cell for shape in asked} == {"lstm", "gru", "elman"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--exchange=l2", "got 'l2'"),
        ("--peers=onnxruntime", "got 'onnxruntime'"),
        ("--steps=0", "expected at least 1"),
    ],
)
def test_wrong_options_are_named(argument, message, capsys):
    with pytest.raises(SystemExit):
        gpu_options.parse([argument])
    assert message in capsys.readouterr().err


def test_columns_of_a_shape():
    times = {"jax_persistent": 1.024, "jax_persistent.grid": 0.5, "scan": 40.96, "cudnn": 2.048}
    shape = Shape("lstm", 1024, 8, 512, 512, "bfloat16")
    entry = dataclasses.asdict(shape) | {"pass": "forward", "refused": {}, "limit_ms": 0.256}
    entry["peers"] = {name: measure.spread([1e-3 * ms]) for name, ms in times.items()}
    assert gpu_summary.step_microseconds(entry, "jax_persistent") == pytest.approx(1.0)
    assert gpu_summary.step_microseconds(entry, "flashrnn") is None
    operations = 2 * 1024 * 8 * 4 * 512 * (512 + 512)
    assert gpu_summary.operations(shape, "forward") == operations
    assert gpu_summary.operations(shape, "forward+backward") == 3 * operations
    assert gpu_summary.teraflops(entry, "cudnn") == pytest.approx(operations / 2.048e-3 / 1e12)
    assert gpu_summary.times_scan(entry) == pytest.approx(40)
    facts = {"gpu": "H200", "versions": {}, "date": "2026-01-02", "commit": "abc", "dry_run": False}
    results = {"machine": facts, "peers": [*times, "flashrnn"], "entries": [entry]}
    results |= {"missing": {"flashrnn": "why"}, "refused": [], "skipped": []}
    last = [cell.strip() for cell in gpu_summary.table(results).splitlines()[-1].split("|")[1:-1]]
    assert last[:3] == ["lstm 1024x8x512", "bfloat16", "forward"]
    assert last[3:7] == ["1", "0.488", "40", "2"]
    assert last[7:] == ["33.6", "2.00 (cudnn)", "40", "25 %"]
    assert "dry run" not in gpu_summary.heading(results)


def test_every_gpu_peer_has_a_colour():
    from benchmarks.plot import COLOURS

    assert set(peers.GPU_SOURCES) <= set(COLOURS)
    assert set(gpu_options.parse([]).names) == set(peers.GPU_DEFAULT)
