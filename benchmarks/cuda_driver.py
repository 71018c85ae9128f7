# SPDX-License-Identifier: Apache-2.0
"""A GPU, reached through its driver and NVRTC alone: kernels of a file, one array, launches."""

from __future__ import annotations

import os
import struct
from ctypes import CDLL, addressof, byref, c_char_p, c_int, c_int64, c_size_t, c_uint64, c_void_p
from ctypes import create_string_buffer as buffer
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from jax_persistent import compat

COOPERATIVE, CLUSTER, ANY_CLUSTER, PROCESSORS, MAJOR, MINOR = 2, 4, 14, 16, 75, 76  # cuda.h's


def call(library: CDLL, name: str, *arguments: Any) -> None:
    if error := getattr(library, name)(*arguments):
        raise RuntimeError(f"{name}: error {error}")


def compiled(source: Path, architecture: str) -> bytes:
    """Machine code of a file that may include what is in this repository."""
    nvrtc = CDLL(os.environ.get("JAX_PERSISTENT_LIBNVRTC") or compat.nvrtc_files()[0])
    program, size = c_void_p(), c_size_t()
    text, name = source.read_bytes(), source.name.encode()
    call(nvrtc, "nvrtcCreateProgram", byref(program), text, name, 0, None, None)
    options = [f"--gpu-architecture={architecture}", f"--include-path={ROOT}"]
    options += ["--std=c++20", "--device-as-default-execution-space"]
    given = (c_char_p * len(options))(*map(str.encode, options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    what = "ProgramLog" if failed else "CUBIN"
    call(nvrtc, f"nvrtcGet{what}Size", program, byref(size))
    found = buffer(size.value)
    call(nvrtc, f"nvrtcGet{what}", program, found)
    if failed:
        raise RuntimeError(found.value.decode())
    return found.raw


class Gpu:
    """The first one, with the kernels of a file and an array of so many bytes."""

    def __init__(self, source: Path, size: int) -> None:
        self._cuda = CDLL(os.environ.get("JAX_PERSISTENT_LIBCUDA") or "libcuda.so.1")
        self._stream, self._module, context = c_void_p(), c_void_p(), c_void_p()
        self._size, self._memory = c_size_t(size), c_uint64()
        call(self._cuda, "cuInit", 0)
        call(self._cuda, "cuDevicePrimaryCtxRetain", byref(context), 0)
        call(self._cuda, "cuCtxPushCurrent_v2", context)
        call(self._cuda, "cuStreamCreate", byref(self._stream), 1)
        call(self._cuda, "cuMemAlloc_v2", byref(self._memory), self._size)
        architecture = f"sm_{self._fact(MAJOR)}{self._fact(MINOR)}"
        image = compiled(source, architecture)
        call(self._cuda, "cuModuleLoadData", byref(self._module), image)
        self.processors = self._fact(PROCESSORS)

    def _fact(self, which: int) -> int:
        value = c_int()
        call(self._cuda, "cuDeviceGetAttribute", byref(value), which, 0)
        return value.value

    def run(
        self, kernel: str, blocks: int, threads: int, *numbers: int, cluster_bytes: int = 0
    ) -> int:
        """Clears the array, launches a kernel with its address and `numbers`, reads its first word.

        With `cluster_bytes` the blocks are a cluster with so much shared memory each; without, the
        launch is a cooperative one.
        """
        function, word = c_void_p(), c_int64()
        call(self._cuda, "cuModuleGetFunction", byref(function), self._module, kernel.encode())
        launch = (COOPERATIVE, 0, 1, 0, 0)
        if cluster_bytes:
            call(self._cuda, "cuFuncSetAttribute", function, ANY_CLUSTER, 1)
            launch = (CLUSTER, 0, blocks, 1, 1)
        attribute = buffer(struct.pack("5i52x", *launch))
        sizes = (blocks, 1, 1, threads, 1, 1, cluster_bytes)
        config = struct.pack("7I4xQQI4x", *sizes, self._stream.value, addressof(attribute), 1)
        arguments = buffer(struct.pack(f"Q{len(numbers)}i", self._memory.value, *numbers))
        given = (c_void_p * 1)(addressof(arguments))
        call(self._cuda, "cuMemsetD8Async", self._memory, 0, self._size, self._stream)
        call(self._cuda, "cuLaunchKernelEx", config, function, given, None)
        call(self._cuda, "cuStreamSynchronize", self._stream)
        call(self._cuda, "cuMemcpyDtoH_v2", byref(word), self._memory, c_size_t(8))
        return word.value
