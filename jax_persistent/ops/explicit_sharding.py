# SPDX-License-Identifier: Apache-2.0
"""Mesh axes that are part of an array's type (`jax.sharding.AxisType.Explicit`).

Along such axes jax asks of every operation how its result is split. A recurrence has one answer:
the batch is split, all else is whole on every device. So its operands are checked against that,
the work in between is left to XLA's own propagation, and the results are split as the batch is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec


def in_auto_axes(
    function: Callable[..., Any],
    operands: Mapping[str, tuple[str, Any]],
    results: Any,
    layers: str | None = None,
) -> Any:
    """`function(*arrays)`, with the mesh axes of its operands' types taken off and put back.

    Args:
      function: called with the arrays of `operands`, in order.
      operands: by the name that the caller knows: the dimensions, as in "B T I", and an array.
      results: the dimensions of each result, in the tree that `function` returns.
      layers: the mesh axis that a dimension L is split over, if there is one.

    Raises:
      ValueError: an operand is split along another dimension than B or L, or two differ along B.
    """
    arrays = [array for _, array in operands.values()]
    meshes = [jax.typeof(array).sharding.mesh for array in arrays]
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return function(*arrays)
    batch = _axes_of_batch(operands, layers)

    def split(dims: str) -> NamedSharding:
        return NamedSharding(mesh, _spec(dims, batch, layers))

    run = jax.sharding.auto_axes(
        function, axes=mesh.explicit_axes, out_sharding=jax.tree.map(split, results)
    )
    return run(*arrays)


def _spec(dims: str, batch: Any, layers: str | None) -> PartitionSpec:
    return PartitionSpec(*({"B": batch, "L": layers}.get(d) for d in dims.split()))


def _axes_of_batch(operands: Mapping[str, tuple[str, Array]], layers: str | None) -> Any:
    """The mesh axes that B is split over, None if it is whole."""
    splits = {}
    for name, (dims, array) in operands.items():
        spec, letters = jax.typeof(array).sharding.spec, dims.split()
        batch = spec[letters.index("B")] if "B" in letters else None
        if spec not in (_spec(dims, batch, layers), _spec(dims, batch, None)):
            layout = f"[{', '.join(letters)}]"
            raise ValueError(
                f"{name}: expected {layout} split over devices along no dimension but B, as every "
                f"step of a recurrence reads all of the others; got {_written(spec)}. Bring it "
                "together first: "
                f"jax.sharding.reshard({name}, {_written(_spec(dims, batch, layers))})"
            )
        if batch is not None:
            splits[name] = batch
    if len(set(splits.values())) > 1:
        raise ValueError(
            "the batch: expected one split over devices for all operands; got "
            + ", ".join(f"{name} over {axes!r}" for name, axes in splits.items())
            + ". Bring them together with jax.sharding.reshard"
        )
    return next(iter(splits.values()), None)


def _written(spec: PartitionSpec) -> str:
    return f"P({', '.join(map(repr, spec))})"
