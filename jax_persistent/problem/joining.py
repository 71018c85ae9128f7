# SPDX-License-Identifier: Apache-2.0
"""Weights of several arrays, brought into one each, and results cut into as many again.

The kernels of a CPU read and write the arrays where they lie; all else takes them joined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import jax.numpy as jnp
from jax import Array, lax

from jax_persistent.problem.operands import PER_GATE, Arrays
from jax_persistent.problem.problem import Problem

_DIRECTIONS_AXIS = 1  # of weights of one array; the gates are their last


def joined(
    problem: Problem,
    flat: Sequence[Array],
    run: Callable[[Problem, Sequence[Array]], Sequence[Array]],
) -> list[Array]:
    """A problem's results by `run`, which takes a problem whose weights are one array each."""
    one, arrays = replace(problem, weights="one"), problem.arrays(flat)
    for leaf in one.operands():
        if leaf.name in _names(problem):
            arrays[leaf.name] = _join(problem, arrays[leaf.name])
    results = one.named_results(run(one, one.flat(arrays)))
    return problem.flat_results(cut(problem, results))


def cut(problem: Problem, results: Mapping[str, Array]) -> Arrays:
    """Results with weights' gradients of one array each as the problem has them."""
    names = _names(problem)
    return Arrays((n, _cut(problem, a) if n in names else a) for n, a in results.items())


def _names(problem: Problem) -> set[str]:
    leaves = (*problem.operands(), *problem.results())
    return {leaf.name for leaf in leaves if leaf.arrays == PER_GATE}


def _join(problem: Problem, arrays: Sequence[Array]) -> Array:
    each = len(arrays) // len(problem.ways)
    ways = [arrays[i : i + each] for i in range(0, len(arrays), each)]
    return jnp.stack([jnp.concatenate(way, axis=-1) for way in ways], _DIRECTIONS_AXIS)


def _cut(problem: Problem, array: Array) -> tuple[Array, ...]:
    each = problem.weight_arrays // len(problem.ways)
    ways = range(len(problem.ways))
    found = [lax.index_in_dim(array, way, _DIRECTIONS_AXIS, keepdims=False) for way in ways]
    return tuple(part for way in found for part in jnp.split(way, each, axis=-1))
