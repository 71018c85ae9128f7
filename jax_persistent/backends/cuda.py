# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs' kernels: the recurrence alone, its input products and weight gradients are XLA's.

XLA's own products are fast on a GPU, and it may fuse them with what is around them. The kernels are
compiled where they run, when XLA makes a program of theirs.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import Array
from jax.export import is_symbolic_dim

from jax_persistent.backends import reference
from jax_persistent.backends.base import Backend, with_known_sizes, without_cell
from jax_persistent.cells import Cell
from jax_persistent.ffi import call
from jax_persistent.ffi.registration import native_module
from jax_persistent.problem import Arrays, Problem

EXCHANGE = "JAX_PERSISTENT_CUDA_EXCHANGE"
_EXCHANGES = ("", "grid", "grid-barrier", "cluster")
_NATIVE = "CUDA"  # the platform's name to XLA and to the native module
_SIZES_OF_ROWS = ("groups", "batch", "steps", "inputs")  # on which no kernel depends
_ASSUMED = "sm_90"  # where a program is lowered for a GPU that is not here
# The letter of a family or of an architecture's own instructions: the machine is the same.
_ARCHITECTURE = re.compile(r"sm_([0-9]{1,4})[af]?")


class CudaBackend(Backend):
    platform = "cuda"
    dtypes = ("float32", "bfloat16", "float16")

    def call(self, problem: Problem, arrays: Arrays) -> Arrays:
        return (_forward if problem.pass_ == "forward" else _backward)(problem, arrays)

    def names(self, device: jax.Device | str) -> bool:
        name = device if isinstance(device, str) else device.platform
        return name in ("cuda", "gpu") or _architecture(name) is not None

    def plan(self, problem: Problem, device: jax.Device | str | None) -> dict[str, Any]:
        if not call.has_cell(problem):
            return without_cell(problem)
        if problem.packed_lanes:
            return {"runs": False, "explanation": "the kernels were packed for a CPU"}
        missing = _missing(device)
        if missing and problem.dtype in self.dtypes:
            return {"runs": False, "explanation": missing}
        if is_symbolic_dim(problem.hidden):
            reason = f"H = {problem.hidden}: where weights live is laid out for a known number"
            return {"runs": False, "explanation": f"{reason} of units"}
        # Whether there is a kernel depends on no number of rows or steps.
        recurrence = _recurrence_of(with_known_sizes(problem, *_SIZES_OF_ROWS))
        return _plan_of_all(lambda facts: _plan(recurrence, facts), device, missing)

    def facts(self, device: jax.Device | str | None) -> dict[str, int]:
        return _facts(device, _missing(device))[0]

    def plan_program(
        self, program: Mapping[str, Any], device: jax.Device | str | None
    ) -> dict[str, Any]:
        if missing := _missing(device):
            return {"runs": False, "explanation": missing}
        return _plan_of_all(lambda facts: _plan_program(program, facts), device, missing)

    def call_program(
        self,
        program: Mapping[str, Any],
        operands: Sequence[Any],
        results: Sequence[jax.ShapeDtypeStruct],
    ) -> list[Array]:
        plans = [_plan_program(program, facts) for facts in _facts_here()]
        workspace = max(plan["workspace_bytes"] for plan in plans)
        return call.program_call(program, operands, results, workspace, exchange=exchange())


def _recurrence_of(problem: Problem) -> Problem:
    """What is left of a problem for the kernel: the products with the inputs are XLA's."""
    kept = {"recurrent_bias", "lengths", "resets", "reset_state", "chunked", "residuals"}
    parts = set(problem.parts) & kept
    if problem.pass_ == "forward":
        return problem.having("forward", parts | {"input_gates"})
    gates = {"d_gates", "d_recurrent_gates"} if problem.cell.reset_after else {"d_gates"}
    return problem.having("backward", parts | gates)


def exchange() -> str:
    """How blocks are told to exchange messages; "" leaves it to the planner.

    Raises ValueError where the environment variable has another value.
    """
    value = os.environ.get(EXCHANGE, "")
    if value not in _EXCHANGES:
        known = ", ".join(repr(e) for e in _EXCHANGES[1:])
        raise ValueError(f"{EXCHANGE}: expected one of {known}, or nothing; got {value!r}")
    return value


def _plan(recurrence: Problem, facts: dict[str, int]) -> dict[str, Any]:
    attributes = recurrence.encoded() | {"pass": recurrence.pass_}
    return native_module().plan(_NATIVE, attributes, facts, {"exchange": exchange()})


def _plan_program(program: Mapping[str, Any], facts: dict[str, int]) -> dict[str, Any]:
    options = {"exchange": exchange()}
    return native_module().program_plan(_NATIVE, **program, facts=facts, options=options)


def _plan_of_all(
    plan: Callable[[dict[str, int]], dict[str, Any]],
    device: jax.Device | str | None,
    missing: str,
) -> dict[str, Any]:
    """The plan for the GPUs that are meant: of those that refuse it, where there are any."""
    try:
        plans = [plan(facts) for facts in _facts(device, missing)]
    except RuntimeError as error:  # of CUDA: a driver that is too old, say
        return {"runs": False, "explanation": f"CUDA can't be used: {error}"}
    # A program may run on any of the devices that are meant.
    return next((plan for plan in plans if not plan["runs"]), plans[0])


