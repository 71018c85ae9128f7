# SPDX-License-Identifier: Apache-2.0
"""Layers some of whose parameters are constant train as flax's do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax_problems import H, Options, assert_trees_close, compiled, drawn

from jax_persistent.linen import RNN

KEY = jax.random.key(7)
CHEAP = nn.initializers.normal()
CELLS = {
    "lstm": nn.OptimizedLSTMCell(H, recurrent_kernel_init=CHEAP),
    "gru": nn.GRUCell(H, recurrent_kernel_init=CHEAP),
    "simple": nn.SimpleCell(H, recurrent_kernel_init=CHEAP),
}


class Stack(nn.Module):
    """Two layers; the first begins where it is told to."""

    rnn: Any
    cell: Any

    @nn.compact
    def __call__(self, x, carry):
        first = self.rnn(self.cell.clone(parent=None), name="first")
        second = self.rnn(self.cell.clone(parent=None), name="second")
        return second(first(x, initial_carry=carry))


def gradients(rnn, cell, frozen, arguments):
    """Of (parameters, x, carry), the layers in `frozen` constant."""
    model = Stack(rnn, cell)

    def loss(params, x, carry):
        params = {k: jax.lax.stop_gradient(v) if k in frozen else v for k, v in params.items()}
        outputs = model.apply({"params": params}, x, carry)
        return jnp.sum(jnp.cos(jnp.arange(outputs.size)) * outputs.ravel())

    return compiled(jax.grad(loss, argnums=(0, 1, 2)), *arguments)


@pytest.mark.parametrize("frozen", [("second",), ("first", "second")], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_stop_gradient(name, frozen):
    """A trainable layer below a frozen one; then nothing but the input and a learned state."""
    cell, options = CELLS[name], Options(initial=True)
    x, carry = options.inputs(), options.carry(2 if name == "lstm" else 1)
    shapes = jax.eval_shape(Stack(nn.RNN, cell).init, KEY, x, carry)
    arguments = drawn(shapes)["params"], x, carry
    results = [gradients(rnn, cell, frozen, arguments) for rnn in (RNN, nn.RNN)]
    assert_trees_close(*results)
    moved = [jax.tree.reduce(jnp.maximum, jax.tree.map(jnp.max, g)) for g in results[0][1:]]
    assert min(moved) > 0
