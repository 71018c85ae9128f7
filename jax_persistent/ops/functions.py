# SPDX-License-Identifier: Apache-2.0
"""A cell with kernels over whole sequences, given arrays that are known to be valid.

Legend: T time steps, B batch, I input features, H hidden units, G gates (LSTM 4, GRU 3, Elman 1).
"""

from __future__ import annotations

from collections import Counter

import jax.numpy as jnp
from jax import Array

from jax_persistent import compat
from jax_persistent.cells import Cell
from jax_persistent.ops import primitives
from jax_persistent.ops.explicit_sharding import in_auto_axes
from jax_persistent.problem import DIRECTIONS, Arrays, PackedKernel, Problem, operands
from jax_persistent.problem.operands import Leaf

_OPTIONAL = ("bias", "recurrent_bias", "lengths", "resets", "reset_state")
_LETTERS = {"d": "D", "b": "B", "t": "T", "i": "I", "h": "H", "g": "G*H", "u": "H"}
_LETTERS |= {"p": "P", "j": "I", "k": "H", "w": "W"}  # of packed kernels


def run(
    cell: Cell,
    arrays: Arrays,
    *,
    directions: str,
    time_major: bool,
    backend: str | None,
    chunked: bool = False,
) -> tuple[Array, tuple[Array, ...]]:
    """The recurrence of a cell on arrays that are known to be valid.

    Args:
      cell: the cell.
      arrays: as `validation.check_call` returns them: "x", "input_kernel", "recurrent_kernel", both
        of which may be packed, and
        of "bias", "recurrent_bias", "lengths", "resets", "reset_state" and "initial_state" those
        that there are. With both directions all but x and lengths have an axis D of two, first.
        Weights that are not packed may be tuples: of an array of each direction, without D, or of
        each direction and gate, [I, H], [H, H] and [H], gates of the first direction first.
      directions: "forward", "reverse" or "both".
      time_major, backend: as for `lstm`.
      chunked: these are steps of a longer sequence. What is computed does not depend then on where
        it is cut, to the bit; states of 16-bit dtypes come and go in float32.

    Returns:
      (outputs, final states); with both directions [B, T, D, H] and [D, B, H].
    """
    x, recurrent_kernel = arrays.x, arrays.recurrent_kernel
    apart = recurrent_kernel if isinstance(recurrent_kernel, tuple) else ()
    hidden = (*apart, recurrent_kernel)[0].shape[-2]
    batch, steps = (x.shape[1], x.shape[0]) if time_major else x.shape[:2]
    ways = len(DIRECTIONS[directions])
    if arrays.initial_state is None:
        shape = (batch, hidden) if ways == 1 else (ways, batch, hidden)
        zeros = tuple(jnp.zeros(shape, x.dtype) for _ in cell.states)
        arrays = Arrays(arrays | {"initial_state": zeros})
    kernels = {name: arrays[name] for name in ("input_kernel", "recurrent_kernel")}
    packed = {n: k for n, k in kernels.items() if isinstance(k, PackedKernel)}
    arrays = Arrays(arrays | {name: kernel.panels for name, kernel in packed.items()})
    parts = {"inputs", *(name for name in _OPTIONAL if name in arrays)}
    if chunked:
        parts.add("chunked")
    problem = Problem(
        "forward",
        cell,
        groups=ways,
        batch=batch,
        steps=steps,
        inputs=x.shape[2],
        hidden=hidden,
        dtype=x.dtype.name,
        directions=directions,
        weights=_weights(len(apart), ways),
        time_major=bool(time_major),
        tf32=compat.tf32_is_asked_for(),
        packed_lanes=packed["recurrent_kernel"].lanes if packed else 0,
        backend=backend,
        parts=operands.in_order(parts),
    )

    def compute(*flat: Array) -> tuple[Array, tuple[Array, ...]]:
        results = primitives.forward(problem, problem.arrays(flat))
        return results.outputs, results.final_state

    outputs, *final_state = (
        _dims(problem, leaf) for leaf in problem.results() if leaf.name != "residuals"
    )
    labelled = _labelled(problem, problem.flat(arrays))
    return in_auto_axes(compute, labelled, (outputs, tuple(final_state)))


def _weights(arrays: int, ways: int) -> str:
    """What a problem's weights are called that are so many arrays each, or 0: not in a tuple."""
    return "one" if arrays == 0 else "per_direction" if arrays == ways else "per_gate"


def _dims(problem: Problem, leaf: Leaf) -> str:
    """The dimensions that a caller's array has, as messages and meshes name them."""
    new = "n" if len(problem.ways) > 1 else "nd"
    return " ".join(_LETTERS[d] for d in problem.dims_of(leaf) if d not in new)


def _labelled(problem: Problem, flat: list[Array]) -> dict[str, tuple[str, Array]]:
    """Operands as a caller would write them, with their dimensions."""
    found: dict[str, tuple[str, Array]] = {}
    counts = Counter(leaf.name for leaf in problem.operands())
    for leaf, array in zip(problem.operands(), flat, strict=True):
        label = leaf.name
        if counts[leaf.name] > 1:
            label += f"[{sum(name.startswith(leaf.name + '[') for name in found)}]"
        found[label] = _dims(problem, leaf), array
    return found
