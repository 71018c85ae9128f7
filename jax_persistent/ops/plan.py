"""`plan`: where a recurrence's weights would live, asked before anything runs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_persistent.ffi import call
from jax_persistent.ops.cells import CELLS, GRU, LSTM, Cell
from jax_persistent.ops.spec import DTYPES, tf32_is_asked_for

# The letter of a family or of an architecture's own instructions: the machine is the same.
_ARCHITECTURE = re.compile(r"sm_([0-9]{1,4})[af]?")
_NAMES = {"lstm": LSTM, "gru": GRU, "elman": CELLS["elman_tanh"]}


@dataclass(frozen=True)
class Plan:
    """How a call would run; `print` it.

    Attributes:
      backend: "native" or "reference".
      reason: why it runs so; for "reference", why there is no kernel, or none that is faster.
      residency: the level of memory that holds the weights during the sequence, such as "L2".
      workers: cores (or thread blocks) that share a step.
      packed_bytes: recurrent weights on the chip at a time, all workers together.
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
    steps: int = 128,
) -> Plan:
    """Says how a recurrence would run, without running it.

    Args:
      cell: "lstm", "gru" or "elman".
      hidden: H, units.
      batch: B, rows a device works on at once.
      dtype: of the operands.
      device: a device, a platform's name, or a GPU architecture such as "sm_90" or "sm_90a", whose
        flagship is meant; the default device if not given. For another machine's CPU only the
        platform is known, and this machine's caches are assumed; for "cuda", its first GPU, or
        sm_90.
      steps: T, time steps. One or two may be faster as the reference, and for a single one a CPU
        need not keep the weights.

    Raises:
      ValueError: an unknown cell, a size below 1, a dtype that no recurrence has, or no device.
    """
    known = _cell(cell)
    for name, size in (("hidden", hidden), ("batch", batch), ("steps", steps)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: expected an int of at least 1; got {size!r}")
    element = _element(dtype)
    platform = _platform(device)
    if platform not in call.PLATFORMS:
        kernels = ", ".join(call.PLATFORMS)
        return Plan("reference", f"no kernel for platform {platform!r}; there are for {kernels}")
    forward_sizes, backward_sizes = (
        call.Sizes(known.name, target, element, 1, batch, hidden, steps, tf32_is_asked_for())
        for target in (call.FORWARD, call.BACKWARD)
    )
    reason = call.refusal_of_dtype(platform, element)
    if reason is None:
        reason = call.slower_than_reference(platform, forward_sizes)
    if reason is not None:
        return Plan("reference", reason)
    if platform == "cuda":
        return _gpu_plan(forward_sizes, backward_sizes, device)
    found = call.cpu_plan(known.name, hidden, batch, steps, element.itemsize, os.cpu_count() or 1)
    forward = found["forward"]
    return Plan(
        backend="native",
        reason=found["explanation"],
        residency=found["residency"],
        workers=forward["workers"],
        packed_bytes=forward["packed_bytes"],
        details={"forward": forward, "backward": found["backward"]},
    )


def _gpu_plan(
    forward_sizes: call.Sizes, backward_sizes: call.Sizes, device: jax.Device | str | None
) -> Plan:
    architecture = _architecture(device)
    if architecture is None and not call.has_cuda_kernels():
        return Plan("reference", call.NO_CUDA_KERNELS)
    try:
        here = None if isinstance(device, str) else device
        facts = call.gpu_facts(here if architecture is None else architecture)
    except RuntimeError as error:  # of CUDA
        return Plan("reference", str(error))
    forward, backward = call.gpu_plan(forward_sizes, facts), call.gpu_plan(backward_sizes, facts)
    reason = forward["explanation"]
    if not forward["runs"]:
        return Plan("reference", reason)
    if not backward["runs"]:
        reason += f". Backward runs as the reference: {backward['explanation']}"
    return Plan(
        backend="native",
        reason=reason,
        residency=forward["residency"],
        workers=forward["workers"],
        packed_bytes=forward["packed_bytes"],
        details={"forward": forward, "backward": backward},
    )


def _architecture(device: jax.Device | str | None) -> int | None:
    """90 for "sm_90"; None for what is no architecture's name."""
    found = _ARCHITECTURE.fullmatch(device) if isinstance(device, str) else None
    return None if found is None else int(found.group(1))


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


def _platform(device: Any) -> str:
    name = jax.default_backend() if device is None else getattr(device, "platform", device)
    if not isinstance(name, str):
        raise ValueError(
            "device: expected a jax.Device, a platform such as 'cpu', or an architecture such as "
            f"'sm_90'; got {device!r}"
        )
    return "cuda" if name == "gpu" or _ARCHITECTURE.fullmatch(name) else name
