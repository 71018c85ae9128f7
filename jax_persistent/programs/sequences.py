# SPDX-License-Identifier: Apache-2.0
"""A cell of the library over whole sequences, given arrays that are known to be valid.

Means what `ops.functions.run` means for a cell with kernels, and takes the same arguments.

Legend: T time steps, B batch, I input features, H hidden units, G gates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent.backends.reference import accumulation_dtype
from jax_persistent.ops.explicit_sharding import in_auto_axes
from jax_persistent.problem import Arrays
from jax_persistent.programs.functions import scan

if TYPE_CHECKING:  # the library is imported where a cell of it is asked for
    from jax_persistent.cells.library import StepCell

_DIMS = {
    "input_kernel": "I G*H",
    "recurrent_kernel": "H G*H",
    "bias": "G*H",
    "recurrent_bias": "G*H",
    "peephole": "3*H",
    "lengths": "B",
    "initial_state": "B H",
    "reset_state": "B H",
}


def run(
    cell: StepCell, arrays: Arrays, *, reverse: bool, time_major: bool, backend: str | None
) -> tuple[Array, tuple[Array, ...]]:
    """The recurrence of a cell of which all states have H units.

    Args:
      cell: the cell.
      arrays: as `validation.check_call` returns them.
      reverse, time_major, backend: as for `lstm`.

    Returns:
      (outputs, final states).
    """
    steps = "T B" if time_major else "B T"
    dims = _DIMS | {"x": f"{steps} I", "resets": steps}
    leaves, tree = jax.tree_util.tree_flatten_with_path(dict(arrays))
    labelled = {
        "".join([path[0].key, *(f"[{part.idx}]" for part in path[1:])]): (dims[path[0].key], array)
        for path, array in leaves
    }

    def compute(*flat: Array) -> tuple[Array, tuple[Array, ...]]:
        given = Arrays(jax.tree.unflatten(tree, flat))
        return _run(cell, given, bool(reverse), time_major, backend)

    states = jax.tree.leaves(cell.sizes(1))
    return in_auto_axes(compute, labelled, (f"{steps} H", tuple("B H" for _ in states)))


def _run(
    cell: StepCell, arrays: Arrays, reverse: bool, time_major: bool, backend: str | None
) -> tuple[Array, tuple[Array, ...]]:
    x, resets, lengths = arrays.x, arrays.resets, arrays.lengths
    if not time_major:
        x = jnp.swapaxes(x, 0, 1)
        resets = None if resets is None else jnp.swapaxes(resets, 0, 1)
    if lengths is not None:  # a NaN in the padding would reach gradients as 0 * NaN
        runs = jnp.arange(x.shape[0], dtype=lengths.dtype)[:, None] < lengths[None, :]
        x = jnp.where(runs[:, :, None], x, jnp.zeros((), x.dtype))
    hidden, dtype, wide = len(arrays.recurrent_kernel), x.dtype, accumulation_dtype(x.dtype)
    tree = jax.tree.structure(cell.sizes(hidden))
    weights = {n: arrays[n] for n in cell.parameters(x.shape[2], hidden) if n in arrays}
    biases = [a.astype(wide) for a in (arrays.bias, arrays.recurrent_bias) if a is not None]
    weights["bias"] = sum(biases, jnp.zeros(arrays.recurrent_kernel.shape[1], wide))

    def carry(states: tuple[Array, ...] | None) -> Any:
        if states is None:
            return cell.start(hidden, x.shape[1], wide)
        return jax.tree.unflatten(tree, [state.astype(wide) for state in states])

    anew = carry(arrays.reset_state)

    def step(before: Any, given: tuple[Array, Array | None]) -> tuple[Any, Array]:
        x, reset = given
        if reset is not None:
            replace = lambda a, b: jnp.where(reset[:, None], a, b)  # noqa: E731
            before = jax.tree.map(replace, anew, before)
        after, y = cell(weights, before, x)
        h, *rest = jax.tree.leaves(after)
        # The next step multiplies what is handed out.
        return jax.tree.unflatten(tree, [h.astype(dtype).astype(wide), *rest]), y

    final, ys = scan(
        step,
        carry(arrays.initial_state),
        (x, resets),
        reverse=reverse,
        lengths=lengths,
        backend=backend,
    )
    states = tuple(state.astype(dtype) for state in jax.tree.leaves(final))
    return ys if time_major else jnp.swapaxes(ys, 0, 1), states
