# SPDX-License-Identifier: Apache-2.0
"""Tests on the software GPU, in processes of their own: the driver is opened once a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cuda import software

# What a GPU has to do right is what a CPU has: its tests, with the other's kernels. Layers call the
# functions, whatever the backend.
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


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("12.6", "is too old: 12.8 is the oldest that will do"),
        ("14.0", "is too new for the driver, which runs CUDA 13.0"),
    ],
)
def test_a_compiler_that_will_not_do(version: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jax_persistent", "warm", "--architecture", "sm_90"],
        env=software.environment() | {"SOFTWARE_GPU_NVRTC_VERSION": version},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    begins = f"no NVRTC to compile the kernels with: NVRTC {version} ({software.LIBRARY}) {says}"
    assert done.stderr.startswith(begins), done.stderr
    assert "pip: jax-persistent[cuda13] or jax-persistent[cuda12]" in done.stderr


def test_scans() -> None:
    run("tests/cuda/scans_on_software_gpu.py")


def test_what_any_backend_does() -> None:
    run(*(f"tests/{name}" for name in OF_ANY_BACKEND), "-k", "not layers")
