# SPDX-License-Identifier: Apache-2.0
"""The hardware script as far as it goes without a GPU: its stages, its table, its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "cuda" / "check_hardware.sh"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_it_is_bash() -> None:
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rehearsed_stages_are_told(tmp_path: Path) -> None:
    done = run("--rehearse", "--stages", "facts,wheels,build,ncu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "hardware.json").read_text())
    assert {row["stage"]: row["status"] for row in found["stages"]} == {
        "facts": "ok",
        "wheels": "skipped",
        "build": "ok",
        "ncu": "skipped",
    }
    assert any(line.startswith("jax ") for line in found["machine"])
    assert (tmp_path / "logs.tar.gz").stat().st_size > 0
    assert f"results in {tmp_path}" in done.stdout.splitlines()[-1]


def test_a_failing_stage_stops_no_other(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/bash\n[[ $* == *"jax_persistent info" ]] && {{ echo broken; exit 3; }}\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    stages = "info,memcheck,ncu"
    done = run("--rehearse", "--stages", stages, "--out", str(tmp_path), PYTHON=str(python))
    assert done.returncode == 1
    rows = json.loads((tmp_path / "hardware.json").read_text())["stages"]
    assert [(row["stage"], row["status"]) for row in rows] == [
        ("info", "FAILED (3)"),
        ("memcheck", "ok"),
        ("ncu", "skipped"),
    ]
    assert rows[0]["detail"] == "broken"
    assert "error" in rows[1]["detail"]


def test_a_stage_without_time_is_a_failure(tmp_path: Path) -> None:
    done = run("--rehearse", "--stages", "facts", "--seconds", "5", "--out", str(tmp_path))
    assert done.returncode == 1
    (row,) = json.loads((tmp_path / "hardware.json").read_text())["stages"]
    assert row["status"] == "NO TIME"


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
@pytest.mark.parametrize(("variable", "status"), [("JAX_PERSISTENT_REQUIRE_GPU", 1), ("_", 0)])
def test_a_missing_gpu_is_a_failure_where_one_must_be(variable: str, status: int) -> None:
    """There the tests on hardware fail; elsewhere they are skipped."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/cuda/test_gpu.py", "-k", "there_is_a_gpu"],
        cwd=ROOT,
        env=os.environ | {variable: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    expected = "JAX_PERSISTENT_REQUIRE_GPU is set" if status else "no CUDA device"
    assert expected in done.stdout


def test_an_unknown_option_shows_the_usage() -> None:
    done = run("--fast")
    assert done.returncode == 2
    assert "cuda/check_hardware.sh --rehearse" in done.stderr


@pytest.mark.parametrize("arguments", [["--sizes", "2,3,5"], ["--unchecked", "--sizes", "3,2,4"]])
def test_small_calls(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cuda import small_calls

    monkeypatch.setenv("JAX_PERSISTENT_CUDA_EXCHANGE", "grid")
    few = ["--cells", "elman", "--dtypes", "float32", "--exchanges", "grid"]
    assert small_calls.main([*few, *arguments]) == 0


def test_small_calls_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cuda import small_calls

    monkeypatch.setenv("JAX_PERSISTENT_CUDA_EXCHANGE", "grid")
    monkeypatch.setattr(small_calls, "BOUNDS", {"float32": 0.0})
    few = ["--cells", "elman", "--dtypes", "float32", "--exchanges", "grid"]
    assert small_calls.main(few) == 1
