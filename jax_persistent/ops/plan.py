# SPDX-License-Identifier: Apache-2.0
"""`plan`: where a recurrence's weights would live, asked before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_persistent import compat
from jax_persistent.backends import registry
from jax_persistent.backends.base import Backend, Plan
from jax_persistent.cells import CELLS, Cell
from jax_persistent.cells.elman import ELMAN
from jax_persistent.problem import DTYPES, Problem, operands

_DEFAULTS = {"elman": ELMAN["tanh"]}  # public names that mean a cell with its default activation
_LARGEST = 2**31 - 1


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
        flagship is meant; the default device if not given. "cpu" means this machine's, "cuda" this
        process's first GPU, or else sm_90.
      steps: T, time steps. One or two may be faster as the reference, and for a single one a CPU
        need not keep the weights.

    Returns:
      The plan, whose text says why.

    Raises:
      ValueError: an unknown cell, a size below 1, a dtype that no recurrence has, or a device that
        is none.
      ImportError: the native module can't be loaded.
      RuntimeError: an environment variable for the CPU's kernels is wrong.
    """
    known = cell_of(cell)
    for name, size in (("hidden", hidden), ("batch", batch), ("steps", steps)):
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST:
            raise ValueError(f"{name}: expected an int of at least 1 and below 2^31; got {size!r}")
    element = _element(dtype)
    device = jax.default_backend() if device is None else device
    backend = registry.named(device)
    if backend is None:
        return registry.without_kernels(device)
    kept = {"residuals"} if known.residuals else set()
    forward = Problem(
        "forward",
        known,
        groups=1,
        batch=batch,
        steps=steps,
        inputs=1,
        hidden=hidden,
        dtype=element.name,
        tf32=compat.tf32_is_asked_for(),
        parts=operands.in_order({"inputs", *kept}),
    )
    backward = forward.having("backward", {"d_x", "d_weights", *kept})
    chosen = of_problem(forward, backend, device)
    if chosen.backend != "native":
        return chosen
    of_backward, reason = backend.plan(backward, device), chosen.reason
    if not of_backward["runs"]:
        reason += f". Backward runs as the reference: {of_backward['explanation']}"
    details = {"forward": chosen.details, "backward": of_backward}
    return replace(chosen, reason=reason, details=details)


def of_problem(problem: Problem, backend: Backend, device: jax.Device | str) -> Plan:
    """How one pass would run; its details are the planner's own numbers."""
    if problem.backend == "reference":
        return Plan("reference", "backend='reference' asks for it")
    if not backend.takes_weights_apart:  # the lowering joins them
        problem = replace(problem, weights="one")
    found = backend.plan(problem, device)
    reason = None if found["runs"] else found["explanation"]
    if reason is None and problem.backend is None:
        reason = backend.slower_than_reference(problem)
    if reason is not None:
        return Plan("reference", reason)
    text = found["explanation"]
    return Plan("native", text, found["residency"], found["workers"], found["packed_bytes"], found)


def cell_of(name: Any) -> Cell:
    """The cell of a public name; ValueError for one that is none."""
    known_names = CELLS | _DEFAULTS
    found = known_names.get(name) if isinstance(name, str) else None
    if found is None:
        known = ", ".join(map(repr, known_names))
        raise ValueError(f"cell: expected one of {known}; got {name!r}")
    return found


def _element(dtype: Any) -> Any:
    try:
        element = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        element = None
    if element is None or element.name not in DTYPES:
        raise ValueError(f"dtype: expected {', '.join(DTYPES)}; got {dtype!r}")
    return element
