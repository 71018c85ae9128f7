# SPDX-License-Identifier: Apache-2.0
"""`jax.vmap`: a mapped axis folded into an axis that the kernels already have, and unfolded again.

A mapped axis over sequences with shared weights is more batch; over weights it is more groups.
Every operand has the dimension n, layers, first; those without b, batch, are weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from jax_persistent.problem import Problem

BATCH, GROUP = "b", "n"
Dims = tuple[str, ...]
Axes = Sequence[int | None]


def maps_weights(problem: Problem, axes: Axes) -> bool:
    return any(
        leaf.is_weight and axis is not None
        for leaf, axis in zip(problem.operands(), axes, strict=True)
    )


def fold(
    problem: Problem, size: int, operands: Sequence[Array], axes: Axes
) -> tuple[Problem, list[Array], str]:
    """Folds a mapped axis of `size` into each operand; says which dimension took it."""
    into = GROUP if maps_weights(problem, axes) else BATCH
    arrays = []
    for leaf, operand, axis in zip(problem.operands(), operands, axes, strict=True):
        dims = problem.dims_of(leaf)
        there = into in dims
        arrays.append(folded(operand, axis, size, dims.index(into)) if there else operand)
    if into == GROUP:
        return replace(problem, groups=size * problem.groups), arrays, into
    return replace(problem, batch=size * problem.batch), arrays, into


def folded(operand: Array, axis: int | None, size: int, place: int) -> Array:
    """An operand with the mapped axis folded into the one at `place`; repeated if it has none."""
    if axis is None:
        shape = (*operand.shape[:place], size, *operand.shape[place:])
        operand = jnp.broadcast_to(jnp.expand_dims(operand, place), shape)
    else:
        operand = jnp.moveaxis(operand, axis, place)
    shape = operand.shape
    return operand.reshape(*shape[:place], size * shape[place + 1], *shape[place + 2 :])


def unfolded(result: Array, size: int, place: int) -> Array:
    """The inverse for a result, whose mapped axis is at `place` then."""
    shape = result.shape
    return result.reshape(*shape[:place], size, shape[place] // size, *shape[place + 1 :])


def unfold(
    problem: Problem, size: int, results: Sequence[Array], into: str
) -> tuple[list[Array], list[int]]:
    """Gives every result of the folded problem its mapped axis back; says where that axis is."""
    places = [problem.dims_of(leaf).index(into) for leaf in problem.results()]
    return [unfolded(r, size, p) for r, p in zip(results, places, strict=True)], places


def empty(problem: Problem) -> tuple[list[Array], list[int]]:
    """The results over a mapped axis of size 0."""
    results = [
        jnp.zeros((0, *problem.shape_of(leaf)), problem.dtype_of(leaf))
        for leaf in problem.results()
    ]
    return results, [0] * len(results)
