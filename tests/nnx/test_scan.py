# SPDX-License-Identifier: Apache-2.0
"""nnx.scan means what flax's nnx.scan means, and runs persistently; so do layers of any cell."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax_problems import (
    B,
    H,
    Options,
    assert_trees_close,
    runs_as,
    value_and_gradients,
)

import jax_persistent.nnx as ours

CHEAP = nnx.initializers.normal()


class Dropping(nnx.RNNCellBase):
    """A user's cell, which draws numbers and counts its steps."""

    def __init__(self, rngs: nnx.Rngs):
        self.inner = nnx.GRUCell(4, H, recurrent_kernel_init=CHEAP, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, carry: Any, x: jax.Array) -> Any:
        carry, y = self.inner(carry, self.dropout(self.norm(x)))
        return carry, self.dropout(y)

    def initialize_carry(self, *args: Any, **options: Any) -> Any:
        return self.inner.initialize_carry(*args, **options)

    @property
    def num_feature_axes(self) -> int:
        return 1


def made() -> Any:
    return Dropping(nnx.Rngs(0))


@pytest.mark.parametrize("attributes", [{}, {"broadcast_rngs": "dropout"}], ids=["split", "one"])
def test_layers_of_any_cell(attributes: Any) -> None:
    """The masks of dropout are flax's, and so is the state that they leave."""
    x, results = Options().inputs(), []
    for module, scan in ((ours, "jp.scan"), (nnx, "lax.scan")):
        layer = module.RNN(made(), **attributes)
        graph, params, rest = nnx.split(layer, nnx.Param, ...)

        def call(params: Any, x: jax.Array, graph: Any = graph, rest: Any = rest) -> Any:
            rnn = nnx.merge(graph, params, rest, copy=True)
            result = rnn(x, return_carry=True)
            counts = jax.tree.leaves(nnx.state(rnn, nnx.RngCount))
            return result, [c.astype(jnp.float32) for c in counts]

        assert runs_as(call, params, x) == scan
        results.append(value_and_gradients(call, params, x))
    assert_trees_close(*results)


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        (None, {"graph": False}),
        (nnx.StateAxes({nnx.Param: None, ...: nnx.Carry}), {"graph": True, "graph_updates": True}),
    ],
    ids=["tree", "graph"],
)
def test_scan(axes: Any, options: Any) -> None:
    x, results = Options().inputs(), []
    cell = nnx.GRUCell(4, H, recurrent_kernel_init=CHEAP, activation_fn=nnx.gelu, rngs=nnx.Rngs(0))
    graph, state = nnx.split(cell)
    for scan, expected in ((ours.scan, "jp.scan"), (nnx.scan, "lax.scan")):

        def call(state: Any, x: jax.Array, scan: Any = scan) -> Any:
            @scan(in_axes=(axes, nnx.Carry, 1), out_axes=(nnx.Carry, 1), reverse=True, **options)
            def outputs(cell: Any, carry: Any, x: jax.Array) -> Any:
                return cell(carry, x)

            return outputs(nnx.merge(graph, state, copy=True), jnp.ones((B, H)), x)

        assert runs_as(call, state, x) == expected
        results.append(value_and_gradients(call, state, x))
    assert_trees_close(*results)
