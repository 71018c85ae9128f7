# SPDX-License-Identifier: Apache-2.0
"""The CPU's kernels: a call has the whole layer, input products and weight gradients too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.export import is_symbolic_dim

from jax_persistent.backends.base import Backend, with_known_sizes, without_cell
from jax_persistent.ffi import call
from jax_persistent.ffi.registration import native_module
from jax_persistent.problem import Arrays, Problem

# For `slower_than_reference`; bytes of a gate's recurrent weights, and the rows of one and of two
# steps: fewer rows read the weights where they lie, more repay packing. Measured on one core of an
# AMD EPYC, float32, T = 1 to 10, B = 1 to 128 and H = 64 to 1024: there the kernel takes up to 1.5
# times as long as the reference, elsewhere at most 1.2 times. With vectors of 16 lanes more rows
# read weights where they lie.
_LARGE_BYTES = 512 << 10
_SOME_ROWS = {1: range(17, 65), 2: range(17, 65)}
_SOME_ROWS_OF_WIDE = {1: range(49, 65), 2: range(21, 65)}
_WIDE = 16
# For `slower_than_scan`; measured on one core of the same, an LSTM step of T = 1 to 15, B = 1 to 16
# and H = 128 to 1024: `lax.scan` takes 1.28 times as long in the geometric mean. It is level or
# faster at T = 1, B = 1, and here and there up to 1.25 times as fast at H = 256 and 512.


class CpuBackend(Backend):
    platform = "cpu"
    dtypes = ("float32", "bfloat16")
    sums_weight_gradients = True
    reads_packed = True
    multiplies = True
    takes_weights_apart = True

    def slower_than_reference(self, problem: Problem) -> str | None:
        """Packing does not pay off for one or two steps of some rows."""
        if any(map(is_symbolic_dim, (problem.steps, problem.batch, problem.hidden))):
            return None  # a program for many sizes is made for large ones
        weights = problem.hidden * problem.hidden * np.dtype(problem.dtype).itemsize
        is_wide = native_module().facts("cpu")["lanes"] >= _WIDE
        rows = (_SOME_ROWS_OF_WIDE if is_wide else _SOME_ROWS).get(problem.steps, ())
        if problem.packed_lanes or problem.batch not in rows or weights <= _LARGE_BYTES:
            return None
        return (
            f"T = {problem.steps} and B = {problem.batch} don't repay the packing of "
            f"{weights >> 10} KiB of weights a gate; backend='native' would do it"
        )

    def slower_than_scan(self, steps: int, rows: int, matrices: int) -> str | None:
        """XLA reads large matrices faster, of which a single row needs each value once."""
        if (steps, rows) != (1, 1) or matrices < _LARGE_BYTES:
            return None
        return (
            f"T = 1, B = 1: XLA reads {matrices >> 10} KiB of matrices faster; backend='native' "
            "would read them where they lie, jax_persistent.pack packs them before"
        )

    def call(self, problem: Problem, arrays: Arrays) -> Arrays:
        return call.kernel_call(problem, arrays)

    def plan(self, problem: Problem, device: jax.Device | str | None) -> dict[str, Any]:
        del device  # another machine's CPU is taken for this one
        native = native_module()
        if not call.has_cell(problem):
            return without_cell(problem)
        known = with_known_sizes(problem, "groups", "batch", "steps", "inputs", "hidden")
        return native.plan("cpu", known.encoded() | {"pass": known.pass_}, native.facts("cpu"))

    def facts(self, device: jax.Device | str | None) -> dict[str, int]:
        del device
        return native_module().facts("cpu")

    def plan_program(
        self, program: Mapping[str, Any], device: jax.Device | str | None
    ) -> dict[str, Any]:
        del device
        native = native_module()
        return native.program_plan("cpu", **program, facts=native.facts("cpu"))

    def call_program(
        self,
        program: Mapping[str, Any],
        operands: Sequence[Any],
        results: Sequence[jax.ShapeDtypeStruct],
    ) -> list[jax.Array]:
        return call.program_call(program, operands, results)
