# SPDX-License-Identifier: Apache-2.0
"""Steps of longer sequences through a stack of layers, given arrays that are known to be valid.

A program is compiled for a few numbers of steps; chunks of others are cut and padded.

Legend: T time steps of a chunk, B batch, I input features, H hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_persistent.cells import Cell
from jax_persistent.ops import functions
from jax_persistent.problem import Arrays

Layer = dict[str, Any]  # its weights, by the names of arguments
States = tuple[tuple[Array, ...], ...]  # of each layer, h first, [B, H]


@partial(jax.jit, static_argnames=("cell", "time_major"), donate_argnames="states")
def run(
    layers: tuple[Layer, ...],
    states: States,
    x: Array,
    lengths: Array | None,
    resets: Array | None,
    *,
    cell: Cell,
    time_major: bool,
) -> tuple[Array, States]:
    """The outputs of the last layer, and the states, of one chunk x [B, T, I], or time-major."""
    optional = {"lengths": lengths, "resets": resets}
    given = {name: array for name, array in optional.items() if array is not None}
    how: dict[str, Any] = {"directions": "forward", "time_major": time_major, "backend": None}
    after = []
    for layer, before in zip(layers, states, strict=True):
        arrays = Arrays(layer | given | {"x": x, "initial_state": before})
        x, final = functions.run(cell, arrays, chunked=True, **how)
        after.append(final)
    return x, tuple(after)


def run_in_parts(
    layers: tuple[Layer, ...],
    states: States,
    x: Any,
    lengths: Any,
    resets: Any,
    *,
    cell: Cell,
    time_major: bool,
    sizes: Sequence[int],
) -> tuple[Array, States]:
    """The same of chunks of `sizes` steps only, ascending, of which the last is padded.

    They are cut, padded and joined by numpy: jax would compile that for each number of steps.
    """
    x, axis = np.asarray(x), 0 if time_major else 1
    batch, steps = x.shape[1 - axis], x.shape[axis]
    ends = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    outputs = np.empty((*x.shape[:2], layers[-1]["recurrent_kernel"].shape[0]), x.dtype)
    of_steps = np.swapaxes(outputs, 0, axis)
    for first, count, size in _parts(steps, sizes):
        part = partial(_padded, axis=axis, first=first, count=count, size=size)
        here = None
        if lengths is not None or count < size:
            here = np.clip(ends - first, 0, count).astype(np.int32)
        flags = None if resets is None else part(np.asarray(resets))
        found, states = run(layers, states, part(x), here, flags, cell=cell, time_major=time_major)
        of_steps[first : first + count] = np.swapaxes(found, 0, axis)[:count]
    return jnp.asarray(outputs), states


def _parts(steps: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """The first step, the number of steps and the number of a program's steps of each part."""
    first = 0
    while first < steps:
        count = min(steps - first, sizes[-1])
        yield first, count, next(size for size in sizes if size >= count)
        first += count


def _padded(array: np.ndarray, *, axis: int, first: int, count: int, size: int) -> np.ndarray:
    """`count` entries of an axis, from the first on, and zeros up to `size`."""
    found = np.zeros((*array.shape[:axis], size, *array.shape[axis + 1 :]), array.dtype)
    np.swapaxes(found, 0, axis)[:count] = np.swapaxes(array, 0, axis)[first : first + count]
    return found


@partial(jax.jit, donate_argnames="states")
def reset(states: States, rows: Array) -> States:
    """Zeros in some rows, [B] bool."""
    return jax.tree.map(lambda s: jnp.where(rows[:, None], jnp.zeros_like(s), s), states)
