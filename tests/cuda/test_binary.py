# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels as nvcc compiles them: none spills registers, and a build has all or none.

Where the module that Python loads has kernels, all of them are looked at. Elsewhere the two that
are nearest to the limit are compiled here, if there is an nvcc.
"""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import pytest

from jax_persistent.ffi.registration import native_module

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = native_module().cuda_architectures().split()
REAL = [name.removesuffix("-real") for name in ARCHITECTURES if name.endswith("-real")]
VIRTUAL = [name.removesuffix("-virtual") for name in ARCHITECTURES if name.endswith("-virtual")]

PASSES = ("Forward", "Backward")
DTYPES = ("Bfloat16", "Float16", "Tf32", "Float32")
EXCHANGES = ("Grid", "Cluster")
CELLS = re.findall(
    r"^JP_CELL\(\w+, (\w+)\)", (ROOT / "native/cells/cells.def").read_text(), re.MULTILINE
)
# Those that take the most registers, of an architecture with clusters.
TIGHTEST = (("Lstm", "Bfloat16"), ("Gru", "Tf32"))
ARCHITECTURE = "90a"


class Kernel(NamedTuple):
    direction: str
    cell: str
    dtype: str
    exchange: str


# As C++ names ForwardKernel<Cell, Dtype, Exchange> in a binary: each name after its length.
MANGLED = re.compile(
    r"_ZN2jp4cuda\d+(Forward|Backward)KernelINS_\d+(\w+?)(?:INS_\d+(\w+?)ActivationEE)?"
    r"ENS0_\d+(\w+?)ENS0_\d+(\w+?)ExchangeE"
)


def cuobjdump(binary: Path, *options: str) -> str:
    tool = distribution("nvidia-cuda-cuobjdump").locate_file("nvidia/cu13/bin/cuobjdump")
    command = [str(tool), *options, str(binary)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources(binary: Path, architecture: str) -> dict[Kernel, dict[str, int]]:
    """What each kernel of an architecture takes: REG, STACK, LOCAL and more."""
    text = cuobjdump(binary, "--dump-resource-usage", "--gpu-architecture", f"sm_{architecture}")
    found = re.findall(r"^ *Function (\S+):\n *(\S.*)$", text, re.MULTILINE)
    kernels = {}
    for name, numbers in found:
        parts = MANGLED.match(name)
        assert parts is not None, name
        direction, cell, activation, dtype, exchange = parts.groups(default="")
        kernel = Kernel(direction, cell + activation, dtype, exchange)
        assert kernel not in kernels, f"sm_{architecture} has {kernel} twice"
        pairs = re.findall(r"([A-Z]+):(\d+)", numbers)
        kernels[kernel] = {key: int(value) for key, value in pairs}
    return kernels


def check_registers(architecture: str, found: dict[Kernel, dict[str, int]]) -> None:
    """Of 65536 registers a block's 256 threads can have 255 each; what spills is LOCAL or STACK."""
    for kernel, used in found.items():
        where = f"sm_{architecture}, {kernel}: {used}"
        assert (used["STACK"], used["LOCAL"]) == (0, 0), where
        assert used["REG"] <= 255, where
        # The kernel is there, not only its name: it keeps most of its weights in registers.
        has_code = kernel.exchange == "Grid" or int(architecture.rstrip("a")) >= 90
        assert (used["REG"] >= 128) == has_code, where


@functools.cache
def module() -> Path:
    return Path(native_module().__file__)


@pytest.mark.skipif(not REAL, reason="the module has no GPU kernels; see the test of two of them")
def test_kernels_of_the_module_stay_in_registers() -> None:
    expected = {Kernel(*parts) for parts in itertools.product(PASSES, CELLS, DTYPES, EXCHANGES)}
    for architecture in REAL:
        found = resources(module(), architecture)
        assert set(found) == expected
        check_registers(architecture, found)


@pytest.mark.skipif(bool(REAL), reason="the module's own kernels are looked at")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="GPU kernels NOT CHECKED: no nvcc")
@pytest.mark.parametrize(("cell", "dtype"), TIGHTEST)
def test_the_tightest_kernels_stay_in_registers(cell: str, dtype: str, tmp_path: Path) -> None:
    text = (ROOT / "cuda" / "instance.in").read_text()
    source, binary = tmp_path / "instance.cu", tmp_path / "instance.cubin"
    source.write_text(text.replace("@cell@", cell).replace("@dtype@", dtype))
    options = ["-std=c++20", "--expt-relaxed-constexpr", "-O3", "-UNDEBUG", f"-I{ROOT}"]
    command = ["nvcc", *options, f"-arch=sm_{ARCHITECTURE}", "-cubin", str(source)]
    done = subprocess.run(
        [*command, "-o", str(binary)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = resources(binary, ARCHITECTURE)
    assert set(found) == {Kernel(p, cell, dtype, e) for p in PASSES for e in EXCHANGES}
    check_registers(ARCHITECTURE, found)


def test_gpus_to_come_find_ptx() -> None:
    listed = cuobjdump(module(), "--list-ptx") if VIRTUAL else ""
    for architecture in VIRTUAL:
        files = re.findall(rf"\.sm_{architecture}\.ptx", listed)
        assert len(files) == len(CELLS) * len(DTYPES)


def test_the_module_says_what_it_has() -> None:
    assert bool(ARCHITECTURES) == (native_module().missing("cuda") == "")


def arch_functions(header: str) -> set[str]:
    """What a header defines or declares for the kernels in namespace jp::cuda::arch."""
    text = (ROOT / "cuda" / header).read_text()
    inside = text.split("namespace jp::cuda::arch {", 1)[1]
    types = r"(?:[\w:]+[ *&]+)+"
    defined = re.findall(rf"^{types}(\w+)\(", inside, re.MULTILINE)
    return {*defined, *re.findall(r"^using emulator::(\w+);", inside, re.MULTILINE)}


def test_the_emulator_has_every_intrinsic_of_the_device() -> None:
    device = arch_functions("arch_device.cuh")
    emulator = arch_functions("emulator/arch_emulator.h")
    assert device - {"WriteHex"} == emulator - {"Exchange"}  # each header's own helper
    kernels = [p for p in (ROOT / "cuda").glob("*.h") if not p.name.startswith("arch")]
    used = {name for p in kernels for name in re.findall(r"arch::([A-Z]\w+)[<(]", p.read_text())}
    assert used <= device & emulator
