"""How a kernel call is split over devices: by its groups and its batch, with no communication.

XLA knows nothing of a custom call, so under a plain `jax.jit` over a mesh it would gather every
operand onto every device first. Here it is told which dimensions are independent, and calls the
kernel on each device's own rows. Where there is one device, or all mesh axes are manual
(`jax.shard_map`), nothing is added to the program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import Array
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

INDEPENDENT = ("n", "b")  # groups and batch; every other dimension is whole on every device


def partitioned(
    function: Callable[..., list[Array]], operands: Sequence[str], results: Sequence[str]
) -> Callable[..., list[Array]]:
    """`function`, to be called with global arrays and run with each device's part of them.

    Args:
      function: takes the operands, of whatever sizes a device holds, and returns a list.
      operands: the dimensions of each operand, as in "n b t g"; a letter is a size, and the same
        one wherever it stands. The first operand that has "b" decides how the batch is split.
      results: likewise.
    """
    letters = dict.fromkeys(" ".join((*operands, *results)).split())  # in order of appearance
    leader = next(i for i, dims in enumerate(operands) if set(INDEPENDENT) <= set(dims.split()))

    def partition(mesh: Any, operand_infos: Any, result_infos: Any) -> Any:
        leading = operand_infos[leader].sharding
        if not isinstance(leading, NamedSharding):
            # Without a named mesh, what propagation arrived at is all there is.
            of_operands = tuple(info.sharding for info in operand_infos)
            return mesh, function, [info.sharding for info in result_infos], of_operands
        placed = dict(zip(operands[leader].split(), leading.spec, strict=False))

        def sharding(dims: str) -> NamedSharding:
            axes = [placed.get(d) if d in INDEPENDENT else None for d in dims.split()]
            return NamedSharding(mesh, PartitionSpec(*axes))

        return mesh, function, [sharding(d) for d in results], tuple(map(sharding, operands))

    call = custom_partitioning(function)
    call.def_partition(
        partition=partition,
        sharding_rule=f"{', '.join(operands)} -> {', '.join(results)}",
        need_replication_factors=tuple(x for x in letters if x not in INDEPENDENT),
    )
    return call
