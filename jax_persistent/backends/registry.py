# SPDX-License-Identifier: Apache-2.0
"""The backends: a line each. Others can be added with `register`."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jax_persistent.backends.base import Backend, Plan
from jax_persistent.backends.cpu import CpuBackend
from jax_persistent.backends.cuda import CudaBackend

_BACKENDS: dict[str, Backend] = {}
_LISTENERS: list[Callable[[Backend], None]] = []
_WITHOUT_KERNELS = ("tpu", "rocm", "metal", "METAL")  # of jax's platforms


def register(backend: Backend) -> None:
    """Adds a backend for its platform, or replaces the one that is there."""
    _BACKENDS[backend.platform] = backend
    for listener in _LISTENERS:
        listener(backend)


def for_each(listener: Callable[[Backend], None]) -> None:
    """Calls `listener` with every backend that there is, and with each that is added later."""
    _LISTENERS.append(listener)
    for backend in _BACKENDS.values():
        listener(backend)


def backends() -> tuple[Backend, ...]:
    return tuple(_BACKENDS.values())


def platforms() -> tuple[str, ...]:
    """The platforms that have kernels."""
    return tuple(_BACKENDS)


def backend_of(platform: str) -> Backend:
    return _BACKENDS[platform]


def named(device: jax.Device | str) -> Backend | None:
    """The backend of a device, a platform's name, or an architecture; None if there is none.

    Raises ValueError where it is none of these.
    """
    if isinstance(getattr(device, "platform", device), str):
        found = next((b for b in backends() if b.names(device)), None)
        is_name = isinstance(device, str)
        if found or not is_name or device in (*_WITHOUT_KERNELS, jax.default_backend()):
            return found
    raise ValueError(
        "device: expected a jax.Device, a platform (cpu, cuda, tpu), or an architecture such "
        f"as sm_80 (A100) or sm_90 (H100); got {device!r}"
    )


def without_kernels(device: jax.Device | str) -> Plan:
    """The plan for a device that no backend names."""
    name = device if isinstance(device, str) else device.platform
    known = ", ".join(platforms())
    return Plan("reference", f"no kernel for platform {name!r}; there are for {known}")


register(CpuBackend())
register(CudaBackend())
