# SPDX-License-Identifier: Apache-2.0
"""The library's cells as flax.nnx modules, for `RNN` of this package and of flax."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from flax.nnx import rnglib
from flax.nnx.nn.dtypes import promote_dtype
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


class LibraryCell(nnx.RNNCellBase):
    """A cell of `jax_persistent.cells` as a flax cell; its options are keywords.

        >>> layer = RNN(ProjectedLSTMCell(256, 512, projection=128, rngs=nnx.Rngs(0)))
        >>> y = layer(x)  # from [*batch, T, 256] to [*batch, T, 128]

    Its parameters have the names and shapes of the cell's `parameters`, and its carry is the
    cell's.

    Args:
      in_features: I, the number of input features.
      hidden_features: H, the number of hidden units.
      dtype: of the computation; that of inputs and parameters together if None.
      param_dtype: of parameters and carry.
      deterministic: whether masks and noise are those of evaluation. If not, each step draws its
        own.
      rng_collection: the stream that they are drawn from.
      rngs: the streams of the parameters' initialisers, "params", and of masks and noise.
      options: the cell's own.
    """

    of: ClassVar[type[library.StepCell]]

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        deterministic: bool = True,
        rng_collection: str = "dropout",
        rngs: rnglib.Rngs,
        **options: Any,
    ):
        self.in_features, self.hidden_features = in_features, hidden_features
        self.dtype, self.param_dtype = dtype, param_dtype
        self.deterministic = deterministic
        self.cell = self.of(**options)
        parameters = self.cell.parameters(in_features, hidden_features)
        self.names = tuple(parameters)
        for name, (shape, new) in parameters.items():
            setattr(self, name, nnx.Param(new(rngs.params(), shape, param_dtype)))
        if self.cell.draws():
            self.rngs = rngs[rng_collection].fork()

    def __call__(self, carry: Any, inputs: Array) -> tuple[Any, Array]:
        arrays = [getattr(self, name)[...] for name in self.names]
        inputs, *arrays = promote_dtype((inputs, *arrays), dtype=self.dtype)
        noise = None
        if not self.deterministic and self.cell.draws():
            noise = self.cell.draw(self.rngs(), inputs.shape[:-1], self.hidden_features)
        return self.cell(dict(zip(self.names, arrays, strict=True)), carry, inputs, noise)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: rnglib.Rngs | rnglib.RngStream | None = None,
        carry_init: Callable[..., Array] | None = None,
    ) -> Any:
        """Zeros, or what `carry_init` makes with a key of the stream "carry" of `rngs`."""
        hidden, lead, dtype = self.hidden_features, input_shape[:-1], self.param_dtype
        if carry_init is None:
            return self.cell.start(hidden, lead, dtype)
        if rngs is None:
            raise ValueError("rngs: expected streams to draw the carry from; got None")
        stream = rngs.carry if isinstance(rngs, rnglib.Rngs) else rngs
        return self.cell.drawn_start(carry_init, stream(), hidden, lead, dtype)

    @property
    def num_feature_axes(self) -> int:
        return 1


def _module(of: type[library.StepCell]) -> Any:
    body = {"__doc__": of.__doc__, "__module__": __name__, "of": of}
    return types.new_class(f"{of.__name__}Cell", (LibraryCell,), {}, lambda new: new.update(body))


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
