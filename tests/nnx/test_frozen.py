# SPDX-License-Identifier: Apache-2.0
"""Layers some of whose state is constant train as flax's do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax_problems import H, Options, assert_trees_close, compiled

from jax_persistent.nnx import RNN

CHEAP = nnx.initializers.normal()


class Stack(nnx.Module):
    """Two layers, one frozen in the tests, and the state that the first begins with."""

    def __init__(self, rnn):
        rngs = nnx.Rngs(0)
        self.below = rnn(nnx.GRUCell(4, H, recurrent_kernel_init=CHEAP, rngs=rngs))
        self.above = rnn(nnx.OptimizedLSTMCell(H, H, recurrent_kernel_init=CHEAP, rngs=rngs))
        self.start = nnx.Param(Options(initial=True).carry(1))

    def __call__(self, x):
        return self.above(self.below(x, initial_carry=self.start[...]))


def loss(model, x):
    outputs = model(x)
    return jnp.sum(jnp.cos(jnp.arange(outputs.size)) * outputs.ravel())


@pytest.mark.parametrize("part", ["below", "start", "above"])
def test_the_gradient_of_a_part_of_a_model(part):
    x, results = Options().inputs(), []
    for rnn in (RNN, nnx.RNN):
        wanted = nnx.DiffState(0, nnx.All(nnx.Param, nnx.PathContains(part)))
        slope = nnx.jit(nnx.grad(loss, argnums=wanted))
        found = nnx.to_pure_dict(slope(Stack(rnn), x))
        assert list(found) == [part]
        results.append(found)
    assert_trees_close(*results, 5e-5)


def test_the_gradient_of_the_input():
    x, results = Options().inputs(), []
    for rnn in (RNN, nnx.RNN):
        graph, state = nnx.split(Stack(rnn))

        def run(x, state, graph=graph):
            return loss(nnx.merge(graph, state, copy=True), x)

        results.append(compiled(jax.grad(run), x, state))
    assert_trees_close(*results, 5e-5)
