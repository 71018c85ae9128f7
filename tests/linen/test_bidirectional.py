# SPDX-License-Identifier: Apache-2.0
"""linen.Bidirectional over our RNN equals flax's over flax's."""

from __future__ import annotations

import re
from functools import partial

import jax
import pytest
from flax import linen as nn
from flax_problems import (
    H,
    Options,
    assert_trees_close,
    compiled,
    drawn,
    runs_on_kernel,
    value_and_gradients,
)

from jax_persistent.linen import RNN, Bidirectional

KEY = jax.random.key(7)


def layers(**attributes):
    ours = Bidirectional(RNN(nn.OptimizedLSTMCell(H)), RNN(nn.GRUCell(H)), **attributes)
    flaxs = nn.Bidirectional(nn.RNN(nn.OptimizedLSTMCell(H)), nn.RNN(nn.GRUCell(H)), **attributes)
    return ours, flaxs


@pytest.mark.parametrize(
    "attributes",
    [{}, {"return_carry": True, "time_major": True}, {"merge_fn": lambda a, b: a - b}],
    ids=["plain", "carry-time_major", "merge_fn"],
)
def test_equals_flax(attributes):
    options = Options(lengths=True, initial=True, time_major="time_major" in attributes)
    x, lengths = options.inputs(), options.flags()["seq_lengths"]
    carry = (options.carry(2), options.carry(1, seed=4))
    ours, flaxs = layers(**attributes)
    shapes = jax.eval_shape(ours.init, KEY, x)
    assert shapes == jax.eval_shape(flaxs.init, KEY, x)
    assert set(shapes["params"]) == {"forward_rnn", "backward_rnn"}

    def call(layer, variables, x, carry):
        return layer.apply(variables, x, initial_carry=carry, seq_lengths=lengths)

    variables = drawn(shapes)
    assert runs_on_kernel(partial(call, ours), variables, x, carry)
    assert_trees_close(
        value_and_gradients(partial(call, ours), variables, x, carry),
        value_and_gradients(partial(call, flaxs), variables, x, carry),
    )


def test_a_shared_cell():
    x, cell = Options().inputs(), nn.GRUCell(H)
    ours, flaxs = Bidirectional(RNN(cell), RNN(cell)), nn.Bidirectional(nn.RNN(cell), nn.RNN(cell))
    shapes = jax.eval_shape(ours.init, KEY, x)
    assert shapes == jax.eval_shape(flaxs.init, KEY, x)
    variables = drawn(shapes)
    assert_trees_close(compiled(ours.apply, variables, x), compiled(flaxs.apply, variables, x))


def test_a_carry_that_nobody_reads_costs_nothing():
    options = Options(lengths=True)
    x, lengths = options.inputs(), options.flags()["seq_lengths"]
    cell = nn.OptimizedLSTMCell(H)
    layer = Bidirectional(RNN(cell), RNN(cell))
    variables = drawn(jax.eval_shape(layer.init, KEY, x))

    def loss(variables):
        return layer.apply(variables, x, seq_lengths=lengths).sum()

    program = jax.jit(jax.grad(loss)).lower(variables).compile().as_text()
    calls = re.findall(r'custom_call_target="jax_persistent\.(\w+)"', program)
    assert sorted(calls) == ["backward", "backward", "forward", "forward"]
