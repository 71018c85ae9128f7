# SPDX-License-Identifier: Apache-2.0
"""The library's cells as flax.linen modules, for `RNN` of this package and of flax."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array

from jax_persistent.cells import library

__all__ = [
    "BlockGRUCell",
    "CoupledLSTMCell",
    "DropoutLSTMCell",
    "IndRNNCell",
    "LayerNormGRUCell",
    "LayerNormLSTMCell",
    "LibraryCell",
    "MinimalGatedUnitCell",
    "MultiplicativeLSTMCell",
    "PeepholeLSTMCell",
    "ProjectedLSTMCell",
    "RateNetworkCell",
    "RecurrentHighwayCell",
    "ResetBeforeGRUCell",
    "SLSTMCell",
    "StackedCell",
    "ZoneoutLSTMCell",
]


class LibraryCell(nn.RNNCellBase):
    """A cell of `jax_persistent.cells` as a flax cell; its options are attributes too.

        >>> layer = RNN(ProjectedLSTMCell(512, projection=128))

    Its parameters have the names and shapes of the cell's `parameters`, and its carry is the
    cell's. Masks and noise are drawn anew at each step of a layer that splits their stream:

        >>> split = {"params": False, "dropout": True}
        >>> layer = RNN(ZoneoutLSTMCell(512, deterministic=False), split_rngs=split)
        >>> y = layer.apply(variables, x, rngs={"dropout": key})

    Attributes:
      features: H, the number of hidden units.
      dtype: of the computation; that of inputs and parameters together if None.
      param_dtype: of parameters and carry.
      carry_init: the initialiser of the carry.
      deterministic: whether masks and noise are those of evaluation.
      rng_collection: the stream that they are drawn from.
    """

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32
    carry_init: Callable[..., Array] = nn.initializers.zeros_init()
    deterministic: bool = True
    rng_collection: str = "dropout"

    of: ClassVar[type[library.StepCell]]

    def _cell(self) -> library.StepCell:
        return self.of(**{option.name: getattr(self, option.name) for option in fields(self.of)})

    @nn.compact
    def __call__(self, carry: Any, inputs: Array) -> tuple[Any, Array]:
        cell = self._cell()
        of = cell.parameters(inputs.shape[-1], self.features)
        arrays = [self.param(n, new, shape, self.param_dtype) for n, (shape, new) in of.items()]
        inputs, *arrays = promote_dtype(inputs, *arrays, dtype=self.dtype)
        noise = None
        if not self.deterministic and cell.draws():
            noise = cell.draw(self.make_rng(self.rng_collection), inputs.shape[:-1], self.features)
        return cell(dict(zip(of, arrays, strict=True)), carry, inputs, noise)

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Any:
        lead = input_shape[:-1]
        cell, dtype = self._cell(), self.param_dtype
        return cell.drawn_start(self.carry_init, rng, self.features, lead, dtype)

    @property
    def num_feature_axes(self) -> int:
        return 1


def _module(of: type[library.StepCell]) -> Any:
    """A subclass of `LibraryCell`, with the options of a cell as further attributes."""

    def fill(body: dict[str, Any]) -> None:
        body |= {"__doc__": of.__doc__, "__module__": __name__, "of": of}
        body["__annotations__"] = {option.name: option.type for option in fields(of)}
        body |= {o.name: o.default for o in fields(of) if o.default is not MISSING}

    return types.new_class(f"{of.__name__}Cell", (LibraryCell,), {"kw_only": True}, fill)


BlockGRUCell = _module(library.BlockGRU)
CoupledLSTMCell = _module(library.CoupledLSTM)
DropoutLSTMCell = _module(library.DropoutLSTM)
IndRNNCell = _module(library.IndRNN)
LayerNormGRUCell = _module(library.LayerNormGRU)
LayerNormLSTMCell = _module(library.LayerNormLSTM)
MinimalGatedUnitCell = _module(library.MinimalGatedUnit)
MultiplicativeLSTMCell = _module(library.MultiplicativeLSTM)
PeepholeLSTMCell = _module(library.PeepholeLSTM)
ProjectedLSTMCell = _module(library.ProjectedLSTM)
RateNetworkCell = _module(library.RateNetwork)
RecurrentHighwayCell = _module(library.RecurrentHighway)
ResetBeforeGRUCell = _module(library.ResetBeforeGRU)
SLSTMCell = _module(library.SLSTM)
StackedCell = _module(library.Stacked)
ZoneoutLSTMCell = _module(library.ZoneoutLSTM)
