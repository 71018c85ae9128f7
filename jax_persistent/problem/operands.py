# SPDX-License-Identifier: Apache-2.0
"""The table of operands and results, read from operands.def, and arrays by their names in it.

Primitives take and return flat lists. By name, absent optional arrays are None, and what each state
has one of is a tuple.
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

_ROW = re.compile(
    r"^JP_(OPERAND|RESULT)\((\w+), (\w+), (\w+), (ONE|PER_STATE), \"([^\"]+)\", (\w+)\)", re.M
)
_PART = re.compile(r"^JP_PART\((\w+)\)", re.M)


class Leaf(NamedTuple):
    """One array of a table; of a per-state entry, one state's."""

    name: str
    type: str  # "element", "state", or a dtype's name
    per_state: bool
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


def _read() -> tuple[tuple[str, ...], dict[tuple[str, str], list[Leaf]]]:
    text = resources.files(__package__).joinpath("operands.def").read_text()
    tables: dict[tuple[str, str], list[Leaf]] = {}
    for side, pass_, name, type_, count, dims, part in _ROW.findall(text):
        swapped = dims.replace("b t", "t b")
        leaf = Leaf(
            name, type_, count == "PER_STATE", tuple(dims.split()), tuple(swapped.split()), part
        )
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
    """The leaves that a problem has, one for each state where there is one for each."""
    return tuple(
        leaf
        for leaf in _TABLES[problem.pass_, side]
        if problem.has(leaf.part)
        for _ in range(len(problem.cell.states) if leaf.per_state else 1)
    )


class Arrays(dict[str, Any]):
    """Arrays by name, as items and as attributes; what is not there is None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def named(leaves: Sequence[Leaf], flat: Sequence[Any]) -> Arrays:
    """A flat list by its names."""
    found = Arrays()
    for leaf, array in zip(leaves, flat, strict=True):
        if leaf.per_state:
            found[leaf.name] = (*found.get(leaf.name, ()), array)
        else:
            found[leaf.name] = array
    return found


def in_a_row(leaves: Sequence[Leaf], arrays: Mapping[str, Any]) -> list[Any]:
    """The arrays that `leaves` name, in order. Further names in `arrays` are left out."""
    states = {leaf.name: iter(arrays[leaf.name]) for leaf in leaves if leaf.per_state}
    return [next(states[leaf.name]) if leaf.per_state else arrays[leaf.name] for leaf in leaves]
