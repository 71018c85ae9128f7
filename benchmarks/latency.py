# SPDX-License-Identifier: Apache-2.0
"""Times the doubtful figures of cycles.py's model on a GPU; latency.cu has the kernels.

python -m benchmarks.latency --output latency.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import sys
from collections.abc import Sequence
from ctypes import CDLL, addressof, byref, c_char_p, c_int64, c_size_t, c_uint64, c_void_p
from ctypes import create_string_buffer as buffer
from pathlib import Path
from typing import Any

from benchmarks.cycles import exchange_cycles
from benchmarks.gpu_layout import H100
from benchmarks.machine import ROOT
from jax_persistent.ffi.registration import native_module

COOPERATIVE, CLUSTER, ANY_CLUSTER = 2, 4, 14  # attributes of a launch and of a kernel: cuda.h
FIRST_WORD = 4096  # byte of the array: before them is the result


def call(library: CDLL, name: str, *arguments: Any) -> None:
    if error := getattr(library, name)(*arguments):
        raise RuntimeError(f"{name}: error {error}")


def compiled(source: Path, architecture: int) -> bytes:
    """Machine code of a file that may include what is in this repository."""
    nvrtc = CDLL(dict(native_module().report("CUDA"))["NVRTC"].split(", ", 1)[1])  # the package's
    program, size = c_void_p(), c_size_t()
    options = [f"--gpu-architecture=sm_{architecture}", f"--include-path={ROOT}", "--std=c++20"]
    options.append("--device-as-default-execution-space")
    given = (c_char_p * len(options))(*map(str.encode, options))
    text = source.read_bytes()
    call(nvrtc, "nvrtcCreateProgram", byref(program), text, b"latency.cu", 0, None, None)
    call(nvrtc, "nvrtcCompileProgram", program, len(options), given)
    call(nvrtc, "nvrtcGetCUBINSize", program, byref(size))
    image = buffer(size.value)
    call(nvrtc, "nvrtcGetCUBIN", program, image)
    return image.raw


class Gpu:
    """The first one, reached through its driver, with latency.cu and an array for it."""

    def __init__(self, words: int) -> None:
        facts = native_module().facts("CUDA", device=0)
        self.processors = facts["processors"]
        self._cuda = CDLL(os.environ.get("JAX_PERSISTENT_LIBCUDA") or "libcuda.so.1")
        self._size, self._memory = c_size_t(FIRST_WORD + 4 * words), c_uint64()
        self._stream, self._module, context = c_void_p(), c_void_p(), c_void_p()
        call(self._cuda, "cuDevicePrimaryCtxRetain", byref(context), 0)
        call(self._cuda, "cuCtxPushCurrent_v2", context)
        call(self._cuda, "cuStreamCreate", byref(self._stream), 1)
        call(self._cuda, "cuMemAlloc_v2", byref(self._memory), self._size)
        image = compiled(Path(__file__).with_suffix(".cu"), facts["architecture"])
        call(self._cuda, "cuModuleLoadData", byref(self._module), image)

    def cycles(self, kernel: str, blocks: int, threads: int, steps: int, each: int) -> int:
        """Of one launch, a cooperative one or, with messages for `each`, of one cluster."""
        function, cycles = c_void_p(), c_int64()
        call(self._cuda, "cuModuleGetFunction", byref(function), self._module, kernel.encode())
        launch = (COOPERATIVE, 0, 1, 0, 0)
        if each:
            call(self._cuda, "cuFuncSetAttribute", function, ANY_CLUSTER, 1)
            launch = (CLUSTER, 0, blocks, 1, 1)
        # CUlaunchAttribute, CUlaunchConfig and latency.cu's Args.
        attribute = buffer(struct.pack("5i52x", *launch))
        sizes = (blocks, 1, 1, threads, 1, 1, 128 + 2 * 16 * each * blocks)
        config = struct.pack("7I4xQQI4x", *sizes, self._stream.value, addressof(attribute), 1)
        first = self._memory.value
        arguments = buffer(struct.pack("QQii", first, first + FIRST_WORD, steps, each))
        call(self._cuda, "cuMemsetD8Async", self._memory, 0, self._size, self._stream)
        given = (c_void_p * 1)(addressof(arguments))
        call(self._cuda, "cuLaunchKernelEx", config, function, given, None)
        call(self._cuda, "cuStreamSynchronize", self._stream)
        call(self._cuda, "cuMemcpyDtoH_v2", byref(cycles), self._memory, c_size_t(8))
        if cycles.value < 0:
            raise RuntimeError("a value did not come in time")
        return cycles.value


def figures(processors: int) -> list[tuple[str, float, int, tuple[Any, ...]]]:
    """(what, cycles in the model, waits of a step, launch) of each."""
    seen, arrived, load = exchange_cycles("grid"), exchange_cycles("cluster"), H100.l2_far_trip
    pollers = f"store to poll, {8 * processors} pollers"
    found = [("store to poll, 1 poller", seen, 2, ("trip", 2, 32, 0))]
    found.append((pollers, seen, 2, ("trip", processors, 256, 0)))
    for size, blocks in ((16, 4), (16, 16), (1024, 4), (1024, 16)):
        what = f"st.async to arrival, {size} bytes from each of {blocks} blocks"
        assumed = arrived + blocks * size / H100.dsmem_bytes
        found.append((what, assumed, 1, ("arrival", blocks, 256, size // 16)))
    for n in (1, 4, 8):  # and two instructions after the other for what each has brought
        launch = (f"load_{n}", 1, 32, 0)
        found.append((f"{n} loads from L2 at once", load + 2 * n * H100.alu, 1, launch))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    gpu, rows = Gpu(8 * 16 * 8 * (options.steps + 1)), []
    for what, assumed, waits, (kernel, blocks, threads, each) in figures(gpu.processors):
        row = {"what": what, "assumed": round(assumed)}
        try:
            launch = (kernel, blocks, threads, options.steps, each)
            found = statistics.median(gpu.cycles(*launch) for _ in range(options.repeats))
            row["measured"] = round(found / options.steps / waits)
            print(f"{what}: {row['measured']} cycles, assumed {row['assumed']}")
        except RuntimeError as error:
            row["error"] = str(error)
            print(f"{what}: {error}")
        rows.append(row)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return any("error" in row for row in rows)


if __name__ == "__main__":
    sys.exit(main())
