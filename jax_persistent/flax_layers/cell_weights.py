# SPDX-License-Identifier: Apache-2.0
"""A flax cell's parameters as they lie, and which of flax's cells have a kernel.

linen_weights.py and nnx_weights.py find the parameters, each in its package's cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent.cells import Cell
from jax_persistent.cells.elman import ELMAN
from jax_persistent.fallback import NoKernel
from jax_persistent.ops import packing
from jax_persistent.problem import PackedKernel

_SIGMOIDS = (jax.nn.sigmoid, jax.lax.logistic)
_TANHS = (jnp.tanh, jax.nn.tanh, jax.lax.tanh)

Gates = tuple[Array, ...]


def joined(gates: Gates) -> Array:
    """The gates' arrays as one."""
    return gates[0] if len(gates) == 1 else jnp.concatenate(gates, axis=-1)


@dataclass(frozen=True)
class CellWeights:
    """One cell's parameters as they lie, not yet cast to the computation's dtype.

    Each is of as many arrays as the others: of one that has all gates, or of one for each gate.
    """

    cell: Cell
    input_kernel: Gates  # [I, G*H] or [I, H]
    recurrent_kernel: Gates  # [H, G*H] or [H, H]
    bias: Gates | None  # [G*H] or [H]
    input_dtype: Any  # of the input product; None: inferred from its operands, as flax does
    recurrent_dtype: Any  # of the recurrent product; likewise
    recurrent_bias: Gates | None = None  # like bias, cells that reset after the product
    mixes_states: bool = True  # whether a step promotes its result with the state before it
    packed: dict[str, PackedKernel] | None = None  # of both kernels, by name

    @property
    def arrays(self) -> dict[str, Gates]:
        every = {
            "input_kernel": self.input_kernel,
            "recurrent_kernel": self.recurrent_kernel,
            "bias": self.bias,
            "recurrent_bias": self.recurrent_bias,
        }
        return {name: array for name, array in every.items() if array is not None}

    def pack(self) -> dict[str, PackedKernel]:
        """Both kernels packed, in the dtype of a call whose inputs have that of the parameters."""
        found = {}
        dtypes = {"input_kernel": self.input_dtype, "recurrent_kernel": self.recurrent_dtype}
        for name, dtype in dtypes.items():
            kernel = joined(self.arrays[name])
            kernel = kernel if dtype is None else kernel.astype(dtype)
            found[name] = packing.pack_kernel(self.cell, name, kernel)
        return found

    def in_dtype(self, dtype: Any) -> dict[str, tuple[Any, ...]]:
        """The arrays of one dtype; if the kernels are packed, those, and what else is joined."""
        arrays: dict[str, tuple[Any, ...]] = {
            name: tuple(array.astype(dtype) for array in gates)
            for name, gates in self.arrays.items()
        }
        if self.packed is None:
            return arrays
        for name, gates in arrays.items():
            packed = self.packed.get(name)
            if packed is None:
                arrays[name] = (joined(gates),)
                continue
            kernel = jax.eval_shape(joined, gates)
            if (packed.shape, packed.dtype) != (kernel.shape, kernel.dtype):
                raise ValueError(
                    f"packed {name}: expected {kernel.dtype.name} of shape {kernel.shape}, as this "
                    f"call computes in; got {packed.dtype.name} of shape {packed.shape}. Pack the "
                    "layer again, or cast its inputs"
                )
            arrays[name] = (packing.in_place_of(gates, packed),)
        return arrays


def check_gated_cell(cell: Any) -> None:
    """Raises NoKernel unless an LSTM or a GRU cell of flax's has the kernels' functions."""
    gated = any(cell.gate_fn is f for f in _SIGMOIDS)
    if not gated or activation_name(cell.activation_fn) != "tanh":
        raise NoKernel(
            f"{type(cell).__name__}: a kernel has sigmoid as gate_fn and tanh as activation_fn; "
            f"got {_named(cell.gate_fn)} and {_named(cell.activation_fn)}"
        )


def elman_of(cell: Any) -> Cell:
    """The Elman cell that does what flax's SimpleCell does, or NoKernel."""
    activation = activation_name(cell.activation_fn)
    if activation is None:
        got = _named(cell.activation_fn)
        raise NoKernel(f"SimpleCell: a kernel has tanh or relu as activation_fn; got {got}")
    if cell.residual:
        raise NoKernel("SimpleCell: there is no kernel for residual=True")
    return ELMAN[activation]


def _named(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)


def activation_name(function: Any) -> str | None:
    """The name of a function that an Elman cell can have, None for others."""
    if any(function is f for f in _TANHS):
        return "tanh"
    return "relu" if function is jax.nn.relu else None
