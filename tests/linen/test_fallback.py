# SPDX-License-Identifier: Apache-2.0
"""Whatever has no kernel of its own is a jp.scan of flax's code, with flax's results."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax_problems import (
    H,
    Options,
    assert_trees_close,
    assert_trees_equal,
    compiled,
    drawn,
    runs_as,
    runs_on_kernel,
)

from jax_persistent.linen import RNN

KEY = jax.random.key(7)


class ScaledGRU(nn.GRUCell):
    """A subclass may do anything in its call."""

    @nn.compact
    def __call__(self, carry, inputs):
        return super().__call__(carry, 2 * inputs)


CELLS = {
    "mgu": nn.MGUCell(H),
    "subclass": ScaledGRU(H),
    "remat": nn.remat(nn.GRUCell)(H),
    "lstm-activation": nn.OptimizedLSTMCell(H, activation_fn=nn.relu),
    "lstm-gate": nn.LSTMCell(H, gate_fn=nn.hard_sigmoid),
    "gru-activation": nn.GRUCell(H, activation_fn=nn.gelu),
    "simple-activation": nn.SimpleCell(H, activation_fn=nn.softplus),
    "simple-residual": nn.SimpleCell(H, residual=True),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_cells_without_a_kernel(cell):
    options = Options(lengths=True, reverse=True, keep_order=True, return_carry=True)
    x, flags = options.inputs(), options.flags()
    flax_rnn, rnn = nn.RNN(cell), RNN(cell)
    shapes = jax.eval_shape(rnn.init, KEY, x)
    assert shapes == jax.eval_shape(flax_rnn.init, KEY, x)
    variables = drawn(shapes)
    assert runs_as(rnn.apply, variables, x) == "jp.scan"
    assert_trees_close(
        compiled(rnn.apply, variables, x, **flags), compiled(flax_rnn.apply, variables, x, **flags)
    )


def test_convolutional_cell():
    x = jax.random.normal(jax.random.key(1), (2, 3, 4, 2))  # [B, T, X, I]
    cell = nn.ConvLSTMCell(features=3, kernel_size=(2,))
    variables = drawn(jax.eval_shape(RNN(cell).init, KEY, x))
    assert runs_as(RNN(cell).apply, variables, x) == "lax.scan"
    outputs = compiled(RNN(cell).apply, variables, x)
    assert_trees_equal(outputs, compiled(nn.RNN(cell).apply, variables, x))
    masked = compiled(
        RNN(cell, mask_outputs=True).apply, variables, x, seq_lengths=jnp.array([3, 1])
    )
    assert_trees_equal(masked, outputs.at[1, 1:].set(0))


WEIGHTS_PER_STEP = {
    "variable_axes": {"params": 0},
    "variable_broadcast": False,
    "split_rngs": {"params": True},
}


@pytest.mark.parametrize(
    ("attributes", "scan"),
    [
        (WEIGHTS_PER_STEP, "lax.scan"),
        ({"variable_axes": {"intermediates": 0}}, "jp.scan"),
        ({"variable_carry": "counts"}, "jp.scan"),
    ],
    ids=["weights-per-step", "axes", "carry"],
)
def test_variables_of_the_scan(attributes, scan):
    x = Options().inputs()
    flax_rnn, rnn = nn.RNN(nn.GRUCell(H), **attributes), RNN(nn.GRUCell(H), **attributes)
    variables = drawn(jax.eval_shape(flax_rnn.init, KEY, x))
    assert runs_as(rnn.apply, variables, x) == scan
    call = {"capture_intermediates": True, "mutable": ["intermediates"]}
    assert_trees_close(
        compiled(rnn.apply, variables, x, **call), compiled(flax_rnn.apply, variables, x, **call)
    )


@pytest.mark.parametrize(
    "attributes", [{"unroll": 3}, {"variable_broadcast": ["params", "counts"]}], ids=str
)
def test_attributes_that_a_kernel_needs_not(attributes):
    x = Options().inputs()
    rnn = RNN(nn.GRUCell(H), **attributes)
    variables = drawn(jax.eval_shape(rnn.init, KEY, x))
    assert runs_on_kernel(rnn.apply, variables, x)


def test_interceptors_see_the_cell():
    x, seen = Options().inputs(), []

    def doubled(call, arguments, keywords, context):
        seen.append((type(context.module).__name__, context.method_name))
        carry = call(*arguments, **keywords)
        return jax.tree.map(lambda a: 2 * a, carry) if context.method_name == "__call__" else carry

    flax_rnn, rnn = nn.RNN(nn.GRUCell(H)), RNN(nn.GRUCell(H))
    variables = drawn(jax.eval_shape(flax_rnn.init, KEY, x))
    with nn.intercept_methods(doubled):
        expected = compiled(flax_rnn.apply, variables, x)
        seen_by_flax, seen = seen, []
        actual = compiled(rnn.apply, variables, x)
    assert seen == seen_by_flax
    assert_trees_close(actual, expected)


def test_lengths_that_only_flax_takes():
    x = Options().inputs()
    flax_rnn, rnn = nn.RNN(nn.GRUCell(H)), RNN(nn.GRUCell(H))
    variables = drawn(jax.eval_shape(flax_rnn.init, KEY, x))
    call = {"seq_lengths": jnp.array([2]), "reverse": True}  # broadcast against the batch
    assert_trees_close(
        compiled(rnn.apply, variables, x, **call), compiled(flax_rnn.apply, variables, x, **call)
    )
