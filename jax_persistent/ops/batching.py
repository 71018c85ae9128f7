"""`jax.vmap`: a mapped axis folded into an axis that the kernels already have, and unfolded again.

A mapped axis over sequences with shared weights is more batch; over weights it is more groups.
Every operand of a recurrence has a leading group axis N; a "sequence" is [N, B, T, F] or
[N, T, B, F], a "row" [N, B, ..], a "weight" [N, ..].
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

BATCH, GROUP = "batch", "group"


def fold(
    kinds: Sequence[str],
    time_major: bool,
    size: int,
    operands: Sequence[Array],
    axes: Sequence[int | None],
) -> tuple[list[Array], str]:
    """Folds the mapped axis of `size` into each operand; says which axis took it."""
    weights_mapped = any(
        kind == "weight" and axis is not None for kind, axis in zip(kinds, axes, strict=True)
    )
    into = GROUP if weights_mapped else BATCH
    folded = []
    for kind, operand, axis in zip(kinds, operands, axes, strict=True):
        if into == BATCH and kind == "weight":
            folded.append(operand)
            continue
        place = _place(kind, time_major, into)
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
    kinds: Sequence[str], time_major: bool, size: int, results: Sequence[Array], into: str
) -> tuple[list[Array], list[int]]:
    """Gives every result its mapped axis back; returns the results and where that axis is."""
    places = [_place(kind, time_major, into) for kind in kinds]
    unfolded = [
        r.reshape(*r.shape[:p], size, r.shape[p] // size, *r.shape[p + 1 :])
        for r, p in zip(results, places, strict=True)
    ]
    return unfolded, places


def _place(kind: str, time_major: bool, into: str) -> int:
    """Position of the axis that takes the mapped one, which goes right before it."""
    if into == GROUP:
        return 0
    return 2 if kind == "sequence" and time_major else 1
