# SPDX-License-Identifier: Apache-2.0
"""The commands that ask: `plan`, `explain` and `bench`, in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jax_persistent as jp
from jax_persistent import cli
from jax_persistent.cli import bench, peers, picture, report, timing

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command that succeeds; what it printed."""

    def run(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    return run


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(list(arguments)) == 1
    return capsys.readouterr().err


def test_info_as_json(run: Run) -> None:
    found = json.loads(run("info", "--json"))
    assert (found["jax_persistent"], found["errors"]) == (jp.__version__, [])


# --- plan


def test_a_plan(run: Run) -> None:
    asked = ("plan", "lstm", "--hidden", "96", "--batch", "3", "--steps", "50")
    plan = jp.plan("lstm", 96, 3, device="cpu", steps=50)
    text = run(*asked)
    assert str(plan) in text
    assert "lstm on cpu: hidden 96, batch 3, steps 50, float32" in text
    assert text.count("worker 0: units    0 to") == 2
    found = json.loads(run(*asked, "--json"))
    assert (found["backend"], found["residency"]) == ("native", plan.residency)
    assert found["details"]["backward"]["runs"]
    assert set(found["picture"]) == {"forward", "backward"}


def test_a_plan_for_a_gpu(run: Run) -> None:
    text = run("plan", "gru", "--hidden", "1024", "--batch", "64", "--device", "sm_90")
    plan = jp.plan("gru", 1024, 64, device="sm_90")
    numbers = (plan.details or {})["forward"]
    sms = text.split("SMs; a letter")[1].split("weights of a warp")[0]
    assert sms.count(" A") + sms.count("\nA") == numbers["workers"]
    assert sms.count("B") == numbers["workers"]
    assert f"{numbers['shared_chunks']} in shared memory (s)" in text


def test_a_plan_that_is_a_scan_and_one_that_is_none(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(run("plan", "gru", "--hidden", "8", "--dtype", "float64", "--json"))
    assert (found["backend"], found["picture"]) == ("reference", {})
    assert "hidden: expected an int" in refused(capsys, "plan", "gru", "--hidden", "0")
    other = refused(capsys, "plan", "SLSTM", "--hidden", "6")
    assert "cell: expected elman, elman_tanh, " in other
    assert "python -m jax_persistent explain SLSTM --hidden 6" in other


def test_the_picture_of_cores() -> None:
    facts = {"l2_bytes": 1 << 20, "lanes": 16}
    numbers = {"workers": 3, "worker_bytes": 512 << 10, "splits_batch": 0}
    lines = picture.draw(numbers, facts, hidden=100).splitlines()
    assert [line.split(" [")[0] for line in lines] == [
        "worker 0: units    0 to   31",
        "worker 1: units   32 to   63",
        "worker 2: units   64 to   99",
    ]
    assert all("[" + "#" * 16 + "." * 16 + "]" in line for line in lines)
    rows = picture.draw(numbers | {"splits_batch": 1}, facts, hidden=100)
    assert "divide the rows" in rows
    assert "through a core's L2" in picture.draw(numbers | {"worker_bytes": 2 << 20}, facts, 100)
    many = picture.draw(numbers | {"workers": 70}, facts, hidden=2000)
    assert many.splitlines()[-1] == "and 6 workers more, likewise"
    assert picture.draw({}, {}, 8) == ""


# --- explain


def test_a_cell_is_explained(run: Run) -> None:
    asked = ("explain", "lstm", "--hidden", "24", "--batch", "3", "--features", "5")
    found = json.loads(run(*asked, "--gradient", "--json"))
    assert [each["name"] for each in found["recurrences"]] == [
        "lstm 24 forward",
        "lstm 24 backward",
    ]
    assert found["recurrences"][0]["sizes"] == {"T": 128, "B": 3, "I": 5, "H": 24}
    assert found["recurrences"][0]["plan"]["backend"] == "native"
    assert "scan 24 forward: kernel" in run("explain", "PeepholeLSTM", "--hidden", "24")


def test_a_function_of_a_module_is_explained(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "their_model.py").write_text(
        "import jax.numpy as jnp, jax_persistent as jp\n"
        "from flax import linen as nn\n"
        "from jax_persistent.linen import RNN\n"
        "net, three = RNN(nn.GRUCell(6)), 3\n"
        "def outputs(x, w, r):\n"
        "    return jp.gru(x, w, r)[0]\n"
    )
    monkeypatch.chdir(tmp_path)
    shapes = ("f32[3,5,4]", "float32[4,18]", "f32[6,18]")
    text = run("explain", "their_model:outputs", *shapes, "--gradient")
    assert "gru 6 backward: kernel" in text
    assert "their_model.py:6 (outputs)" in text
    assert "gru 6 forward: kernel" in run("explain", "their_model:net", "key", "f32[3,5,4]")
    assert "no attribute 'other'" in refused(capsys, "explain", "their_model:other")
    assert "argument: expected float32[4" in refused(capsys, "explain", "their_model:net", "3x5")
    assert "expected module:name, or one of lstm" in refused(capsys, "explain", "lsmt")
    assert "of which --hidden is needed" in refused(capsys, "explain", "lstm")
    assert "a function or a module; got int" in refused(capsys, "explain", "their_model:three")
    assert "RngError: " in refused(capsys, "explain", "their_model:net", "f32[3,5,4]")
    assert "recurrent_kernel: expected rank 2" in refused(
        capsys, "explain", "their_model:outputs", *shapes[:1] * 3
    )
    sys.modules.pop("their_model")


# --- bench


@pytest.mark.parametrize("cell", peers.CELLS)
def test_a_shape_is_timed(run: Run, cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is installed agrees: flax's layer is compared with ours before."""
    monkeypatch.setattr(timing, "turn", lambda call, clock: 0.001)
    asked = ("bench", cell, "--hidden", "6", "--steps", "5", "--batch", "3", "--features", "4")
    gradient = ["--gradient"] if cell == "elman" else []
    found = json.loads(run(*asked, "--rounds", "2", *gradient, "--json"))
    assert {"jax_persistent", "lax.scan", "flax"} <= set(found["median_ms"])
    assert set(found["median_ms"]) | set(found["absent"]) == set(peers.NAMES)
    assert found["recommendation"].startswith("Use either: jax_persistent and lax.scan take the")
    assert all(len(seconds) == 2 for seconds in found["seconds"].values())


def test_a_cell_of_the_library_is_timed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "turn", lambda call, clock: 0.001)
    text = run("bench", "SLSTM", "--hidden", "8", "--steps", "5", "--rounds", "1")
    assert "SLSTM, T 5, B 1, I 8, H 8, float32, forward" in text
    assert "flax: has no SLSTM" in text


def test_a_peer_that_does_not_load_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(shape: Any, arrays: Any) -> Any:
        raise ImportError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setitem(peers._PEERS, "pytorch", (broken, ()))
    shape = peers.Shape("gru", 5, 3, 4, 6, "float32", gradient=True)
    calls, absent = peers.found_here(shape, ("pytorch", "onnxruntime"))
    assert calls == {}
    assert absent["pytorch"].startswith("can't be imported: libcudnn.so.9")
    assert "onnxruntime" in absent


def test_threads_are_those_that_are_fastest() -> None:
    used: list[int] = []
    now = 0.0

    def call() -> None:
        nonlocal now
        now += {1: 2.0, 3: 1.0, 5: 4.0}[used[-1]]

    timing.use_fastest((1, 3, 5), used.append, call, lambda: now)
    assert used == [1, 3, 5, 3]


def test_a_busy_machine_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3})
    assert bench.busy(2.0) == []
    assert bench.busy(6.54)[0].startswith("The machine is busy: a load of 6.5 for 4 cores")


