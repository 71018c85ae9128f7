"""`plan`: where a recurrence's weights would live, asked before anything runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_persistent.ffi import call
from jax_persistent.ops.cells import CELLS, GRU, LSTM, Cell
from jax_persistent.ops.spec import DTYPES

_NAMES = {"lstm": LSTM, "gru": GRU, "elman": CELLS["elman_tanh"]}


@dataclass(frozen=True)
class Plan:
    """How a call would run; `print` it.

    Attributes:
      backend: "native" or "reference".
      reason: why it runs so; for "reference", why there is no kernel.
      residency: the level of memory that holds the weights during the sequence, such as "L2".
      workers: cores (or thread blocks) that share a step.
      packed_bytes: recurrent weights on the chip, all workers together.
      details: the planner's own numbers, by direction.
    """

    backend: str
    reason: str
    residency: str | None = None
    workers: int | None = None
    packed_bytes: int | None = None
    details: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


def plan(
    cell: str,
    hidden: int,
    batch: int,
    dtype: DTypeLike = jnp.float32,
    device: jax.Device | str | None = None,
) -> Plan:
    """Says how a recurrence would run, without running it.

    Args:
      cell: "lstm", "gru" or "elman".
      hidden: H, units.
      batch: B, rows a device works on at once.
      dtype: of the operands.
      device: a device or a platform's name; the default device if not given. For another machine's
        CPU only the platform is known, and this machine's caches are assumed.

    Raises:
      ValueError: an unknown cell, a size below 1, or a dtype that no recurrence has.
    """
    known = _cell(cell)
    for name, size in (("hidden", hidden), ("batch", batch)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: expected an int of at least 1; got {size!r}")
    element = _element(dtype)
    platform = _platform(device)
    if platform not in call.PLATFORMS:
        kernels = ", ".join(call.PLATFORMS)
        return Plan("reference", f"no kernel for platform {platform!r}; there are for {kernels}")
    reason = call.refusal(platform, element)
    if reason is not None:
        return Plan("reference", reason)
    found = call.cpu_plan(known.name, hidden, batch, element.itemsize, os.cpu_count() or 1)
    forward = found["forward"]
    return Plan(
        backend="native",
        reason=found["explanation"],
        residency=found["residency"],
        workers=forward["workers"],
        packed_bytes=forward["packed_bytes"],
        details={"forward": forward, "backward": found["backward"]},
    )


def _cell(name: Any) -> Cell:
    if not isinstance(name, str) or name not in _NAMES:
        known = ", ".join(repr(n) for n in _NAMES)
        raise ValueError(f"cell: expected one of {known}; got {name!r}")
    return _NAMES[name]


def _element(dtype: Any) -> Any:
    try:
        element = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        element = None
    if element is None or element.name not in DTYPES:
        raise ValueError(f"dtype: expected {', '.join(DTYPES)}; got {dtype!r}")
    return element


def _platform(device: jax.Device | str | None) -> str:
    if device is None:
        return jax.default_backend()
    if isinstance(device, str):
        return device
    return device.platform
