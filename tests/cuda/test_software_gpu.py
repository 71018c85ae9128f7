# SPDX-License-Identifier: Apache-2.0
"""Tests on the software GPU, in processes of their own: the driver is opened once a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda import software

# What a GPU has to do right is what a CPU has: its tests, with the other's kernels.
OF_ANY_BACKEND = ("ops/test_crossings.py", "ops/test_resets.py", "ops/test_empty.py")


def run(tmp_path: Path, *arguments: str, **variables: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.cuda.software"]
    environment = {**software.environment(), "JAX_PERSISTENT_CACHE_DIR": str(tmp_path), **variables}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments],
        cwd=software.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels are compiled once for all of these processes."""
    assert software.LIBRARY.exists(), "make software-gpu"
    return tmp_path_factory.mktemp("kernels")


def test_what_users_do(cache: Path) -> None:
    run(cache, "tests/cuda/on_software_gpu.py")


def test_what_any_backend_does(cache: Path) -> None:
    run(cache, *(f"tests/{name}" for name in OF_ANY_BACKEND))


def test_the_tests_of_real_gpus(cache: Path) -> None:
    """As they will run on hardware, with few sizes."""
    run(cache, "tests/cuda/test_gpu.py", JAX_PERSISTENT_REHEARSE="1")
