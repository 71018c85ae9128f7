# SPDX-License-Identifier: Apache-2.0
"""The weights of flax.linen's cells that have a kernel, found in their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import meta

from jax_persistent.cells import Cell
from jax_persistent.cells.gru import GRU
from jax_persistent.cells.lstm import LSTM
from jax_persistent.fallback import NoKernel
from jax_persistent.flax_layers.cell_weights import CellWeights, check_gated_cell, elman_of


def _lstm(cell: Any) -> CellWeights:
    check_gated_cell(cell)
    return _gathered(
        cell,
        LSTM,
        input_kernel=["ii", "if", "ig", "io"],
        recurrent_kernel=["hi", "hf", "hg", "ho"],
        bias=["hi", "hf", "hg", "ho"],
    )


def _gru(cell: Any) -> CellWeights:
    check_gated_cell(cell)
    weights = _gathered(
        cell,
        GRU,
        input_kernel=["ir", "iz", "in"],
        recurrent_kernel=["hr", "hz", "hn"],
        bias=["ir", "iz", "in"],
        recurrent_bias=["hn"],
    )
    # Only the n gate has one; with the others summed into the input's, theirs are zero.
    assert weights.recurrent_bias is not None
    (bias,) = weights.recurrent_bias
    zeros = jnp.zeros_like(bias)
    return replace(weights, recurrent_bias=(zeros, zeros, bias))


def _simple(cell: Any) -> CellWeights:
    kernels_of = elman_of(cell)
    weights = _gathered(cell, kernels_of, input_kernel=["i"], recurrent_kernel=["h"], bias=["i"])
    return replace(weights, mixes_states=False)


GATHERERS: dict[type, Callable[[Any], CellWeights]] = {
    nn.OptimizedLSTMCell: _lstm,
    nn.LSTMCell: _lstm,
    nn.GRUCell: _gru,
    nn.SimpleCell: _simple,
}


def _gathered(cell: Any, kernels_of: Cell, **layers: list[str]) -> CellWeights:
    """Weights from the cell's own parameters, each gate's layer by its name in flax's tree.

    Raises NoKernel if one is missing, or isn't an array of the expected rank: flax says then what
    is wrong.
    """
    tree = meta.unbox(cell.variables.get("params", {}))
    gathered: dict[str, Any] = {}
    for array, names in layers.items():
        leaf, rank = ("bias", 1) if array.endswith("bias") else ("kernel", 2)
        parts: list[Any] = [
            tree[n].get(leaf) if isinstance(tree.get(n), Mapping) else None for n in names
        ]
        unfit = any(not isinstance(p, (jax.Array, np.ndarray)) or p.ndim != rank for p in parts)
        if unfit or len({(p.shape, p.dtype) for p in parts}) > 1:
            where = f"{leaf}s of {', '.join(names)}"
            raise NoKernel(f"the {where} are not arrays of one shape and dtype, of rank {rank}")
        gathered[array] = tuple(map(jnp.asarray, parts))
    return CellWeights(kernels_of, input_dtype=cell.dtype, recurrent_dtype=cell.dtype, **gathered)
