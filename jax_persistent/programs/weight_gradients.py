# SPDX-License-Identifier: Apache-2.0
"""Gradients of matrices: sums of outer products over all steps and rows, a bilinear primitive.

It is one for its lowering. Where XLA splits the program over devices, steps and rows stay two
dimensions, or XLA would gather them; elsewhere they are one, as a product over two is slower.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jax_persistent import compat
from jax_persistent.programs import products


def outer_products(rule: str, a: Array, b: Array) -> Array:
    """`jnp.einsum(rule, a, b)` in float32, the summed dimensions first, in both alike."""
    return weight_gradient_p.bind(*compat.match_varying_axes(a, b), rule=rule)


def _einsum(a: Any, b: Any, *, rule: str) -> Any:
    wide = max(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return jnp.einsum(rule, a.astype(wide), b.astype(wide), preferred_element_type=jnp.float32)


def _flat(a: Array, b: Array, *, rule: str) -> Array:
    """The same with the first dimensions that are summed over as one."""
    operands, result = rule.split("->")
    of_a, of_b = operands.split(",")
    sizes = dict(zip(of_a, a.shape, strict=True)) | dict(zip(of_b, b.shape, strict=True))
    if "Y" in result and sizes["Y"] == 1:  # a single group
        of_a, of_b = of_a.replace("Y", ""), of_b.replace("Y", "")
        product = _flat(
            a.reshape([sizes[n] for n in of_a]),
            b.reshape([sizes[n] for n in of_b]),
            rule=f"{of_a},{of_b}->{result.replace('Y', '')}",
        )
        return product.reshape([sizes[n] for n in result])
    summed = 0
    while of_a[summed : summed + 1] == of_b[summed : summed + 1] not in ("", *result):
        summed += 1
    if summed < 2:
        return _einsum(a, b, rule=rule)
    rows = int(np.prod(a.shape[:summed]))
    merged = f"X{of_a[summed:]},X{of_b[summed:]}->{result}"
    a, b = a.reshape(rows, *a.shape[summed:]), b.reshape(rows, *b.shape[summed:])
    if merged == f"X{of_a[-1]},X{of_b[-1]}->{of_a[-1]}{of_b[-1]}":
        return products.product(a, b, left_transposed=True, dtype=jnp.float32)
    head, left, right = result[:1], of_a[-1], of_b[-1]
    if merged == f"X{head}{left},X{head}{right}->{head}{left}{right}":
        heads = sizes[head]
        a, b = (x.reshape(rows, heads * x.shape[-1]) for x in (a, b))
        return products.product(a, b, left_transposed=True, heads=heads, dtype=jnp.float32)
    return _einsum(a, b, rule=merged)


def _abstract(a: Any, b: Any, *, rule: str) -> Any:
    found = jax.eval_shape(
        partial(_einsum, rule=rule),
        *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (a, b)),
    )
    return compat.result_aval(a, found.shape, found.dtype)


def _transposed(side: int, cotangent: Array, a: Any, b: Any, *, rule: str) -> Array:
    operands, result = rule.split("->")
    names = operands.split(",")
    own, other = (a, b) if side == 0 else (b, a)
    back = f"{result},{names[1 - side]}->{names[side]}"
    return jnp.einsum(back, cotangent, other.astype(cotangent.dtype)).astype(own.aval.dtype)


def _batch(operands: Any, axes: Any, *, rule: str) -> tuple[Array, int]:
    inputs, result = rule.split("->")
    names = inputs.split(",")
    new = next(letter for letter in "zyxwvutsrqponm" if letter not in rule)
    for n, axis in enumerate(axes):
        if axis is not None:
            names[n] = names[n][:axis] + new + names[n][axis:]
    return outer_products(f"{','.join(names)}->{new}{result}", *operands), 0


def _lower(ctx: Any, a: Any, b: Any, *, rule: str) -> Any:
    run = _einsum if compat.is_split_by_xla(ctx) else _flat
    return mlir.lower_fun(partial(run, rule=rule), multiple_results=False)(ctx, a, b)


weight_gradient_p = Primitive("jax_persistent_weight_gradient")
weight_gradient_p.def_impl(partial(compat.apply_primitive, weight_gradient_p))
weight_gradient_p.def_abstract_eval(_abstract)
ad.defbilinear(weight_gradient_p, partial(_transposed, 0), partial(_transposed, 1))
batching.primitive_batchers[weight_gradient_p] = _batch
mlir.register_lowering(weight_gradient_p, _lower)
