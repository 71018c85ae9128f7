# SPDX-License-Identifier: Apache-2.0
"""How a problem is split over devices: by its layers and its batch, with no communication.

A layer's directions stay together, so that a device's part of a problem has the same directions.

XLA knows nothing of a custom call, so under a plain `jax.jit` over a mesh it would gather every
operand onto every device first. Here it is told which dimensions are independent, and asks back,
while it splits the program, for the program of one device's own rows. Where there is one device, or
all mesh axes are manual (`jax.shard_map`), nothing is added to the program.

The program carries a description of the problem, from which its own is made when XLA asks. Nothing
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

from jax_persistent import compat

TARGET = "jax_persistent.partitioned"
_INDEPENDENT = frozenset("nb")  # layers and batch; every other dimension is whole on every device

Dims = tuple[str, ...]
# What one device runs of a kind of call: (platform, what the call is, *operands) -> results. It
# must depend on nothing but its arguments.
Program = Callable[..., Sequence[Array]]
_PROGRAMS: dict[str, Program] = {}


def split_by(kind: str, program: Program) -> None:
    """Names what each device runs of the calls of a kind."""
    _PROGRAMS[kind] = program


def split_call(
    ctx: Any,
    kind: str,
    platform: str,
    what: Mapping[str, Any],
    label: str,
    operands: Sequence[Any],
    dims: Sequence[Dims],
    result_dims: Sequence[Dims],
) -> Sequence[Any]:
    """A call that XLA splits over devices.

    Args:
      ctx: that of the lowering rule that makes the call.
      kind: one that `split_by` knows.
      platform: whose devices run it.
      what: what the call is, as JSON has it.
      label: its name in profiles.
      operands: its operands.
      dims, result_dims: the names of the dimensions of each operand and result.
    """
    call = {
        "kind": kind,
        "platform": platform,
        "precision": compat.matmul_precision(),
        "what": what,
        "dims": [dims, result_dims],
    }
    names = [" ".join(d) for d in dims], [" ".join(d) for d in result_dims]
    in_order = dict.fromkeys(" ".join((*names[0], *names[1])).split())
    whole = [d for d in in_order if d not in _INDEPENDENT]
    description = json.dumps(call, sort_keys=True)
    return compat.split_call(ctx, TARGET, description, label, operands, *names, whole)


def _placed(description: str, placed: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The shardings that a call has its operands and its results in, given its operands' own."""
    operands, results = (list(map(tuple, d)) for d in json.loads(description)["dims"])
    leader = _leader(operands, placed)
    return [_like(*leader, dims) for dims in operands], [_like(*leader, dims) for dims in results]


def _one_device(description: str, shapes: Sequence[Any], placed: Sequence[Any]) -> bytes:
    """The program for what one device has."""
    call = json.loads(description)
    local = [
        jax.ShapeDtypeStruct(compat.shape_of_a_tile(shape, sharding), shape.numpy_dtype())
        for shape, sharding in zip(shapes, placed, strict=True)
    ]
    run = partial(_PROGRAMS[call["kind"]], call["platform"], call["what"])
    return compat.module_of(run, local, call["platform"], call["precision"])


def _leader(
    operands: Sequence[tuple[str, ...]], placed: Sequence[Any]
) -> tuple[tuple[str, ...], compat.Tiles]:
    """The operand whose layers and batch are in most pieces: no other has to be gathered then."""
    tiles = [
        (dims, compat.tiles_of(sharding, len(dims)))
        for dims, sharding in zip(operands, placed, strict=True)
        if set(dims) >= _INDEPENDENT
    ]

    def pieces(each: tuple[tuple[str, ...], compat.Tiles]) -> int:
        sizes = zip(each[0], each[1].devices.shape, strict=False)
        return math.prod(size for dim, size in sizes if dim in _INDEPENDENT)

    return max(tiles, key=pieces)


def _like(leading: tuple[str, ...], tiles: compat.Tiles, dims: tuple[str, ...]) -> Any:
    """The sharding of an array of `dims` whose layers and batch are where the leader's are."""
    devices = tiles.devices
    rank, axes = len(leading), range(devices.ndim)
    split = [leading.index(d) for d in dims if d in _INDEPENDENT]
    kept = [n for n in axes[rank:] if tiles.kinds[n - rank] != compat.REPLICATED]
    copies = [n for n in axes if n not in (*split, *kept)]
    sizes = [devices.shape[leading.index(d)] if d in _INDEPENDENT else 1 for d in dims]
    sizes += [math.prod(devices.shape[n] for n in copies), *(devices.shape[n] for n in kept)]
    kinds = compat.REPLICATED, *(tiles.kinds[n - rank] for n in kept)
    ordered = devices.transpose(*split, *copies, *kept).reshape(sizes)
    return compat.sharding_of(compat.Tiles(ordered, kinds))


compat.register_partitioner(TARGET, _placed, _one_device)
