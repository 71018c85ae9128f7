"""Calls to the native targets, and the reasons not to make one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.export import is_symbolic_dim

from jax_persistent.ffi.registration import native_module

PLATFORMS = ("cpu", "cuda")
FORWARD = "jax_persistent.forward"
BACKWARD = "jax_persistent.backward"
EXCHANGE = "JAX_PERSISTENT_CUDA_EXCHANGE"
_DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
_OF_EVERY_TARGET = ("cell", "reverse", "time_major")
_ATTRIBUTES: dict[tuple[str, str], tuple[str, ...]] = {
    ("cpu", FORWARD): (),
    ("cpu", BACKWARD): ("d_x", "d_weights"),
    ("cuda", FORWARD): ("tf32", "exchange"),
    ("cuda", BACKWARD): ("tf32", "exchange"),
}
# For `slower_than_reference`; bytes of a gate's recurrent weights.
_FEW_STEPS, _FEW_ROWS, _LARGE_BYTES = 2, 4, 256 << 10
_EXCHANGES = ("", "grid", "grid-barrier", "cluster")
NO_CUDA_KERNELS = "this build has no CUDA kernels, as no nvcc was found when it was built"
_ASSUMED_ARCHITECTURE = 90  # where a program is lowered for a GPU that is not here


@dataclass(frozen=True)
class Sizes:
    """What a platform's planner asks of a call.

    A program that is exported for any size has symbols for some of them, which can't be compared.
    """

    cell: str
    target: str
    dtype: Any
    groups: int
    batch: int
    hidden: int
    steps: int
    tf32: bool = False


def refusal(platform: str, sizes: Sizes) -> str | None:
    """Why this platform has no kernel for such a call, or None if it has."""
    reason = refusal_of_dtype(platform, sizes.dtype)
    if reason is not None or platform != "cuda":
        return reason
    if not has_cuda_kernels():
        return NO_CUDA_KERNELS
    if is_symbolic_dim(sizes.hidden):
        return f"H = {sizes.hidden}: where weights live is laid out for a known number of units"
    try:
        found = gpu_plan(sizes, gpu_facts())
    except RuntimeError as error:  # of CUDA: a driver that is too old, say
        return f"CUDA can't be used: {error}"
    return None if found["runs"] else found["explanation"]


def slower_than_reference(platform: str, sizes: Sizes) -> str | None:
    """Why a kernel that could run such a call would be slower than the reference, or None.

    A CPU's kernels copy the weights into the order in which they read them, which a step or two of
    a few rows, as when a model generates its own input, don't make up for. Sizes that are not known
    yet are not taken for small.
    """
    if any(map(is_symbolic_dim, (sizes.hidden, sizes.steps, sizes.batch))):
        return None
    weights = sizes.hidden * sizes.hidden * np.dtype(sizes.dtype).itemsize
    few = sizes.steps <= _FEW_STEPS and sizes.batch <= _FEW_ROWS
    if platform != "cpu" or not few or weights <= _LARGE_BYTES:
        return None
    return (
        f"T = {sizes.steps} and B = {sizes.batch} don't repay the packing of {weights >> 10} KiB "
        "of weights a gate; backend='native' would do it"
    )


def has_cuda_kernels() -> bool:
    return bool(native_module().cuda_architectures())


def refusal_of_dtype(platform: str, dtype: Any) -> str | None:
    """Why this platform has no kernel for this type, or None if it has."""
    name = np.dtype(dtype).name
    if name in _DTYPES[platform]:
        return None
    *others, last = _DTYPES[platform]
    return f"no {platform} kernel for {name}; there is one for {', '.join(others)} and {last}"


def cuda_exchange() -> str:
    """How CUDA blocks are told to exchange messages; "" leaves it to the planner.

    Raises ValueError where the environment variable has another value.
    """
    value = os.environ.get(EXCHANGE, "")
    if value not in _EXCHANGES:
        known = ", ".join(repr(e) for e in _EXCHANGES[1:])
        raise ValueError(f"{EXCHANGE}: expected one of {known}, or nothing; got {value!r}")
    return value


def attributes(platform: str, target: str, static: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `static` that a platform's target takes."""
    return {name: static[name] for name in (*_OF_EVERY_TARGET, *_ATTRIBUTES[platform, target])}


def kernel_call(
    target: str, operands: Sequence[Array], results: Sequence[Any], attributes: Mapping[str, Any]
) -> list[Array]:
    """One custom call. Raises ImportError if the native module can't be used, and says why."""
    native_module()
    shapes = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results]
    return list(jax.ffi.ffi_call(target, shapes)(*operands, **attributes))


def cpu_plan(
    cell: str, hidden: int, batch: int, steps: int, weight_bytes: int, threads: int
) -> dict[str, Any]:
    """The native planner's answer for this machine's CPU."""
    native = native_module()
    return native.plan_cpu(cell, hidden, batch, steps, weight_bytes, **native.cpu_facts(threads))


def gpu_facts(device: Any = None) -> dict[str, int]:
    """What the planner asks of a GPU.

    Args:
      device: a GPU, an architecture (90 for sm_90), whose flagship is meant, or None: the first GPU
        of this machine, and the assumed architecture's flagship if it has none.

    Raises:
      RuntimeError: CUDA can't say; its own words.
    """
    if device is None:
        try:
            device = jax.devices("cuda")[0]
        except RuntimeError:
            device = _ASSUMED_ARCHITECTURE
    if isinstance(device, int):
        return native_module().gpu_facts(device)
    return native_module().gpu_device_facts(device.local_hardware_id)


def gpu_plan(sizes: Sizes, facts: Mapping[str, int]) -> dict[str, Any]:
    """The native planner's answer for a GPU.

    Whether there is a kernel depends on no number of rows, so a symbolic one is taken for 1.
    """
    groups, batch = (1 if is_symbolic_dim(n) else n for n in (sizes.groups, sizes.batch))
    number = np.dtype(sizes.dtype).name
    return native_module().plan_gpu(
        sizes.cell,
        sizes.target == BACKWARD,
        "tf32" if number == "float32" and sizes.tf32 else number,
        groups,
        batch,
        sizes.hidden,
        cuda_exchange(),
        **facts,
    )
