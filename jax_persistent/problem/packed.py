# SPDX-License-Identifier: Apache-2.0
"""A kernel as the CPU's products read it, and its sizes.

native/problem/packed.h says in full how it lies in memory. A kernel [K, G*H] becomes
[panels, K made even, vectors * lanes], whatever the batch, the steps and the number of cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax import Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["panels"],
    meta_fields=["gates", "rows", "units", "lanes"],
)
@dataclass(frozen=True)
class PackedKernel:
    """A kernel that `jax_persistent.pack` has packed: a pytree of one array.

    It has the shape and the dtype of the kernel that it stands for, and is accepted where that is.

    Attributes:
      panels: [.., panels, rows made even, vectors * lanes], of the kernel's dtype.
      gates, rows, units: G, K and H of the kernel [.., K, G*H].
      lanes: units in a vector of the machine that packed it; others can't read it.
    """

    panels: Array
    gates: int
    rows: int
    units: int
    lanes: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.panels.shape[:-3], self.rows, self.gates * self.units)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        return self.panels.dtype

    @property
    def panels_shape(self) -> tuple[int, ...]:
        """The shape that the panels of one kernel have."""
        width = panel_vectors(self.gates) * self.lanes
        return panels(self.gates, self.units, self.lanes), even(self.rows), width


def panel_vectors(gates: int) -> int:
    """Vectors across a panel, each of so many units as a vector has lanes."""
    return gates if gates in (3, 5, 6) else 4


def panels(gates: int, units: Any, lanes: int) -> Any:
    """Panels of a kernel of so many units."""
    return -(-units // lanes * gates // panel_vectors(gates))


def even(rows: Any) -> Any:
    """Rows, made even."""
    return (rows + 1) // 2 * 2
