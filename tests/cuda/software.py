# SPDX-License-Identifier: Apache-2.0
"""Puts the software GPU in the place of the CPU's kernels, as a plugin of pytest.

Programs run on XLA's CPU client, but their recurrences are what they would be on a GPU: the
package's own handlers, planned, compiled and launched through the driver, which is the software
GPU's. With what `environment()` gives, `pytest -p tests.cuda.software FILE` does so for tests, and
`python -m tests.cuda.software MODULE ARGUMENTS` for a program.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jax_persistent import compat
from jax_persistent.backends import cuda, registry
from jax_persistent.ffi import call
from jax_persistent.ffi.registration import native_module
from tests.compiling import xla_flags

ROOT = Path(__file__).resolve().parents[2]
LAST_IS_OLDER = "SOFTWARE_GPU_LAST_IS_OLDER"
LIBRARY = ROOT / "build/module/tests/cuda/libsoftware_gpu.so"


def _fields(kind: Any, names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind) for name in names.split())


class Device(ctypes.Structure):
    """As software_gpu.h has it."""

    _fields_ = _fields(
        ctypes.c_int, "capability processors shared_bytes cluster_blocks l2_bytes cooperative"
    )


PART_OF_H100 = Device(90, 8, 227 << 10, 8, 50 << 20, 1)
ONE_CLUSTER_OF_16 = Device(90, 16, 227 << 10, 16, 50 << 20, 1)
PART_OF_A100 = Device(80, 6, 163 << 10, 1, 40 << 20, 1)


class Counts(ctypes.Structure):
    """What has been called, as software_gpu.h has it."""

    _fields_ = _fields(
        ctypes.c_int64,
        "modules functions attributes launches fills copies queries contexts instructions",
    )


class SoftwareGpu(NamedTuple):
    """The library, and its devices as a test sets them."""

    library: ctypes.CDLL

    def set_devices(self, *devices: Device) -> None:
        self.library.SoftwareGpuSetDevices((Device * len(devices))(*devices), len(devices))

    def counts(self) -> Counts:
        """Since the last time."""
        return self.library.SoftwareGpuCounts(1)

    def last_error(self) -> str:
        return self.library.SoftwareGpuLastError().decode()


class _Backend(cuda.CudaBackend):
    platform = "cpu"

    def names(self, device: jax.Device | str) -> bool:
        return isinstance(device, jax.Device) or super().names(device)


def environment() -> dict[str, str]:
    """Of a process that is to use it: eight devices, of one kind unless LAST_IS_OLDER is set."""
    (nvrtc, *_) = compat.nvrtc_files()
    ours = {
        "JAX_PERSISTENT_LIBCUDA": str(LIBRARY),
        "JAX_PERSISTENT_LIBNVRTC": str(LIBRARY),
        "SOFTWARE_GPU_NVRTC": nvrtc,
        # Shared with the native tests; its entries are PTX, and no cache of a real NVRTC's.
        "JAX_PERSISTENT_CACHE_DIR": str(ROOT / "build/module/software_kernels"),
        "XLA_FLAGS": xla_flags("--xla_force_host_platform_device_count=8"),
    }
    return {**os.environ, **ours}


def install() -> SoftwareGpu:
    library = ctypes.CDLL(str(LIBRARY))
    library.SoftwareGpuCounts.restype = Counts
    library.SoftwareGpuLastError.restype = ctypes.c_char_p
    library.SoftwareGpuStream.restype = ctypes.c_void_p
    library.SoftwareGpuHandler.restype = ctypes.c_void_p
    library.SoftwareGpuHandler.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

    def address(capsule: object) -> int:
        return pointer(capsule, None)

    targets = native_module().targets()["CUDA"]
    for slot, (pass_, name) in enumerate(call.TARGETS.items()):
        stages = targets[name]
        execute = library.SoftwareGpuHandler(
            slot, address(stages["initialize"]), address(stages["execute"])
        )
        ours = f"{name}.software"
        jax.ffi.register_ffi_target(
            ours,
            {
                "instantiate": stages["instantiate"],
                "execute": jax.ffi.pycapsule(ctypes.CFUNCTYPE(None)(execute)),
            },
            platform="cpu",
        )
        call.TARGETS[pass_] = ours
    gpu = SoftwareGpu(library)
    last = PART_OF_A100 if os.environ.get(LAST_IS_OLDER) else PART_OF_H100
    gpu.set_devices(*[PART_OF_H100] * (len(jax.local_devices()) - 1), last)
    for device in jax.local_devices():  # as jax's client of a GPU has a context on each
        library.SoftwareGpuStream(device.local_hardware_id)
    cuda.devices = jax.local_devices
    registry.register(_Backend())
    return gpu


GPU = install() if os.environ.get("JAX_PERSISTENT_LIBCUDA") == str(LIBRARY) else None

if __name__ == "__main__":
    assert GPU is not None, "set what environment() gives"
    GPU.set_devices(*[ONE_CLUSTER_OF_16] * len(jax.local_devices()))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
