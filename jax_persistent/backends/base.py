# SPDX-License-Identifier: Apache-2.0
"""What a backend offers, and the plan that it makes of a problem."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.export import is_symbolic_dim

from jax_persistent.problem import DTYPES, Arrays, Problem

# Why a step function that runs once is no program.
ONE_STEP = (
    "T = 1: a single step does not repay what is made of its matrices first; "
    "backend='native' would do it"
)


@dataclass(frozen=True)
class Plan:
    """How a call would run; `print` it.

    Attributes:
      backend: "native" or "reference".
      reason: why it runs so; for "reference", why there is no kernel, or none that is faster.
      residency: the level of memory that holds the weights during the sequence, such as "L2".
      workers: cores (or thread blocks) that share a step.
      packed_bytes: recurrent weights on the chip at a time, all workers together.
      details: the planner's own numbers, by pass.
    """

    backend: str
    reason: str
    residency: str | None = None
    workers: int | None = None
    packed_bytes: int | None = None
    details: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


class Backend(abc.ABC):
    """The kernels of one platform.

    It is asked about one device's own problem: sizes are those of the rows that it has.

    Attributes:
      platform: jax's name of it, as in `jax.devices(platform)`.
      dtypes: the types that it has kernels for; others are refused without a warning.
      sums_weight_gradients: whether a backward call may have the part "d_weights". If False, a
        call returns the gates' gradients, and XLA sums them.
      reads_packed: whether programs may have packed matrices; if False, they are unpacked before.
      multiplies: whether the call of a program may make products of its xs with matrices itself.
      takes_weights_apart: whether a call may have weights of several arrays; see
        `Problem.weights`. If False, XLA joins them before it.
    """

    platform: str
    dtypes: tuple[str, ...] = DTYPES
    sums_weight_gradients: bool = False
    reads_packed: bool = False
    multiplies: bool = False
    takes_weights_apart: bool = False

    def refusal(self, problem: Problem) -> str | None:
        """Why there is no kernel for such a problem, or None if there is one."""
        found = self.plan(problem, None)
        return None if found["runs"] else found["explanation"]

    def slower_than_reference(self, problem: Problem) -> str | None:
        """Why a kernel that could run it would be slower than the reference, or None."""
        del problem
        return None

    def slower_than_scan(self, steps: int, rows: int, matrices: int) -> str | None:
        """Why a step function's program would be slower than its `lax.scan`, or None.

        Asked of scans whose gradient is not taken; `matrices` is how many bytes they have.
        """
        del rows, matrices
        return ONE_STEP if steps == 1 else None

    @abc.abstractmethod
    def call(self, problem: Problem, arrays: Arrays) -> Arrays:
        """The results of a problem that is not refused; traced while XLA's program is made."""

    def plan_program(
        self, program: Mapping[str, Any], device: jax.Device | str | None
    ) -> dict[str, Any]:
        """The same as `plan`, of a step function's program."""
        del program, device
        reason = f"there are no programs of step functions for the platform {self.platform!r}"
        return {"runs": False, "explanation": reason}

    def call_program(
        self,
        program: Mapping[str, Any],
        operands: Sequence[Any],
        results: Sequence[jax.ShapeDtypeStruct],
    ) -> list[jax.Array]:
        """The results of a program that `plan_program` runs."""
        raise NotImplementedError

    def facts(self, device: jax.Device | str | None) -> dict[str, int]:
        """What the planner knows of the machine that a plan is for; by the planner's own names."""
        del device
        return {}

    def names(self, device: jax.Device | str) -> bool:
        """Whether `jp.plan` means this backend by `device`."""
        return (device if isinstance(device, str) else device.platform) == self.platform

    @abc.abstractmethod
    def plan(self, problem: Problem, device: jax.Device | str | None) -> dict[str, Any]:
        """How a problem would run on a device of this platform, by default the first one here.

        Returns a dict with "runs", "explanation", "residency", "workers", "packed_bytes" and the
        planner's own numbers; "runs" is False where it can't, for the reason in "explanation".
        Sizes may be symbolic.
        """


def with_known_sizes(problem: Problem, *names: str) -> Problem:
    """A problem in which symbolic sizes of these names are the least, to ask a planner with."""
    least = dict.fromkeys(names, 1) | {"groups": len(problem.ways)}
    symbols = {name: least[name] for name in names if is_symbolic_dim(getattr(problem, name))}
    return replace(problem, **symbols)  # type: ignore[arg-type]


def without_cell(problem: Problem) -> dict[str, Any]:
    """The plan of a problem whose cell the native module was built without."""
    reason = f"this build has no kernels for the cell {problem.cell.name!r}"
    return {"runs": False, "explanation": reason}