def _missing(device: jax.Device | str | None) -> str:
    """Why no kernel can run here, or an empty text; that too where another machine is meant."""
    here = _architecture(device) is None
    return native_module().missing(_NATIVE) if here and devices() else ""


def compile_ahead(cell: Cell, dtype: str, architecture: str) -> int:
    """Puts a cell's kernels for an architecture such as "sm_90" into the cache on disk.

    There is one a pass, a way of exchange and a width of its unit blocks, whatever the sizes. Where
    float32 is asked for, those whose products are rounded to tf32 are compiled, too.

    Returns:
      How many kernels the cache has of these now.

    Raises:
      ValueError: no kernel runs on such an architecture.
      RuntimeError: nothing can be compiled; the compiler's words.
    """
    facts = native_module().architecture_facts(_NATIVE, architecture)
    if not facts:
        raise ValueError(f"architecture: expected one such as 'sm_90'; got {architecture!r}")
    tf32 = (False, True) if dtype == "float32" else (False,)
    parts = {"residuals"} if cell.residuals else set()
    done = 0
    ways = (("grid", "1"), ("grid", "2"), ("grid", "4"), ("cluster", "1"))
    for (how, width), pass_, rounds in itertools.product(ways, ("forward", "backward"), tf32):
        small = Problem("forward", cell, 1, 1, 1, 0, 64, dtype, tf32=rounds)
        recurrence = _recurrence_of(small.having(pass_, parts))
        attributes = recurrence.encoded() | {"pass": pass_}
        options = {"exchange": how, "width": width}
        found = native_module().plan(_NATIVE, attributes, facts, options, compiles=True)
        if options == {"exchange": "grid", "width": "1"} and not found["runs"]:
            raise ValueError(f"{architecture}: {found['explanation']}")
        done += found["runs"]
    return done


def _call(recurrence: Problem, arrays: Arrays) -> Arrays:
    """The kernel's call, with memory enough for each of the devices that it may run on."""
    workspace = _workspace_bytes(recurrence)
    return call.kernel_call(recurrence, arrays, workspace, exchange=exchange())


def _workspace_bytes(recurrence: Problem) -> Any:
    """What a call needs; where sizes are symbolic, what any of them needs at most."""
    known = with_known_sizes(recurrence, *_SIZES_OF_ROWS)
    plans = [_plan(known, facts) for facts in _facts_here()]
    if known == recurrence:
        return max(plan["workspace_bytes"] for plan in plans)
    names = ("workspace_fixed", "workspace_per_row", "workspace_per_step")
    fixed, per_row, per_step = (max(plan[name] for plan in plans) for name in names)
    rows = recurrence.groups * recurrence.batch
    return fixed + per_row * rows + per_step * rows * recurrence.steps


def _forward(problem: Problem, arrays: Arrays) -> Arrays:
    gates = reference.each_layer(reference.project, arrays.x, arrays.input_kernel, arrays.bias)
    projected = Arrays(arrays | {"input_gates": gates})
    return _call(_recurrence_of(problem), projected)


def _backward(problem: Problem, arrays: Arrays) -> Arrays:
    found = _call(_recurrence_of(problem), arrays)
    if arrays.input_kernel is not None:
        found["d_x"] = reference.each_layer(
            reference.input_gradient, found.d_input_gates, arrays.input_kernel
        )
    return found


def _architecture(device: jax.Device | str | None) -> str | None:
    """The "90" of "sm_90" and "sm_90a"; None for what is no architecture's name."""
    found = _ARCHITECTURE.fullmatch(device) if isinstance(device, str) else None
    return None if found is None else found.group(1)


def _facts(device: Any, missing: str) -> list[dict[str, int]]:
    """What the planner asks of GPUs, of one or more.

    Args:
      device: a GPU; an architecture such as "sm_90", whose flagship is meant; or None or a
        platform's name: all GPUs of this process, else the assumed architecture's flagship.
      missing: why no GPU here can be asked; the assumed one is, then.

    Raises:
      RuntimeError: CUDA can't say; its own words.
    """
    architecture = _ASSUMED if missing else _architecture(device)
    if architecture is not None:
        return [native_module().architecture_facts(_NATIVE, architecture)]
    if device is None or isinstance(device, str):
        return _facts_here()
    return [native_module().facts(_NATIVE, device=device.local_hardware_id)]


def devices() -> list[jax.Device]:
    """This process's GPUs; none where a program is lowered for another machine."""
    try:
        return jax.local_devices(backend="cuda")
    except RuntimeError:
        return []


def _facts_here() -> list[dict[str, int]]:
    """Of each of this process's GPUs; without one, of the assumed architecture's flagship."""
    module = native_module()
    return [module.facts(_NATIVE, device=gpu.local_hardware_id) for gpu in devices()] or [
        module.architecture_facts(_NATIVE, _ASSUMED)
    ]
