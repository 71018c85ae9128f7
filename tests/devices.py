# SPDX-License-Identifier: Apache-2.0
"""Meshes of the eight CPU devices, and what a compiled program does on them."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

COLLECTIVE = re.compile(r" ((?:all|reduce|collective|ragged)-[a-z-]+)\(")
OURS = re.compile(r'= (.*?) custom-call\(.*custom_call_target="jax_persistent\.')


def mesh_of(*, explicit: bool = False, **axes: int) -> Mesh:
    """A mesh of the first devices, its axes by name."""
    kind = AxisType.Explicit if explicit else AxisType.Auto
    count = int(np.prod(list(axes.values())))
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(kind,) * len(axes),
        devices=jax.devices()[:count],
    )


def put(mesh: Mesh, tree: Any, *axes: Any) -> Any:
    """Every array of a tree, split like `PartitionSpec(*axes)`."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))


def collectives(compiled: Any) -> list[str]:
    """The names of the collective operations in a compiled program, one for each."""
    return COLLECTIVE.findall(compiled.as_text())


def collectives_in_loops(compiled: Any) -> list[str]:
    """Those of them that are in the body of a loop, or in what it calls."""
    parts = re.split(r"\n(?=(?:ENTRY )?%[\w.-]+ \()", compiled.as_text())
    called = {part.removeprefix("ENTRY ").split(" ")[0]: part for part in parts}
    found, todo = set(), set(re.findall(r"body=(%[\w.-]+)", compiled.as_text()))
    while todo:
        found |= todo
        names = (re.findall(r"(?:to_apply|calls|body)=(%[\w.-]+)", called[name]) for name in todo)
        todo = {name for each in names for name in each} - found
    return [name for each in sorted(found) for name in COLLECTIVE.findall(called[each])]


def kernel_results(compiled: Any) -> list[str]:
    """The first result of each kernel call in a compiled program, as in f32[1,2,5,1,6]."""
    return [found.lstrip("(").split("{")[0] for found in OURS.findall(compiled.as_text())]


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == e.shape
        assert_allclose(np.asarray(a), np.asarray(e), rtol=tolerance, atol=tolerance)
