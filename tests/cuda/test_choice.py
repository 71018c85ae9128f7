# SPDX-License-Identifier: Apache-2.0
"""Whether a build has GPU kernels, for which GPUs, and what it says if it has none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "80-real 86-real 89-real 90a-real 100-real 90-virtual"


class Machine:
    """A PATH with the tools that it is given, and nothing of the machine beneath."""

    def __init__(self, folder: Path) -> None:
        self.tools, self.devices = folder / "bin", folder / "gpus"
        self.tools.mkdir()
        self.devices.mkdir()
        # A Python without packages: one that is installed here may bring an nvcc.
        self.python = self.tool("python", 'echo "/nowhere"')

    def tool(self, name: str, script: str) -> Path:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def gpu(self, *capabilities: str) -> None:
        self.tool("nvidia-smi", "\n".join(f"echo {c}" for c in capabilities))

    def chooses(self, *options: str, **variables: str) -> str:
        """What CMake says of the GPU kernels; its error, if it stops."""
        cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert cmake is not None
        done = subprocess.run(
            [cmake]
            + [f"-D{option}" for option in options]
            + [f"-DPython_EXECUTABLE={self.python}", f"-DJP_GPU_DEVICES={self.devices}"]
            + ["-P", str(ROOT / "cuda" / "choose.cmake")],
            env={"PATH": str(self.tools)} | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        said = " ".join((done.stdout + done.stderr).split())
        assert ("GPU kernels:" in said) == (done.returncode == 0), said
        return said


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_none_without_a_gpu(machine: Machine) -> None:
    machine.tool("nvcc", "exit 1")
    said = machine.chooses()
    assert "left out: no GPU was found, so they were not built: build with" in said
    assert "--config-settings=cmake.define.JAX_PERSISTENT_CUDA=ON" in said


def test_its_own_architecture_where_a_gpu_is(machine: Machine) -> None:
    nvcc = machine.tool("nvcc", "exit 1")
    machine.gpu("9.0", "9.0", "8.6")
    assert f"GPU kernels: for 90a-real 86-real, with {nvcc}" in machine.chooses()
    only = machine.chooses("JAX_PERSISTENT_CUDA_ARCHITECTURES=90-virtual")
    assert f"GPU kernels: for 90-virtual, with {nvcc}" in only


def test_a_gpu_that_is_too_old(machine: Machine) -> None:
    machine.tool("nvcc", "exit 1")
    machine.gpu("7.5")
    assert "left out: there are none for the GPU that was found (75-real)" in machine.chooses()


@pytest.mark.parametrize("broken", ["exit 9", "echo no devices were found"])
def test_a_gpu_that_does_not_say_which(machine: Machine, broken: str) -> None:
    nvcc = machine.tool("nvcc", "exit 1")
    machine.tool("nvidia-smi", broken)
    assert "no GPU was found" in machine.chooses()
    (machine.devices / "0000:01:00.0").mkdir()
    assert f"GPU kernels: for {RELEASE}, with {nvcc}" in machine.chooses()


def test_an_nvcc_off_the_path_is_none(machine: Machine, tmp_path: Path) -> None:
    """Neither CMake nor CUDA_PATH finds one elsewhere, unless the kernels are asked for."""
    toolkit = tmp_path / "toolkit" / "bin"
    toolkit.mkdir(parents=True)
    nvcc = machine.tool("nvcc", "exit 1").rename(toolkit / "nvcc")
    machine.gpu("9.0")
    path = {"CUDA_PATH": str(toolkit.parent)}
    assert "left out: no nvcc was found" in machine.chooses(**path)
    assert f"for {RELEASE}, with {nvcc}" in machine.chooses("JAX_PERSISTENT_CUDA=ON", **path)
    assert f"for 90a-real, with {nvcc}" in machine.chooses(CUDACXX=str(nvcc))


def test_switched_off(machine: Machine) -> None:
    machine.tool("nvcc", "exit 1")
    machine.gpu("9.0")
    said = machine.chooses("JAX_PERSISTENT_CUDA=OFF")
    assert said.endswith("left out: switched off by JAX_PERSISTENT_CUDA=OFF")


def test_a_named_nvcc_must_be_there(machine: Machine) -> None:
    said = machine.chooses("JAX_PERSISTENT_CUDA=ON", CUDACXX="/nowhere/nvcc")
    assert "CUDACXX is /nowhere/nvcc, which is not there" in said
