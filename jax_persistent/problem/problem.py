# SPDX-License-Identifier: Apache-2.0
"""One recurrence without its arrays: what is computed, of which sizes, in which layout.

native/problem/problem.h has the same fields under the same names. They travel to it as the
attributes of a custom call, and as JSON through a program that is yet to be split over devices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from jax_persistent.cells import CELLS, Cell
from jax_persistent.problem import operands, packed
from jax_persistent.problem.operands import Arrays, Leaf

DTYPES = ("float32", "bfloat16", "float16", "float64")
# By their name: of each direction of a layer, whether its rows run from their last step.
DIRECTIONS = {"forward": (False,), "reverse": (True,), "both": (False, True)}
_SIZES = {"n": "groups", "b": "batch", "t": "steps", "i": "inputs", "h": "hidden"}
_PACKED: dict[tuple[str, ...], tuple[str, ...]] = {  # dimensions of kernels
    ("i", "g"): ("p", "j", "w"),
    ("h", "g"): ("p", "k", "w"),
}
_UNKNOWN = -1


@dataclass(frozen=True)
class Problem:
    """Hashable: a jit key and a primitive's only parameter.

    Attributes:
      pass_: "forward", "tangent" or "backward"; see operands.def.
      cell: the cell.
      groups, batch, steps, inputs, hidden: N, B, T, I and H. A group is a problem of its own, with
        its own weights. I is 0 where nothing has input features. A size may be symbolic, as in
        programs that `jax.export` makes for several sizes.
      dtype: of the arrays; its name.
      directions: "forward"; "reverse", each row from its last step to its first; or "both": of two
        groups that follow each other, the second runs in reverse. They are one layer, and share x
        and the lengths.
      weights: "one": of each of them one array; "per_direction": one of each direction; or
        "per_gate": one of each direction and gate. See operands.def.
      time_major: whether sequences have T before B.
      tf32: whether float32 products may be rounded to it, where the hardware has it.
      packed_lanes: of packed kernels, for vectors of how many units they are; 0 if they are not.
      backend: None chooses, "native" is a kernel or an error, "reference" a plain scan.
      parts: the optional parts that this problem has, in operands.def's order.
    """

    pass_: str
    cell: Cell
    groups: int
    batch: int
    steps: int
    inputs: int
    hidden: int
    dtype: str
    directions: str = "forward"
    weights: str = "one"
    time_major: bool = False
    tf32: bool = False
    packed_lanes: int = 0
    backend: str | None = None
    parts: tuple[str, ...] = ()

    def has(self, part: str) -> bool:
        return part == operands.ALWAYS or part in self.parts

    @property
    def has_wide_states(self) -> bool:
        """Whether states come and go in float32, as which kernels keep them."""
        return self.has("chunked") and self.dtype in ("bfloat16", "float16")

    def having(self, pass_: str, parts: Collection[str]) -> Problem:
        """Another pass of the same recurrence, with these parts."""
        return replace(self, pass_=pass_, parts=operands.in_order(parts))

    @property
    def label(self) -> str:
        """The name of its kernel in profiles."""
        return f"{self.cell.name} {self.hidden} {self.pass_}"

    @property
    def ways(self) -> tuple[bool, ...]:
        """Of each direction, whether it is reversed."""
        return DIRECTIONS[self.directions]

    @property
    def weight_arrays(self) -> int:
        """Of each of the weights."""
        gates = self.cell.gates if self.weights == "per_gate" else 1
        return 1 if self.weights == "one" else len(self.ways) * gates

    def one_way(self, way: int) -> Problem:
        """The groups of one direction, by themselves."""
        name = "reverse" if self.ways[way] else "forward"
        return replace(self, directions=name, groups=self.size("n"))

    def way_axis(self, name: str) -> int | None:
        """Where D is in one layer's array of this name; None if its directions share it."""
        dims = self.dims_of(operands.LEAVES[name])[1:]
        return dims.index("d") if "d" in dims else None

    @property
    def time_axis(self) -> int:
        """Where T is in one layer's sequences."""
        return 0 if self.time_major else 1

    def size(self, dimension: str) -> Any:
        """The size of one of operands.def's dimensions."""
        if dimension == "u":
            return self.hidden
        if dimension == "g":
            return self.cell.gates * self.hidden
        if dimension == "r":
            return self.cell.residuals * self.hidden
        if dimension == "d":
            return len(self.ways)
        if dimension == "n":
            return self.groups // len(self.ways)
        if dimension in "jk":
            return packed.even(self.inputs if dimension == "j" else self.hidden)
        if dimension == "p":
            return packed.panels(self.cell.gates, self.hidden, self.packed_lanes)
        if dimension == "w":
            return packed.panel_vectors(self.cell.gates) * self.packed_lanes
        return getattr(self, _SIZES[dimension])

    def sizes(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in _SIZES.values())

    def operands(self) -> tuple[Leaf, ...]:
        """The arrays that this pass reads, in order."""
        return operands.leaves(self, operands.OPERANDS)

    def results(self) -> tuple[Leaf, ...]:
        """The arrays that this pass makes, in order."""
        return operands.leaves(self, operands.RESULTS)

    def dims_of(self, leaf: Leaf) -> tuple[str, ...]:
        """A leaf's dimensions as they lie in memory."""
        dims = leaf.time_major if self.time_major else leaf.batch_major
        if self.packed_lanes and dims[-2:] in _PACKED:
            dims = (*dims[:-2], *_PACKED[dims[-2:]])
        return dims

    def shape_of(self, leaf: Leaf) -> tuple[Any, ...]:
        return tuple(map(self.size, self.dims_of(leaf)))

    def dtype_of(self, leaf: Leaf) -> str:
        if leaf.type == operands.STATE and self.has_wide_states:
            return "float32"
        return self.dtype if leaf.is_element else leaf.type

    def arrays(self, flat: Sequence[Any]) -> Arrays:
        """The operands by name."""
        return operands.named(self.operands(), flat)

    def flat(self, arrays: Mapping[str, Any]) -> list[Any]:
        """The operands in order, out of `arrays`."""
        return operands.in_a_row(self.operands(), arrays)

    def named_results(self, flat: Sequence[Any]) -> Arrays:
        """The results by name."""
        return operands.named(self.results(), flat)

    def flat_results(self, arrays: Mapping[str, Any]) -> list[Any]:
        """The results in order, out of `arrays`."""
        return operands.in_a_row(self.results(), arrays)

    def with_sizes_of(self, shapes: Sequence[Sequence[Any]]) -> Problem:
        """The same with the sizes that operands of these shapes have: a device's part, say."""
        found = {}
        for leaf, shape in zip(self.operands(), shapes, strict=True):
            for dimension, size in zip(self.dims_of(leaf), shape, strict=True):
                if dimension in _SIZES:
                    found[_SIZES[dimension]] = size
        found["groups"] *= len(self.ways)
        return replace(self, **found)

    def encoded(self) -> dict[str, Any]:
        """Everything but the pass, which has a name of its own, as attributes of a custom call."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        del found["pass_"], found["backend"]
        sizes = {
            n: s if isinstance(s, int) else _UNKNOWN for n in _SIZES.values() for s in [found[n]]
        }
        return found | sizes | {"cell": self.cell.name, "parts": " ".join(self.parts)}

    @classmethod
    def decoded(cls, pass_: str, encoded: Mapping[str, Any], backend: str | None) -> Problem:
        """The inverse of `encoded`; sizes that were symbolic are -1."""
        cell, parts = CELLS[encoded["cell"]], tuple(encoded["parts"].split())
        return cls(**{**encoded, "pass_": pass_, "cell": cell, "parts": parts, "backend": backend})
