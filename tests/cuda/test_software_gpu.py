# SPDX-License-Identifier: Apache-2.0
"""Tests on the software GPU, in processes of their own: the driver is opened once a process."""

from __future__ import annotations

import subprocess
import sys

from tests.cuda import software

# What a GPU has to do right is what a CPU has: its tests, with the other's kernels.
OF_ANY_BACKEND = ("ops/test_crossings.py", "ops/test_empty.py")


def run(*arguments: str, **variables: str) -> None:
    assert software.LIBRARY.exists(), "make software-gpu"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.cuda.software"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments],
        cwd=software.ROOT,
        env=software.environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_users_do() -> None:
    run("tests/cuda/on_software_gpu.py", "-k", "not older")


def test_gpus_of_two_kinds() -> None:
    run("tests/cuda/on_software_gpu.py", "-k", "older", **{software.LAST_IS_OLDER: "1"})


def test_what_any_backend_does() -> None:
    run(*(f"tests/{name}" for name in OF_ANY_BACKEND))
