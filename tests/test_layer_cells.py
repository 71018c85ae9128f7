# SPDX-License-Identifier: Apache-2.0
"""Cells that a layer of flax can't have: of flax's other package, and of `jax_persistent.cells`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import jax_persistent.linen as jp_linen
import jax_persistent.nnx as jp_nnx
from jax_persistent import cells
from jax_persistent.flax_layers import arguments

X = jnp.ones((2, 5, 3))
OF_LINEN, OF_LIBRARY = linen.GRUCell(6), cells.SLSTM()
OF_NNX = nnx.GRUCell(3, 6, rngs=nnx.Rngs(0))


RUNS = {"linen": lambda cell: jp_linen.RNN(cell).init(jax.random.key(0), X), "nnx": jp_nnx.RNN}
LIBRARY = r"jax_persistent\.cells\.SLSTM\. Use jax_persistent\.{}\.SLSTMCell"


@pytest.mark.parametrize(
    ("package", "cell", "got"),
    [
        ("linen", OF_NNX, r"flax\.nnx's GRUCell\. Use jax_persistent\.nnx\.RNN"),
        ("linen", OF_LIBRARY, LIBRARY.format("linen")),
        ("nnx", OF_LINEN, r"flax\.linen's GRUCell\. Use jax_persistent\.linen\.RNN"),
        ("nnx", OF_LIBRARY, LIBRARY.format("nnx")),
    ],
)
def test_what_a_layer_refuses(package, cell, got) -> None:
    with pytest.raises(ValueError, match=rf"cell: expected a cell of flax\.{package}; got {got}"):
        RUNS[package](cell)
    assert jp_linen.SLSTMCell
    assert jp_nnx.SLSTMCell


def test_a_bridge_between_the_packages() -> None:
    """Its classes have bases in both."""
    kinds = nnx.bridge.ToLinen, nnx.bridge.ToNNX
    for kind, package in zip(kinds, ("linen", "nnx"), strict=True):
        arguments.check_cell(object.__new__(kind), package)
