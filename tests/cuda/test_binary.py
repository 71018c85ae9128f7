"""The GPU kernels in the module that Python loads: all are there, and none spills registers."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

from jax_persistent.ffi.registration import native_module

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = native_module().cuda_architectures().split()
REAL = [name.removesuffix("-real") for name in ARCHITECTURES if name.endswith("-real")]
VIRTUAL = [name.removesuffix("-virtual") for name in ARCHITECTURES if name.endswith("-virtual")]

PASSES = ("Forward", "Backward")
CELLS = ("Lstm", "Gru", "ElmanTanh", "ElmanRelu")
NUMBERS = ("Bfloat16", "Float16", "Tf32", "Float32")
TEAMS = ("Grid", "Cluster")


class Kernel(NamedTuple):
    direction: str
    cell: str
    number: str
    team: str


# As C++ names ForwardKernel<Cell, Number, Team> in a binary: each name after its length.
MANGLED = re.compile(
    r"_ZN2jp4cuda\d+(Forward|Backward)KernelINS_\d+(\w+?)(?:INS_\d+(\w+?)ActivationEE)?"
    r"ENS0_\d+(\w+?)ENS0_\d+(\w+?)TeamE"
)


def cuobjdump(*options: str) -> str:
    tool = distribution("nvidia-cuda-cuobjdump").locate_file("nvidia/cu13/bin/cuobjdump")
    command = [str(tool), *options, str(native_module().__file__)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources(architecture: str) -> dict[Kernel, dict[str, int]]:
    """What each kernel of an architecture takes: REG, STACK, LOCAL and more."""
    text = cuobjdump("--dump-resource-usage", "--gpu-architecture", f"sm_{architecture}")
    found = re.findall(r"^ *Function (\S+):\n *(\S.*)$", text, re.MULTILINE)
    kernels = {}
    for name, numbers in found:
        parts = MANGLED.match(name)
        assert parts is not None, name
        direction, cell, activation, number, team = parts.groups(default="")
        kernel = Kernel(direction, cell + activation, number, team)
        assert kernel not in kernels, f"sm_{architecture} has {kernel} twice"
        pairs = re.findall(r"([A-Z]+):(\d+)", numbers)
        kernels[kernel] = {key: int(value) for key, value in pairs}
    return kernels


def test_kernels_stay_in_registers() -> None:
    """Of 65536 registers a block's 256 threads can have 255 each; what spills is LOCAL or STACK."""
    expected = {Kernel(*parts) for parts in itertools.product(PASSES, CELLS, NUMBERS, TEAMS)}
    for architecture in REAL:
        found = resources(architecture)
        assert set(found) == expected
        for kernel, used in found.items():
            where = f"sm_{architecture}, {kernel}: {used}"
            assert (used["STACK"], used["LOCAL"]) == (0, 0), where
            assert used["REG"] <= 255, where
            # The kernel is there, not only its name: it keeps most of its weights in registers.
            has_code = kernel.team == "Grid" or int(architecture.rstrip("a")) >= 90
            assert (used["REG"] >= 128) == has_code, where


def test_gpus_to_come_find_ptx() -> None:
    listed = cuobjdump("--list-ptx") if VIRTUAL else ""
    for architecture in VIRTUAL:
        files = re.findall(rf"\.sm_{architecture}\.ptx", listed)
        assert len(files) == len(CELLS) * len(NUMBERS)


def test_where_there_is_an_nvcc_there_are_kernels() -> None:
    """Or the tests above would pass for want of them."""
    of_packages = (f"{folder}/nvidia/cu13/bin" for folder in sys.path)
    folders = os.environ["PATH"], "/usr/local/cuda/bin", *of_packages
    nvcc = shutil.which("nvcc", path=os.pathsep.join(folders))
    assert REAL or nvcc is None, f"built without GPU kernels, although there is {nvcc}"


def arch_functions(header: str) -> set[str]:
    """What a header defines or declares for the kernels in namespace jp::cuda::arch."""
    text = (ROOT / "cuda" / header).read_text()
    inside = text.split("namespace jp::cuda::arch {", 1)[1]
    types = r"(?:[\w:]+[ *&]+)+"
    defined = re.findall(rf"^{types}(\w+)\(", inside, re.MULTILINE)
    return {*defined, *re.findall(r"^using host::(\w+);", inside, re.MULTILINE)}


def test_the_host_has_every_intrinsic_of_the_device() -> None:
    device, host = arch_functions("arch_device.cuh"), arch_functions("arch_host.h")
    assert device - {"WriteHex"} == host - {"Exchange"}  # each header's own helper
    kernels = [p for p in (ROOT / "cuda").glob("*.h") if not p.name.startswith("arch")]
    used = {name for p in kernels for name in re.findall(r"arch::([A-Z]\w+)[<(]", p.read_text())}
    assert used <= device & host
