# SPDX-License-Identifier: Apache-2.0
"""The backends: a line each. Others can be added with `register`."""

from __future__ import annotations

from collections.abc import Callable

from jax_persistent.backends.base import Backend
from jax_persistent.backends.cpu import CpuBackend
from jax_persistent.backends.cuda import CudaBackend

_BACKENDS: dict[str, Backend] = {}
_LISTENERS: list[Callable[[Backend], None]] = []


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


register(CpuBackend())
register(CudaBackend())
