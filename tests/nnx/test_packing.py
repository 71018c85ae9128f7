# SPDX-License-Identifier: Apache-2.0
"""nnx layers whose kernels are packed give what they give without, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax_problems import H, Options, assert_trees_equal, drawn, every_cell_and_option

from jax_persistent.nnx import RNN, Packed

CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "simple": nnx.SimpleCell}


def layer(name: str, **options: Any) -> RNN:
    cell = CELLS[name](4, H, rngs=nnx.Rngs(0), **options)
    nnx.update(cell, drawn(nnx.state(cell, nnx.Param)))
    return RNN(cell)


@every_cell_and_option
def test_a_layer(name: str, options: Options) -> None:
    x, carry = options.inputs(), options.carry(2 if name == "lstm" else 1)
    rnn = layer(name)
    rnn.mask_outputs = options.lengths

    @nnx.jit
    def run(rnn: RNN) -> Any:
        return rnn(x, initial_carry=carry, **options.flags())

    expected = run(rnn)
    rnn.pack()
    assert_trees_equal(run(rnn), expected)
    assert "packed_lanes=0" not in jaxpr_of(rnn, x)
    del rnn.packed
    assert_trees_equal(run(rnn), expected)


def jaxpr_of(rnn: RNN, x: jax.Array) -> str:
    graph, state = nnx.split(rnn)
    return str(jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, x))


def test_it_is_state_of_its_own_kind() -> None:
    rnn, x = layer("gru"), Options().inputs()
    params = nnx.state(rnn, nnx.Param)
    rnn.pack()
    assert jax.tree.structure(nnx.state(rnn, nnx.Param)) == jax.tree.structure(params)
    graph, state = nnx.split(rnn)
    assert len(jax.tree.leaves(nnx.state(rnn, Packed))) == 2
    assert_trees_equal(nnx.merge(graph, state)(x), rnn(x))


def test_training_is_told() -> None:
    rnn, x = layer("lstm"), Options().inputs()
    rnn.pack()
    with pytest.raises(ValueError, match="packed kernels: expected no gradient"):
        nnx.grad(lambda rnn: rnn(x).sum())(rnn)


def test_other_kernels_than_were_packed() -> None:
    rnn, x = layer("gru"), Options().inputs()
    rnn.pack()
    rnn.cell = layer("gru", dtype=jnp.bfloat16).cell
    with pytest.raises(ValueError, match=r"packed input_kernel: expected bfloat16 of .* Pack the"):
        rnn(x)


def test_what_can_not_be_packed() -> None:
    rnn = RNN(nnx.LSTMCell(4, H, activation_fn=nnx.relu, rngs=nnx.Rngs(0)))
    with pytest.raises(NotImplementedError, match=r"pack: expected a cell with a kernel .* LSTM"):
        rnn.pack()
    with pytest.raises(ValueError, match="expected dtype float32 or bfloat16"):
        layer("gru", dtype=jnp.float16).pack()
