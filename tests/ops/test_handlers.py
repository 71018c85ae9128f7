# SPDX-License-Identifier: Apache-2.0
"""Native handlers called past all validation: a wrong buffer is an FFI error, never trusted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest

from . import oracle
from .problems import Case, call, problem

KINDS = {"f32": np.float32, "i32": np.int32, "i1": np.bool_}


class Buffer(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


class Call(NamedTuple):
    """A custom call as the package lowers it."""

    target: str
    operands: tuple[Buffer, ...]
    results: tuple[Buffer, ...]
    attributes: tuple[tuple[str, object], ...]


def buffers(text: str) -> tuple[Buffer, ...]:
    found = []
    for inside in re.findall(r"tensor<([^>]+)>", text):
        *sizes, kind = inside.split("x")
        found.append(Buffer(tuple(map(int, sizes)), np.dtype(KINDS[kind])))
    return tuple(found)


def attribute(text: str) -> object:
    if text.startswith('"'):
        return text.strip('"')
    if text in ("true", "false"):
        return text == "true"
    number, _, _kind = text.partition(" : ")
    return np.int64(number)


@lru_cache
def calls(cell: str) -> tuple[Call, Call]:
    """Forward and backward, read from the lowered program: names and operands are the package's."""
    case = Case(cell, lengths=(3, 5, 1), resets=True, reset_state=True)
    p = problem(case)

    def loss(params, lengths, resets):
        results = call(cell, params, lengths=lengths, resets=resets, backend="native")
        return sum((results[k] * p.cotangents[k]).sum() for k in results)

    traced = jax.jit(jax.grad(loss)).trace(p.params, p.lengths, p.resets)
    found = []
    for line in traced.lower(lowering_platforms=("cpu",)).as_text().splitlines():
        target = re.search(r"custom_call @\"?(jax_persistent[\w.]+)", line)
        if target is None:
            continue
        config = re.search(r"mhlo\.backend_config = \{([^}]*)\}", line)
        assert config is not None
        pairs = (pair.split(" = ") for pair in config.group(1).split(", "))
        attributes = tuple((name, attribute(value)) for name, value in pairs)
        operands, results = line.rsplit(" : (", 1)[1].split("->")
        found.append(Call(target.group(1), buffers(operands), buffers(results), attributes))
    forward, backward = found
    return forward, backward


def execute(c: Call, length: int = 2) -> list[jax.Array]:
    shapes = [jax.ShapeDtypeStruct(*b) for b in c.results]
    values = [length if b.dtype == np.int32 else 0.25 for b in c.operands]  # resets: all true
    arguments = [np.full(b.shape, v, b.dtype) for b, v in zip(c.operands, values, strict=True)]
    run = jax.jit(partial(jax.ffi.ffi_call(c.target, shapes), **dict(c.attributes)))
    return jax.block_until_ready(run(*arguments))


def refused(c: Call) -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT|UNIMPLEMENTED"):
        execute(c)


def damaged(all_buffers: tuple[Buffer, ...]) -> Iterator[tuple[Buffer, ...]]:
    """Each buffer in turn with each axis longer or shorter, an axis less, and another dtype."""
    for nth, (shape, dtype) in enumerate(all_buffers):
        versions = [Buffer(shape[1:], dtype)]
        for axis, size in enumerate(shape):
            wrong = size + (1 if (nth + axis) % 2 else -1)
            versions.append(Buffer((*shape[:axis], wrong, *shape[axis + 1 :]), dtype))
        other = np.dtype(np.float32) if dtype.kind in "ib" else np.dtype(ml_dtypes.bfloat16)
        versions.append(Buffer(shape, other))
        for version in versions:
            yield (*all_buffers[:nth], version, *all_buffers[nth + 1 :])


both = pytest.mark.parametrize("which", [0, 1], ids=["forward", "backward"])
cells = pytest.mark.parametrize("cell", ["lstm", "gru", "elman-relu"])


@both
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_the_calls_themselves_run(cell: str, which: int) -> None:
    for result in execute(calls(cell)[which]):
        assert np.isfinite(result).all()


@both
@cells
def test_wrong_operands(cell: str, which: int) -> None:
    c = calls(cell)[which]
    for operands in damaged(c.operands):
        refused(c._replace(operands=operands))


@both
@cells
def test_wrong_results(cell: str, which: int) -> None:
    c = calls(cell)[which]
    for results in damaged(c.results):
        refused(c._replace(results=results))


@both
@cells
def test_wrong_number_of_buffers(cell: str, which: int) -> None:
    c = calls(cell)[which]
    refused(c._replace(operands=c.operands[:-1]))
    refused(c._replace(operands=(*c.operands, c.operands[-1])))
    refused(c._replace(results=c.results[:1]))
    refused(c._replace(results=(*c.results, c.results[-1])))
    refused(c._replace(operands=()))


@both
def test_wrong_attributes(which: int) -> None:
    c = calls("lstm")[which]
    given = dict(c.attributes)
    for name, value in given.items():
        rest = {k: v for k, v in given.items() if k != name}
        refused(c._replace(attributes=tuple(rest.items())))
        other = np.float32(7.5) if isinstance(value, str) else "neither"
        refused(c._replace(attributes=tuple((rest | {name: other}).items())))
    name = next(k for k, v in given.items() if v == "lstm")
    for wrong in ("transformer", "", "gru"):
        refused(c._replace(attributes=tuple((given | {name: wrong}).items())))
    for size in ("groups", "batch", "steps", "inputs", "hidden"):
        for number in (given[size] + 1, 0, -2, 2**62):
            attributes = given | {size: np.int64(number)}
            refused(c._replace(attributes=tuple(attributes.items())))
    for parts in ("", "everything", given["parts"] + " bias", given["parts"].replace(" ", "  ")):
        refused(c._replace(attributes=tuple((given | {"parts": parts}).items())))


@both
@cells
@pytest.mark.parametrize("value", [-1000, 2**31 - 128, -(2**31)])
def test_lengths_are_not_trusted(cell: str, which: int, value: int) -> None:
    """Out of range they are clamped or refused; nothing is read or written outside a buffer."""
    c = calls(cell)[which]
    try:
        results = execute(c, value)
    except jax.errors.JaxRuntimeError as error:
        assert "lengths" in str(error)  # noqa: PT017
    else:
        assert all(np.isfinite(result).all() for result in results)
