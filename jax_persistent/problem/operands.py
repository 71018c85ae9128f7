# SPDX-License-Identifier: Apache-2.0
"""The table of operands and results, read from operands.def, and arrays by their names in it.

Primitives take and return flat lists. By name, absent optional arrays are None, and what there may
be several of is a tuple: of each state, or a weight that is not one array.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jax_persistent.problem.problem import Problem

OPERANDS, RESULTS = "OPERAND", "RESULT"
ALWAYS, ELEMENT, STATE = "always", "element", "state"
ONE, PER_STATE, PER_GATE = "ONE", "PER_STATE", "PER_GATE"

_ROW = re.compile(r"^JP_(OPERAND|RESULT)\((\w+), (\w+), (\w+), (\w+), \"([^\"]+)\", (\w+)\)", re.M)
_PART = re.compile(r"^JP_PART\((\w+)\)", re.M)


class Leaf(NamedTuple):
    """One array of a table; of an entry that stands for several, one of them."""

    name: str
    type: str  # "element", "state", or a dtype's name
    arrays: str  # ONE, PER_STATE or PER_GATE
    batch_major: tuple[str, ...]  # dimensions
    time_major: tuple[str, ...]
    part: str

    @property
    def is_element(self) -> bool:
        """Whether it has the problem's dtype, as a state may not, and can be differentiated."""
        return self.type in (ELEMENT, STATE)

    @property
    def is_weight(self) -> bool:
        """Whether all rows of a group share it."""
        return "b" not in self.batch_major

    @property
    def is_in_tuple(self) -> bool:
        return self.arrays != ONE

    def in_arrays(self, weights: str) -> Leaf:
        """An array of a problem's own: one that is PER_GATE as its `weights` say."""
        if self.arrays != PER_GATE:
            return self
        if weights == "one":
            return self._replace(arrays=ONE)
        dims = [d for d in self.batch_major if d != "d"]
        if weights == "per_gate":
            dims = ["u" if d == "g" else d for d in dims]
        return self._replace(batch_major=tuple(dims), time_major=tuple(dims))


def _read() -> tuple[tuple[str, ...], dict[tuple[str, str], list[Leaf]]]:
    text = resources.files(__package__).joinpath("operands.def").read_text()
    tables: dict[tuple[str, str], list[Leaf]] = {}
    for side, pass_, name, type_, count, dims, part in _ROW.findall(text):
        swapped = dims.replace("b t", "t b")
        leaf = Leaf(name, type_, count, tuple(dims.split()), tuple(swapped.split()), part)
        tables.setdefault((pass_, side), []).append(leaf)
    return tuple(_PART.findall(text)), tables


PARTS, _TABLES = _read()
LEAVES = {leaf.name: leaf for table in _TABLES.values() for leaf in table}  # of any pass


def in_order(parts: Collection[str]) -> tuple[str, ...]:
    """Parts in operands.def's order."""
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise KeyError(f"no such parts: {sorted(unknown)}")
    return tuple(part for part in PARTS if part in parts)


@lru_cache(maxsize=4096)
def leaves(problem: Problem, side: str) -> tuple[Leaf, ...]:
    """The leaves that a problem has, several where there are several arrays of a name."""
    counts = {ONE: 1, PER_STATE: len(problem.cell.states), PER_GATE: problem.weight_arrays}
    return tuple(
        leaf.in_arrays(problem.weights)
        for leaf in _TABLES[problem.pass_, side]
        if problem.has(leaf.part)
        for _ in range(counts[leaf.arrays])
    )


class Arrays(dict[str, Any]):
    """Arrays by name, as items and as attributes; what is not there is None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def named(leaves: Sequence[Leaf], flat: Sequence[Any]) -> Arrays:
    """A flat list by its names."""
    found = Arrays()
    for leaf, array in zip(leaves, flat, strict=True):
        if leaf.is_in_tuple:
            found[leaf.name] = (*found.get(leaf.name, ()), array)
        else:
            found[leaf.name] = array
    return found


def in_a_row(leaves: Sequence[Leaf], arrays: Mapping[str, Any]) -> list[Any]:
    """The arrays that `leaves` name, in order. Further names in `arrays` are left out."""
    several = {leaf.name: iter(arrays[leaf.name]) for leaf in leaves if leaf.is_in_tuple}
    return [next(several[leaf.name]) if leaf.is_in_tuple else arrays[leaf.name] for leaf in leaves]
