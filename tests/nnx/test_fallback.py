# SPDX-License-Identifier: Apache-2.0
"""Whatever has no kernel of its own is a jp.scan of flax's code, with flax's results."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from flax_problems import H, Options, assert_trees_close, runs_as, runs_on_kernel

from jax_persistent.nnx import RNN

RNGS = nnx.Rngs(0)


class ScaledGRU(nnx.GRUCell):
    """A subclass may do anything in its call."""

    def __call__(self, carry, inputs):
        return super().__call__(carry, 2 * inputs)


class Scaled(nnx.Linear):
    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


def own_promote_dtype(args, /, *, dtype=None, inexact=True):
    return promote_dtype(args, dtype=dtype, inexact=inexact)


def own_dot_general(*operands, **options):
    return 2 * jax.lax.dot_general(*operands, **options)


def with_layer(**attributes):
    """A GRU cell whose recurrent product has been changed after it was made."""
    cell = nnx.GRUCell(4, H, rngs=RNGS)
    for name, value in attributes.items():
        setattr(cell.dense_h, name, value)
    return cell


def with_scaled_layer():
    cell = nnx.GRUCell(4, H, rngs=RNGS)
    cell.dense_h = Scaled(H, 3 * H, use_bias=False, rngs=RNGS)
    return cell


CELLS = {
    "subclass": lambda: ScaledGRU(4, H, rngs=RNGS),
    "gru-activation": lambda: nnx.GRUCell(4, H, activation_fn=nnx.gelu, rngs=RNGS),
    "lstm-gate": lambda: nnx.OptimizedLSTMCell(4, H, gate_fn=nnx.hard_sigmoid, rngs=RNGS),
    "simple-residual": lambda: nnx.SimpleCell(4, H, residual=True, rngs=RNGS),
    "promote_dtype": lambda: nnx.LSTMCell(4, H, promote_dtype=own_promote_dtype, rngs=RNGS),
    "precision": lambda: with_layer(precision="highest"),
    "dot_general": lambda: with_layer(dot_general=own_dot_general),
    "layer": with_scaled_layer,
}


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_cells_without_a_kernel(make):
    options = Options(lengths=True, reverse=True, keep_order=True, return_carry=True)
    x, flags, cell = options.inputs(), options.flags(), make()
    ours, flaxs = RNN(cell), nnx.RNN(cell)
    graph, state = nnx.split(ours)
    assert runs_as(lambda state, x: nnx.merge(graph, state, copy=True)(x), state, x) == "jp.scan"
    assert_trees_close(ours(x, **flags), flaxs(x, **flags))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"unroll": 3}, "kernel"),
        ({"state_axes": nnx.StateAxes({...: None})}, "kernel"),
        ({"broadcast_rngs": "dropout"}, "jp.scan"),
        ({"state_axes": nnx.StateAxes({nnx.Intermediate: 0, ...: nnx.Carry})}, "jp.scan"),
    ],
    ids=["unroll", "broadcast-state", "broadcast_rngs", "scanned-state"],
)
def test_attributes_of_the_scan(attributes, expected):
    x, cell = Options().inputs(), nnx.GRUCell(4, H, rngs=RNGS)
    graph, state = nnx.split(RNN(cell, **attributes))
    call = lambda state, x: nnx.merge(graph, state, copy=True)(x)  # noqa: E731
    assert runs_as(call, state, x) == expected
    if expected != "kernel":
        assert_trees_close(RNN(cell, **attributes)(x), nnx.RNN(cell, **attributes)(x))


def test_a_layer_without_its_bias_still_has_a_kernel():
    x, cell = Options().inputs(), nnx.SimpleCell(4, H, rngs=RNGS)
    cell.dense_i = nnx.Linear(4, H, use_bias=False, dtype=jnp.float32, rngs=RNGS)
    graph, state = nnx.split(RNN(cell))
    assert runs_on_kernel(lambda state, x: nnx.merge(graph, state, copy=True)(x), state, x)
    assert jnp.allclose(RNN(cell)(x), nnx.RNN(cell)(x), atol=1e-6)


def test_wrong_features_raise_what_flax_raises():
    x, cell = Options().inputs(features=3), nnx.GRUCell(4, H, rngs=RNGS)
    messages = []
    for layer in (nnx.RNN(cell), RNN(cell)):
        with pytest.raises(TypeError, match="contracting dimensions") as raised:
            layer(x)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
