# SPDX-License-Identifier: Apache-2.0
"""The hardware script, rehearsed whole, with the software GPU and with stand-ins of the tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from tests.cuda import software

SCRIPT = software.ROOT / "cuda" / "check_hardware.sh"

# Stand-ins: each notes how it is called.
NOTES = '#!/bin/bash\necho "$(basename "$0") $*" >> "$NOTES"\n'
PYTHON = f"""
case "$*" in
  *" pip "*) echo installed ;;
  "-m pytest "*) exec {sys.executable} -m pytest -p tests.cuda.software "${{@:3}}" ;;
  "-m "*) exec {sys.executable} -m tests.cuda.software "${{@:2}}" ;;
  *) exec {sys.executable} "$@" ;;
esac
"""
TOOL = 'while [[ $1 != "$PYTHON" ]]; do shift; done\nexec "$@"\n'
NVCC = """
[[ $1 == --version ]] && echo "Build 13" && exit
grep -q "int main" "$3" && printf '#!/bin/bash\\necho all launches ran\\n' > "$5" && chmod +x "$5"
"""


class Rehearsal:
    def __init__(self, folder: Path, **stand_ins: str) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        tools = {"python": PYTHON, "nvcc": NVCC, "compute-sanitizer": TOOL, "ncu": TOOL}
        tools |= {"nvidia-smi": "echo Software GPU\n"}
        for name, text in (tools | stand_ins).items():
            (self.bin / name).write_text(NOTES + text)
            (self.bin / name).chmod(0o755)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        ours = {
            "PYTHON": str(self.bin / "python"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "OUT": str(self.folder),
            "WHEELS": str(self.folder),
            "NOTES": str(self.folder / "calls"),
            "JAX_PERSISTENT_REHEARSE": "1",
        }
        return subprocess.run(
            [str(SCRIPT), *arguments],
            cwd=software.ROOT,
            env=software.environment() | ours | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )

    def stages(self, name: str) -> list[Any]:
        return json.loads((self.folder / f"hardware-{name}.json").read_text())["stages"]

    def calls(self, tool: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith(tool)]


def test_the_first_call(tmp_path: Path) -> None:
    """With it the tests of real GPUs are run as they will be on hardware, with few sizes."""
    rehearsal = Rehearsal(tmp_path)
    done = rehearsal.run("1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(row["stage"], row["status"]) for row in rehearsal.stages("1")] == [
        ("facts", "ok"),
        ("wheels", "skipped"),
        ("build", "ok"),
        ("info", "ok"),
        ("latency", "ok"),
        ("tests", "ok"),
        ("capture", "ok"),
    ]
    details = {row["stage"]: row["detail"] for row in rehearsal.stages("1")}
    assert "passed" in details["tests"]
    assert details["capture"] == "all launches ran"
    assert f"results in {tmp_path}" in done.stdout.splitlines()[-1]
    assert (tmp_path / "logs-1.tar.gz").stat().st_size > 0
    assert (tmp_path / "tests.xml").stat().st_size > 0
    found = [json.loads(row) for row in (tmp_path / "latency.jsonl").read_text().splitlines()]
    assert [row["assumed"] for row in found] == [828, 828, 414, 414, 519, 1450]
    assert all(row["measured"] > 0 for row in found), found


def test_the_second_call(tmp_path: Path) -> None:
    rehearsal = Rehearsal(tmp_path)
    done = rehearsal.run("2")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = rehearsal.stages("2")
    assert [row["stage"] for row in stages if row["status"] == "ok"] == [
        "build",
        "benchmark",
        "ncu",
        "memcheck",
        "racecheck",
        "racecheck_cluster",
    ]
    assert all("error" in row["detail"] for row in stages[-4:])  # small_calls' lines
    benchmark = json.loads((tmp_path / "benchmark.json").read_text())
    assert benchmark["entries"]
    assert (tmp_path / "ncu.log").stat().st_size > 0
    (memcheck, *racechecks) = rehearsal.calls("compute-sanitizer")
    assert "--report-api-errors no" in memcheck
    assert "--cells lstm --exchanges grid,grid-barrier,cluster" in memcheck
    assert [call.split()[-5] for call in racechecks] == ["grid", "cluster"], racechecks
    (part,) = {call.split("kernel_substring=")[1].split()[0] for call in racechecks}
    assert f"regex:{part}" in rehearsal.calls("ncu")[0]
    cache = Path(software.environment()["JAX_PERSISTENT_CACHE_DIR"])
    # Others than the stages leave theirs there, too.
    kernels = [p.name for p in cache.glob("lstm_*.kernel")]
    assert kernels
    assert all(part in kernel for kernel in kernels), "what the tools look at"


def test_a_failing_stage_stops_no_other(tmp_path: Path) -> None:
    broken = {
        "nvidia-smi": "exit 9\n",
        "nvcc": "echo no; exit 3\n",
        "compute-sanitizer": "exit 9\n",
    }
    rehearsal = Rehearsal(tmp_path, **broken)
    (rehearsal.bin / "ncu").unlink()
    done = rehearsal.run("facts,info,capture,ncu,memcheck,racecheck_cluster")
    assert done.returncode == 1
    found = rehearsal.stages("facts-info-capture-ncu-memcheck-racecheck_cluster")
    assert found[1]["status"] == "ok"
    assert [(row["stage"], row["status"], row["detail"]) for row in found[:1] + found[2:]] == [
        ("facts", "FAILED (9)", ""),
        ("capture", "FAILED (3)", "no"),
        ("ncu", "skipped", "no ncu"),
        ("memcheck", "FAILED (9)", ""),
        ("racecheck_cluster", "skipped", "found something: see the log"),
    ]


def test_a_stage_without_time_is_a_failure(tmp_path: Path) -> None:
    rehearsal = Rehearsal(tmp_path)
    assert rehearsal.run("facts", JAX_PERSISTENT_SECONDS="5").returncode == 1
    (row,) = rehearsal.stages("facts")
    assert row["status"] == "NO TIME"


@pytest.mark.parametrize("arguments", [[], ["--fast"], ["1", "2"]])
def test_other_arguments_show_the_usage(arguments: list[str]) -> None:
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cuda/check_hardware.sh latency,capture" in done.stderr


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_a_missing_gpu_is_a_failure_where_one_must_be() -> None:
    """There the tests on hardware fail; elsewhere, as in this process, they are skipped."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/cuda/test_gpu.py", "-k", "there_is_a_gpu"],
        cwd=software.ROOT,
        env=os.environ | {"JAX_PERSISTENT_REQUIRE_GPU": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "JAX_PERSISTENT_REQUIRE_GPU is set" in done.stdout


def test_small_calls_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cuda import small_calls

    monkeypatch.setenv("JAX_PERSISTENT_CUDA_EXCHANGE", "grid")
    few = ["--cells", "elman", "--dtypes", "float32", "--exchanges", "grid", "--sizes", "2,3,5"]
    assert small_calls.main(few) == 0
    monkeypatch.setattr(small_calls, "BOUNDS", {"float32": 0.0})
    assert small_calls.main(few) == 1
