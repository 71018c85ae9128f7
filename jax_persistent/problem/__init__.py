# SPDX-License-Identifier: Apache-2.0
"""A recurrence stated once: what is static about it, and the list of its arrays."""

from jax_persistent.problem.operands import Arrays
from jax_persistent.problem.packed import PackedKernel
from jax_persistent.problem.problem import DIRECTIONS, DTYPES, Problem

__all__ = ["DIRECTIONS", "DTYPES", "Arrays", "PackedKernel", "Problem"]
