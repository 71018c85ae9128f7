"""How a kernel call is split over devices: by its groups and its batch, with no communication.

XLA knows nothing of a custom call, so under a plain `jax.jit` over a mesh it would gather every
operand onto every device first. Here it is told which dimensions are independent, and asks back,
while it splits the program, for the call on one device's own rows. Where there is one device, or
all mesh axes are manual (`jax.shard_map`), nothing is added to the program.

The program carries a description of the call, from which the call is made when XLA asks. Nothing
in it belongs to the process that traced it: the persistent compilation cache finds the program
again at the next start, and one that `jax.export` serialised can be split in another process.
(`jax.experimental.custom_partitioning` writes the address of a Python object there, which rules
out both.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jax_persistent import compat

INDEPENDENT = frozenset("nb")  # groups and batch; every other dimension is whole on every device
TARGET = "jax_persistent.partitioned"

Body = Callable[..., list[Array]]
_BODIES: dict[str, Body] = {}


def register(name: str, body: Body) -> None:
    """Names a function `body(static, *operands)` for `partitioned`.

    It is called with the operands of one device, of whatever sizes, and returns a list; all else
    that it depends on is in the mapping `static`, which JSON can hold. Its "platform" is the one
    to lower for.
    """
    _BODIES[name] = body


def partitioned(
    body: str, static: Mapping[str, Any], operands: Sequence[str], results: Sequence[str]
) -> Callable[..., list[Array]]:
    """A registered body, to be called with global arrays and run with each device's part of them.

    Args:
      body: its name.
      static: what it is called with before the operands.
      operands: the dimensions of each operand, as in "n b t g"; a letter is a size, and the same
        one wherever it stands.
      results: likewise.
    """
    call = {"body": body, "static": static, "operands": operands, "results": results}
    return partial(partitioned_p.bind, described=json.dumps(call, sort_keys=True))


def _function(call: Mapping[str, Any]) -> Callable[..., list[Array]]:
    return partial(_BODIES[call["body"]], call["static"])


def _abstract(*avals: Any, described: str) -> list[Any]:
    return list(map(compat.shaped, jax.eval_shape(_function(json.loads(described)), *avals)))


def _lower(ctx: Any, *operands: Any, described: str) -> Any:
    call = json.loads(described)
    if not compat.is_split_by_xla(ctx):
        return mlir.lower_fun(_function(call), multiple_results=True)(ctx, *operands)
    dims = call["operands"], call["results"]
    in_order = dict.fromkeys(" ".join((*dims[0], *dims[1])).split())
    whole = [d for d in in_order if d not in INDEPENDENT]
    return compat.split_call(ctx, TARGET, described, operands, *dims, whole)


partitioned_p = Primitive("jax_persistent_partitioned")
partitioned_p.multiple_results = True
partitioned_p.def_abstract_eval(_abstract)
mlir.register_lowering(partitioned_p, _lower)


def _placed(described: str, placed: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The shardings that a call has its operands and its results in, given its operands' own."""
    call = json.loads(described)
    leader = _leader(call["operands"], placed)
    return (
        [_like(*leader, dims) for dims in call["operands"]],
        [_like(*leader, dims) for dims in call["results"]],
    )


def _program(described: str, shapes: Sequence[Any], placed: Sequence[Any]) -> bytes:
    """The call on what one device has."""
    call = json.loads(described)
    local = [
        jax.ShapeDtypeStruct(compat.shape_of_a_tile(shape, sharding), shape.numpy_dtype())
        for shape, sharding in zip(shapes, placed, strict=True)
    ]
    return compat.module_of(_function(call), local, call["static"]["platform"])


def _leader(operands: Sequence[str], placed: Sequence[Any]) -> tuple[str, compat.Tiles]:
    """The operand whose groups and batch are in most pieces: no other has to be gathered then."""
    tiles = [
        (dims, compat.tiles_of(sharding, len(dims.split())))
        for dims, sharding in zip(operands, placed, strict=True)
        if set(dims.split()) >= INDEPENDENT
    ]

    def pieces(each: tuple[str, compat.Tiles]) -> int:
        sizes = zip(each[0].split(), each[1].devices.shape, strict=False)
        return math.prod(size for dim, size in sizes if dim in INDEPENDENT)

    return max(tiles, key=pieces)


def _like(leading: str, tiles: compat.Tiles, dims: str) -> Any:
    """The sharding of an array of `dims` whose groups and batch are where the leader's are."""
    names, devices = leading.split(), tiles.devices
    rank, axes = len(names), range(devices.ndim)
    split = [names.index(d) for d in dims.split() if d in INDEPENDENT]
    kept = [n for n in axes[rank:] if tiles.kinds[n - rank] != compat.REPLICATED]
    copies = [n for n in axes if n not in (*split, *kept)]
    sizes = [devices.shape[names.index(d)] if d in INDEPENDENT else 1 for d in dims.split()]
    sizes += [math.prod(devices.shape[n] for n in copies), *(devices.shape[n] for n in kept)]
    kinds = compat.REPLICATED, *(tiles.kinds[n - rank] for n in kept)
    ordered = devices.transpose(*split, *copies, *kept).reshape(sizes)
    return compat.sharding_of(compat.Tiles(ordered, kinds))


compat.register_partitioner(TARGET, _placed, _program)
