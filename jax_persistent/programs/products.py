# SPDX-License-Identifier: Apache-2.0
"""Products of the vectors of all steps with a matrix, which surround a recurrence.

XLA's CPU client takes one thread for small ones, and half its speed for transposed ones, so that
those around a recurrence of few rows take longer than it; and large results are written to memory
that is mapped anew in every call, 4 KiB at a time. There a call of ours multiplies them
(`benchmarks/products.py` times both); everywhere else a product is XLA's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jax_persistent import compat
from jax_persistent.ffi import call
from jax_persistent.ffi.registration import native_module
from jax_persistent.problem import PackedKernel

# Multiply-adds up to which our call is the faster one with narrow vectors, with several threads and
# with one. With wide ones it is level or faster (0.93 to 1.3, 2^25 to 2^36, one thread and two).
_MOST, _MOST_ALONE, _WIDE = 1 << 27, 1 << 23, 16
# Rows up to which it multiplies with a packed matrix, which XLA would have unpacked.
_MOST_ROWS = 128


def product(
    left: Array,
    right: Array | PackedKernel,
    *,
    left_transposed: bool = False,
    right_transposed: bool = False,
    heads: int = 1,
    precision: Any = None,
    dtype: Any = None,
) -> Array:
    """[M, K] x [K, N], each as it is or transposed; the rest is as for `lax.dot_general`.

    A packed matrix is one that `reads_packed` accepts. Of several heads the left matrix is
    transposed, and the columns of each are multiplied: [K, heads*M], [K, heads*N] to [heads, M, N].
    """
    weights, packed = right, None
    if isinstance(right, PackedKernel):
        weights, packed = right.panels, (right.units, right.lanes)
    return product_p.bind(
        left,
        weights,
        packed=packed,
        left_transposed=left_transposed,
        right_transposed=right_transposed,
        heads=heads,
        precision=precision,
        dtype=dtype,
    )


def reads_packed(left: Array, right: PackedKernel, **how: Any) -> bool:
    """Whether our kernel multiplies with a packed matrix; else XLA does, with it unpacked.

    It does so for more multiply-adds than with one that it has to pack.
    """
    return (
        _can_be_ours(left, right, how)
        and not how["right_transposed"]
        and left.shape[0] <= _MOST_ROWS
        and right.lanes == native_module().facts("cpu")["lanes"]
    )


def _of_xla(
    left: Any,
    right: Any,
    *,
    left_transposed: bool,
    right_transposed: bool,
    heads: int,
    precision: Any,
    dtype: Any,
    packed: tuple[int, int] | None,
) -> Any:
    if packed is not None:
        right = _kernel(left, right, *packed).unpacked()
    contracted = (0 if left_transposed else 1,), (1 if right_transposed else 0,)
    batch: Any = ((), ())
    if heads > 1:
        left, right = (x.reshape(x.shape[0], heads, x.shape[1] // heads) for x in (left, right))
        batch = ((1,), (1,))
    return lax.dot_general(
        left, right, (contracted, batch), precision=precision, preferred_element_type=dtype
    )


def _kernel(left: Any, panels: Any, columns: int, lanes: int) -> PackedKernel:
    return PackedKernel(panels, 1, left.shape[1], columns, lanes)


def _abstract(left: Any, right: Any, **how: Any) -> Any:
    rows = left.shape[how["left_transposed"]]
    packed = how["packed"]
    columns = right.shape[not how["right_transposed"]] if packed is None else packed[0]
    dtype = how["dtype"] or jnp.result_type(left.dtype, right.dtype)
    heads = how["heads"]
    shape = (rows, columns) if heads == 1 else (heads, rows // heads, columns // heads)
    return compat.result_aval(left, shape, dtype)


def _can_be_ours(left: Any, right: Any, how: Mapping[str, Any]) -> bool:
    """Whether our kernel multiplies such matrices: float32, an even depth."""
    return (
        left.dtype == right.dtype == jnp.float32
        and how["dtype"] in (None, jnp.float32)
        and not isinstance(how["precision"], (str, lax.DotAlgorithm, lax.DotAlgorithmPreset))
        and left.shape[not how.get("left_transposed", False)] % 2 == 0
        and left.size > 0
    )


def is_ours(left: Any, right: Any, how: Mapping[str, Any]) -> bool:
    """Whether our kernel multiplies them: what it can, and of narrow vectors not the largest."""
    columns, facts = right.shape[not how["right_transposed"]], native_module().facts("cpu")
    most = _MOST_ALONE if facts["threads"] == 1 else _MOST
    fast = facts["lanes"] >= _WIDE or left.size * columns // how.get("heads", 1) <= most
    return _can_be_ours(left, right, how) and columns > 0 and fast


def _lower_on_cpu(ctx: Any, left: Any, right: Any, **how: Any) -> Any:
    run: Any = partial(_of_xla, **how)
    of_left, of_right = ctx.avals_in
    if how["packed"] is not None:

        def run(left: Any, panels: Any) -> Any:
            return call.product_call(left, _kernel(left, panels, *how["packed"]))

    elif not compat.is_split_by_xla(ctx) and is_ours(of_left, of_right, how):
        names = ("left_transposed", "right_transposed", "heads")
        run = partial(call.product_call, **{name: how[name] for name in names})
    return mlir.lower_fun(run, multiple_results=False)(ctx, left, right)


product_p = Primitive("jax_persistent_product")
product_p.def_impl(partial(compat.apply_primitive, product_p))
product_p.def_abstract_eval(_abstract)
mlir.register_lowering(product_p, mlir.lower_fun(_of_xla, multiple_results=False))
mlir.register_lowering(product_p, _lower_on_cpu, platform="cpu")
