# SPDX-License-Identifier: Apache-2.0
"""A kernel as the CPU's products read it, and its sizes.

native/problem/packed.h says in full how it lies in memory. A kernel [K, G*H] becomes
[panels, K made even, vectors * lanes], whatever the batch, the steps and the number of cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jax_persistent import compat


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

    __array_ufunc__: ClassVar[None] = None  # NumPy leaves `array @ packed` to this class

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

    def unpacked(self) -> Array:
        """The kernel [.., K, G*H] as it was."""
        return unpack_p.bind(
            self.panels, gates=self.gates, rows=self.rows, units=self.units, lanes=self.lanes
        )

    def matrix(self) -> Array:
        """What a step multiplies with, of a kernel that was packed for one.

        `jax_persistent.scan` reads the panels in its place.
        """
        if self.gates != 1:
            raise ValueError(
                "packed kernel: expected one for a step function; got one for a cell of "
                f"{self.gates} gates. Pack it with jax_persistent.pack('scan', kernel)"
            )
        return self.unpacked()

    def __rmatmul__(self, left: Any) -> Array:
        """`left @ kernel`, of a kernel that was packed for a step of `jax_persistent.scan`."""
        left, matrix = jnp.asarray(left), self.matrix()
        if left.dtype != self.dtype:
            raise ValueError(
                f"packed kernel: expected vectors of its dtype {self.dtype.name}; got "
                f"{left.dtype.name}. Convert one of them: the kernel before it is packed"
            )
        return jnp.matmul(left, matrix)


def panel_vectors(gates: int) -> int:
    """Vectors across a panel, each of so many units as a vector has lanes."""
    return gates if gates in (3, 5, 6) else 4


def panels(gates: int, units: Any, lanes: int) -> Any:
    """Panels of a kernel of so many units."""
    return -(-units // lanes * gates // panel_vectors(gates))


def even(rows: Any) -> Any:
    """Rows, made even."""
    return (rows + 1) // 2 * 2


def check_constant(moves: bool) -> None:
    """Raises if packed kernels, or what they were made of, are differentiated."""
    if moves:
        raise ValueError(
            "packed kernels: expected no gradient with respect to them, as they are for inference. "
            "Train with the kernels themselves, and pack those that have been trained"
        )


# --- unpacking, as a primitive: where a scan meets it, it may read the panels instead


def _unpacked(panels: Array, *, gates: int, rows: int, units: int, lanes: int) -> Array:
    """[.., panels, rows made even, width] -> [.., rows, G*H]."""
    *leading, count, even, width = panels.shape
    vectors = width // lanes
    if panels.dtype.itemsize == 2:  # pairs of rows are interleaved
        panels = panels.reshape(*leading, count, even // 2, width, 2)
        panels = jnp.swapaxes(panels, -1, -2)
    columns = panels.reshape(*leading, count, even, vectors, lanes)
    columns = jnp.moveaxis(columns, -4, -3).reshape(*leading, even, count * vectors, lanes)
    of_units = count * vectors // gates
    columns = columns[..., : of_units * gates, :].reshape(*leading, even, of_units, gates, lanes)
    columns = jnp.swapaxes(columns, -2, -3).reshape(*leading, even, gates, of_units * lanes)
    return columns[..., :rows, :, :units].reshape(*leading, rows, gates * units)


def _abstract(panels: Any, **how: int) -> Any:
    kernel = PackedKernel(panels, **how)
    if panels.shape[-3:] != kernel.panels_shape:
        raise ValueError(
            f"packed kernel: expected panels {kernel.panels_shape}, as jax_persistent.pack makes "
            f"them; got {panels.shape}"
        )
    return compat.result_aval(panels, kernel.shape, panels.dtype)


def _batch(operands: Sequence[Array], axes: Sequence[int], **how: int) -> tuple[Array, int]:
    return unpack_p.bind(jnp.moveaxis(operands[0], axes[0], 0), **how), 0


def _jvp(primals: Any, tangents: Any, **how: int) -> tuple[Array, Any]:
    check_constant(type(tangents[0]) is not ad.Zero)
    found = unpack_p.bind(*primals, **how)
    return found, ad.Zero(jax.typeof(found).to_tangent_aval())


unpack_p = Primitive("jax_persistent_unpack")
unpack_p.def_impl(partial(compat.apply_primitive, unpack_p))
unpack_p.def_abstract_eval(_abstract)
batching.primitive_batchers[unpack_p] = _batch
ad.primitive_jvps[unpack_p] = _jvp
mlir.register_lowering(unpack_p, mlir.lower_fun(_unpacked, multiple_results=False))