def test_who_computes_something_else_is_not_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"jax_persistent": lambda: np.ones((2, 3)), "b": lambda: np.full((2, 3), 2)}
    monkeypatch.setattr(peers, "found_here", lambda shape, names: (calls, {}))
    says = refused(capsys, "bench", "gru", "--hidden", "6")
    assert says.startswith("b: expected our outputs within 0.0001; got 1")
    assert "--dtype: expected one of" in refused(
        capsys, "bench", "gru", "--hidden", "6", "--dtype", "int8"
    )
    for option in ("--features", "--rounds"):
        says = refused(capsys, "bench", "gru", "--hidden", "6", option, "0")
        assert f"{option}: expected at least 1; got 0" in says


@pytest.mark.parametrize(
    ("others", "advice"),
    [
        (
            {"flax": 3.0, "lax.scan": 2.0},
            "Use jax_persistent here: it is 2.00 times as fast as",
        ),
        ({"flax": 0.5, "lax.scan": 2.0}, "Use flax here: it is 2.00 times as fast as jax_per"),
        ({"flax": 1.01}, "Use either: jax_persistent and flax take the same time"),
        ({}, "Nothing else was timed"),
    ],
)
def test_what_it_recommends(others: dict[str, float], advice: str) -> None:
    assert bench.recommendation({"jax_persistent": 1.0, **others}).startswith(advice)


# --- how it is shown


def test_a_terminal_with_rich_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are drawn, and there is a bar; without rich both are plain."""
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = report.Report({}, ["said", report.Table(("a", "b"), [("x", 1), ("longer", 2)])])

    def on_terminal() -> tuple[str, str]:
        out, error = Terminal(), Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", error)
        report.show(shown, as_json=False)
        assert list(report.progress(range(3), "busy")) == [0, 1, 2]
        return out.getvalue(), error.getvalue()

    drawn, bar = on_terminal()
    assert "───" in drawn
    assert "busy" in bar
    monkeypatch.setattr(report, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=bool)))
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    plain, bar = on_terminal()
    assert plain == "said\n\na       b\nx       1\nlonger  2\n"
    assert "busy [##########" in bar


def test_a_pipe_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(report.progress(range(3), "busy")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_help_names_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text: Any = capsys.readouterr().out
    assert all(f"\n{name}  " in text for name in ("info", "plan", "explain", "bench", "convert"))
