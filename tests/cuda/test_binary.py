# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels as NVRTC compiles them: none spills registers, for any architecture.

No GPU is needed. Those that take the most registers are compiled.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jax
import pytest
from programs import steps

from jax_persistent.backends import cuda
from jax_persistent.cells import CELLS
from jax_persistent.ffi.registration import native_module
from jax_persistent.programs import functions, lowering

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/module"
HEADER_BYTES = 24  # of an entry of the cache, before the code
TIGHTEST = [("lstm", "bfloat16", arch) for arch in ("sm_80", "sm_90", "sm_100", "sm_120")]
TIGHTEST.append(("lstm", "float32", "sm_90"))  # tf32, too


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of these sources and this NVRTC alone, kept in the build tree for the next run."""
    made_of = hashlib.sha256(dict(native_module().report("CUDA"))["NVRTC"].encode())
    written = [ROOT / "cuda" / name for name in ("kernel_id.cc", "program_source.cc")]
    for source in (BUILD / "cuda/kernel_sources.cc", *written):
        made_of.update(source.read_bytes())
    folder = BUILD / "device_kernels" / made_of.hexdigest()
    if not folder.exists():
        shutil.rmtree(folder.parent, ignore_errors=True)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_DIR", str(folder))
    return folder


def resources(binary: Path) -> dict[str, int]:
    """What the kernel of a binary takes: REG, STACK, LOCAL and more."""
    tool = distribution("nvidia-cuda-cuobjdump").locate_file("nvidia/cu13/bin/cuobjdump")
    command = [str(tool), "--dump-resource-usage", str(binary)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (numbers,) = re.findall(r"^ *Function \w+:\n *(\S.*)$", text, re.MULTILINE)
    return {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", numbers)}


def check_resources(entry: Path, binary: Path) -> None:
    binary.write_bytes(entry.read_bytes()[HEADER_BYTES:])
    used = resources(binary)
    assert (used["STACK"], used["LOCAL"]) == (0, 0), (entry.name, used)
    # The kernel is there, not only its name: it keeps most of its weights in registers.
    assert 128 <= used["REG"] <= 255, (entry.name, used)


@pytest.mark.parametrize(("cell", "dtype", "architecture"), TIGHTEST)
def test_the_tightest_kernels_stay_in_registers(
    cell: str, dtype: str, architecture: str, cache: Path, tmp_path: Path
) -> None:
    """Of 65536 registers a block's 256 threads can have 255 each; what spills is LOCAL or STACK."""
    # Through L2 forward of two widths, backward of three; of one in float32 and in clusters.
    kernels = 5 if dtype != "float32" else 5 + 2
    if architecture != "sm_80":
        kernels += 4 if dtype == "float32" else 2
    assert cuda.compile_ahead(CELLS[cell], dtype, architecture) == kernels
    dtypes = (dtype, "tf32") if dtype == "float32" else (dtype,)
    entries = [e for d in dtypes for e in cache.glob(f"{cell}_{d}_*_{architecture}*.kernel")]
    assert len(entries) == kernels
    binary = tmp_path / "kernel.cubin"
    for entry in entries:
        check_resources(entry, binary)


def test_warm_and_info_count_what_is_there(cache: Path) -> None:
    """After the tightest kernels, so that `warm` finds them."""
    run = partial(subprocess.run, capture_output=True, text=True, check=True)
    command = [sys.executable, "-m", "jax_persistent"]
    warm = ["warm", "--cell", "lstm", "--dtype", "bfloat16", "--architecture", "sm_80"]
    said = run([*command, *warm]).stdout
    assert re.search(r"^lstm +bfloat16 +sm_80 +5 ", said, re.MULTILINE)
    assert len(list(cache.glob("lstm_bfloat16_*_grid_*_sm_80-*.kernel"))) == 5
    kernels = list(cache.glob("*.kernel"))
    kib = sum(kernel.stat().st_size for kernel in kernels) >> 10
    assert f"{cache}, {len(kernels)} kernels, {kib} KiB" in run([*command, "info"]).stdout


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_a_step_function_stays_in_registers(architecture: str, cache: Path, tmp_path: Path) -> None:
    """One of four gates and four states, with what its gradient will read: 31 operations."""
    case = steps.CASES["stabilised"]
    weights, carry, xs = steps.arguments(case, seed=0)
    programs = []

    def trace(carry: Any, xs: Any) -> None:
        body = functions._trace(partial(case.step, weights), carry, xs, None)
        traced = functions._traced(body, False)
        operands, how = traced.operands(traced.recurrence.compute(traced.body.init, traced.body.xs))
        how |= {"step": traced.step.backward.forward, "steps": steps.T, "reverse": False}
        program, _ = lowering.described_core(cuda.CudaBackend(), operands, **how)
        programs.append(program)

    jax.eval_shape(trace, carry, xs)
    native = native_module()
    facts = native.architecture_facts("CUDA", architecture)
    how = {"facts": facts, "options": {"exchange": "grid", "width": "1"}, "compiles": True}
    assert native.program_plan("CUDA", **programs[0], **how)["runs"]
    (entry,) = cache.glob(f"scan_4_float32_grid_1_*_{architecture}*.kernel")
    check_resources(entry, tmp_path / "kernel.cubin")


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
