# SPDX-License-Identifier: Apache-2.0
"""The weights of flax.nnx's cells that have a kernel, found in their layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from flax import nnx
from flax.nnx.nn import dtypes as nnx_dtypes
from jax import lax

from jax_persistent.cells import Cell
from jax_persistent.cells.gru import GRU
from jax_persistent.cells.lstm import LSTM
from jax_persistent.fallback import NoKernel
from jax_persistent.flax_layers.cell_weights import (
    CellWeights,
    Gates,
    check_gated_cell,
    elman_of,
)


def _lstm(cell: nnx.LSTMCell) -> CellWeights:
    inputs = [cell.ii, cell.if_, cell.ig, cell.io]
    recurrent = [cell.hi, cell.hf, cell.hg, cell.ho]
    check_gated_cell(cell)
    return _gathered(LSTM, inputs, recurrent)


def _optimized_lstm(cell: nnx.OptimizedLSTMCell) -> CellWeights:
    check_gated_cell(cell)
    return _gathered(LSTM, [cell.dense_i], [cell.dense_h])


def _gru(cell: nnx.GRUCell) -> CellWeights:
    check_gated_cell(cell)
    return _gathered(GRU, [cell.dense_i], [cell.dense_h])


def _simple(cell: nnx.SimpleCell) -> CellWeights:
    weights = _gathered(elman_of(cell), [cell.dense_i], [cell.dense_h])
    return replace(weights, mixes_states=False)


GATHERERS: dict[type, Callable[[Any], CellWeights]] = {
    nnx.OptimizedLSTMCell: _optimized_lstm,
    nnx.LSTMCell: _lstm,
    nnx.GRUCell: _gru,
    nnx.SimpleCell: _simple,
}


def _gathered(cell: Cell, inputs: list[Any], recurrent: list[Any]) -> CellWeights:
    """Weights from the layers of both products, gates in the kernels' order.

    Raises NoKernel if a layer isn't a plain `nnx.Linear`: only its own code knows its product then.
    """
    layers = inputs + recurrent
    if not all(_is_plain(layer) for layer in layers) or len({layer.dtype for layer in layers}) > 1:
        raise NoKernel(
            "a kernel takes plain nnx.Linear layers of one dtype, without their own precision, "
            "dot_general, promote_dtype or preferred_element_type"
        )
    groups = inputs, recurrent
    found = [_alike([layer.kernel for layer in group]) for group in groups]
    biases = [_alike([layer.bias for layer in group]) for group in groups]
    kernels = [gates for gates in found if gates is not None and gates[0].ndim == 2]
    if len(kernels) < 2:
        raise NoKernel("the cell's kernels are not arrays of one shape and dtype, of rank 2")
    if cell.reset_after:
        bias, recurrent_bias = biases
    elif biases[0] is None or biases[1] is None:
        bias, recurrent_bias = biases[0] if biases[1] is None else biases[1], None
    else:
        raise NoKernel("a kernel takes one bias; both of the cell's layers have one")
    dtype = layers[0].dtype
    return CellWeights(
        cell,
        kernels[0],
        kernels[1],
        bias,
        input_dtype=dtype,
        recurrent_dtype=dtype,
        recurrent_bias=recurrent_bias,
    )


def _is_plain(layer: Any) -> bool:
    """Whether a layer is flax's Linear with nothing about its product changed."""
    return (
        type(layer) is nnx.Linear
        and layer.precision is None
        and layer.dot_general is lax.dot_general
        and layer.preferred_element_type is None
        and layer.promote_dtype is nnx_dtypes.promote_dtype
        and layer.use_bias == (layer.bias is not None)
    )


def _alike(variables: list[Any]) -> Gates | None:
    """The gates' parameters; None if there are none, or not one kind of array."""
    values: list[Any] = [None if variable is None else variable[...] for variable in variables]
    if any(not isinstance(value, jax.Array) for value in values):
        return None
    if len({(value.shape, value.dtype) for value in values}) > 1:
        return None
    return tuple(values)
