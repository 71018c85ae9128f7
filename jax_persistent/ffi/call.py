# SPDX-License-Identifier: Apache-2.0
"""Custom calls: a problem as attributes, its arrays as operands and results."""

from __future__ import annotations

from typing import Any

import jax

from jax_persistent.ffi.registration import native_module
from jax_persistent.problem import Arrays, Problem

TARGETS = {"forward": "jax_persistent.forward", "backward": "jax_persistent.backward"}


def has_cell(problem: Problem) -> bool:
    """Whether the native module was built with the problem's cell."""
    return problem.cell.name in native_module().cells()


def kernel_call(problem: Problem, arrays: Arrays, **options: Any) -> Arrays:
    """One call of a problem's target, with a backend's own options as further attributes.

    Raises ImportError if the native module can't be used, and says why.
    """
    native_module()
    results = [
        jax.ShapeDtypeStruct(problem.shape_of(leaf), problem.dtype_of(leaf))
        for leaf in problem.results()
    ]
    run = jax.ffi.ffi_call(TARGETS[problem.pass_], results)
    return problem.named_results(run(*problem.flat(arrays), **problem.encoded(), **options))
