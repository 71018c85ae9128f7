"""Calls to the native targets, and the reasons not to make one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from jax_persistent.ffi.registration import native_module

PLATFORMS = ("cpu",)
FORWARD = "jax_persistent.forward"
BACKWARD = "jax_persistent.backward"
_DTYPES = {"cpu": ("float32", "bfloat16")}


def refusal(platform: str, dtype: Any) -> str | None:
    """Why this platform has no kernel for these operands, or None if it has."""
    name = np.dtype(dtype).name
    if name not in _DTYPES[platform]:
        known = " and ".join(_DTYPES[platform])
        return f"no {platform} kernel for {name}; there is one for {known}"
    return None


def kernel_call(
    target: str, operands: Sequence[Array], results: Sequence[Any], attributes: Mapping[str, Any]
) -> list[Array]:
    """One custom call. Raises ImportError if the native module can't be used, and says why."""
    native_module()
    shapes = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results]
    return list(jax.ffi.ffi_call(target, shapes)(*operands, **attributes))


def cpu_plan(cell: str, hidden: int, batch: int, weight_bytes: int, threads: int) -> dict[str, Any]:
    """The native planner's answer for this machine's CPU."""
    native = native_module()
    return native.plan_cpu(cell, hidden, batch, weight_bytes, **native.cpu_facts(threads))
