"""`jax.vmap`: a mapped axis folded into an axis that the kernels already have, and unfolded again.

A mapped axis over sequences with shared weights is more batch; over weights it is more groups.
Dimensions are words of letters, as in "n b t g": n groups, b batch. Every operand has n first;
those without b are weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

BATCH, GROUP = "b", "n"


def fold(
    dims: Sequence[str], size: int, operands: Sequence[Array], axes: Sequence[int | None]
) -> tuple[list[Array], str]:
    """Folds the mapped axis of `size` into each operand; says which dimension took it."""
    weights_mapped = any(
        BATCH not in each and axis is not None for each, axis in zip(dims, axes, strict=True)
    )
    into = GROUP if weights_mapped else BATCH
    folded = []
    for each, operand, axis in zip(dims, operands, axes, strict=True):
        if into not in each:
            folded.append(operand)
            continue
        place = each.split().index(into)
        if axis is None:
            operand = jnp.broadcast_to(
                jnp.expand_dims(operand, place),
                (*operand.shape[:place], size, *operand.shape[place:]),
            )
        else:
            operand = jnp.moveaxis(operand, axis, place)
        shape = operand.shape
        folded.append(operand.reshape(*shape[:place], size * shape[place + 1], *shape[place + 2 :]))
    return folded, into


def unfold(
    dims: Sequence[str], size: int, results: Sequence[Array], into: str
) -> tuple[list[Array], list[int]]:
    """Gives every result its mapped axis back; returns the results and where that axis is."""
    places = [each.split().index(into) for each in dims]
    unfolded = [
        r.reshape(*r.shape[:p], size, r.shape[p] // size, *r.shape[p + 1 :])
        for r, p in zip(results, places, strict=True)
    ]
    return unfolded, places


def of_none(
    function: Callable[..., Sequence[Array]], operands: Sequence[Array], axes: Sequence[int | None]
) -> tuple[list[Array], list[int]]:
    """The results of a function mapped over an axis of size 0: empty along their first."""
    one = [
        jax.ShapeDtypeStruct(o.shape if a is None else (*o.shape[:a], *o.shape[a + 1 :]), o.dtype)
        for o, a in zip(operands, axes, strict=True)
    ]
    results = jax.eval_shape(function, *one)
    return [jnp.zeros((0, *r.shape), r.dtype) for r in results], [0] * len(results)
