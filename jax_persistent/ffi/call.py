# SPDX-License-Identifier: Apache-2.0
"""Custom calls: a problem, or a program, as attributes, its arrays as operands and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from jax_persistent.ffi.registration import native_module
from jax_persistent.problem import Arrays, PackedKernel, Problem

TARGETS = {
    "forward": "jax_persistent.forward",
    "backward": "jax_persistent.backward",
    "program": "jax_persistent.program",
}

PACK_TARGET = "jax_persistent.pack"
PRODUCT_TARGET = "jax_persistent.product"


def has_cell(problem: Problem) -> bool:
    """Whether the native module was built with the problem's cell."""
    return problem.cell.name in native_module().cells()


def kernel_call(
    problem: Problem, arrays: Arrays, workspace_bytes: Any = None, **options: Any
) -> Arrays:
    """One call of a problem's target.

    Args:
      problem: what is computed.
      arrays: its operands.
      workspace_bytes: of memory that the call needs besides, on a device: one result more, as no
        memory can be had while the program runs. None on a platform whose calls have their own.
      **options: a backend's own, as further attributes.

    Raises ImportError if the native module can't be used, and says why.
    """
    native_module()
    results = [
        jax.ShapeDtypeStruct(problem.shape_of(leaf), problem.dtype_of(leaf))
        for leaf in problem.results()
    ]
    count = len(results)
    if workspace_bytes is not None:
        results.append(jax.ShapeDtypeStruct((workspace_bytes,), "uint8"))
    run = jax.ffi.ffi_call(TARGETS[problem.pass_], results)
    with jax.named_scope(problem.label):
        found = run(*problem.flat(arrays), **problem.encoded(), **options)
    return problem.named_results(found[:count])


def program_call(
    program: Mapping[str, Any],
    operands: Sequence[Any],
    results: Sequence[jax.ShapeDtypeStruct],
    workspace_bytes: int | None = None,
    **options: Any,
) -> list[Array]:
    """One call of the target of step functions' programs.

    Args:
      program: what the call is, as `programs.lowering.described` says it.
      operands, results: in the program's order.
      workspace_bytes, **options: as for `kernel_call`.

    Raises ImportError if the native module can't be used, and says why.
    """
    native_module()
    attributes = {
        "code": np.array(program["code"], np.int64),
        "literals": np.array(program["literals"], np.float32),
        "layouts": np.array(program["layouts"], np.int64),
        "reverse": program["reverse"],
        "tf32": program["tf32"],
        **{name: np.int64(program[name]) for name in ("steps", "groups", "rows", "packed_lanes")},
    }
    made = list(results)
    if workspace_bytes is not None:
        made.append(jax.ShapeDtypeStruct((workspace_bytes,), "uint8"))
    found = jax.ffi.ffi_call(TARGETS["program"], made)(*operands, **attributes, **options)
    return list(found[: len(results)])


def pack_call(kernels: Array, *, gates: int, lanes: int) -> list[Array]:
    """One call that packs kernels [N, K, G*H], each by itself: [N, panels, ..]."""
    native_module()
    count, rows, columns = kernels.shape
    one = PackedKernel(kernels, gates, rows, columns // gates, lanes)
    result = jax.ShapeDtypeStruct((count, *one.panels_shape), kernels.dtype)
    run = jax.ffi.ffi_call(PACK_TARGET, result)
    return [run(kernels, gates=np.int64(gates), lanes=np.int64(lanes))]


def product_call(
    left: Array,
    right: Array | PackedKernel,
    *,
    left_transposed: bool = False,
    right_transposed: bool = False,
    heads: int = 1,
) -> Array:
    """One call that multiplies matrices of float32: [M, K] x [K, N], each as it is or transposed.

    The depth K is even. A packed matrix is not transposed. Of several heads the left one is, and
    each head's columns are multiplied: [K, heads*M], [K, heads*N] to [heads, M, N].
    """
    native_module()
    sizes = left.shape[left_transposed], right.shape[not right_transposed]
    shape = heads, *(size // heads for size in sizes)
    run = jax.ffi.ffi_call(PRODUCT_TARGET, jax.ShapeDtypeStruct(shape, "float32"))
    weights, lanes = (right.panels, right.lanes) if isinstance(right, PackedKernel) else (right, 0)
    how = {"left_transposed": left_transposed, "right_transposed": right_transposed}
    with jax.named_scope(f"product {sizes[0]} x {sizes[1]}"):
        found = run(left, weights, **how, packed_lanes=np.int64(lanes))
    return found if heads > 1 else found.reshape(shape[1:])
