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


def layers(cells=(nn.OptimizedLSTMCell, nn.GRUCell), **attributes):
    ours = Bidirectional(*(RNN(cell(H)) for cell in cells), **attributes)
    flaxs = nn.Bidirectional(*(nn.RNN(cell(H)) for cell in cells), **attributes)
    return ours, flaxs


def kernel_calls(function, *arguments) -> list[str]:
    """The passes of the calls in a compiled program."""
    program = jax.jit(function).lower(*arguments).compile().as_text()
    return sorted(re.findall(r'custom_call_target="jax_persistent\.(\w+)"', program))


LSTM, GRU = nn.OptimizedLSTMCell, nn.GRUCell


@pytest.mark.parametrize(
    ("cells", "lengths", "attributes"),
    [
        ((LSTM, LSTM), False, {}),
        ((LSTM, GRU), True, {}),
        ((GRU, GRU), False, {"return_carry": True, "time_major": True}),
        ((LSTM, LSTM), True, {"return_carry": True, "time_major": True}),
        ((GRU, GRU), False, {"merge_fn": lambda a, b: a - b}),
    ],
    ids=["plain", "two cells", "carry-time_major", "lengths", "merge_fn"],
)
def test_equals_flax(cells, lengths, attributes):
    options = Options(lengths=lengths, initial=True, time_major="time_major" in attributes)
    x, lengths = options.inputs(), options.flags()["seq_lengths"]
    carry = tuple(options.carry(2 if c is LSTM else 1, seed=n) for n, c in enumerate(cells))
    ours, flaxs = layers(cells, **attributes)
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


def test_both_directions_are_one_call():
    """With lengths, too, where nothing goes on past them; and nothing makes a second x."""
    options = Options(lengths=True)
    x, lengths = options.inputs(), options.flags()["seq_lengths"]
    rnns = [RNN(LSTM(H), mask_outputs=True) for _ in range(2)]
    one, two = Bidirectional(*rnns), nn.Bidirectional(*rnns)
    variables = drawn(jax.eval_shape(one.init, KEY, x))

    def gradient(layer, variables, x):
        def loss(variables, x):
            outputs = layer.apply(variables, x, seq_lengths=lengths)
            return jax.numpy.sin(outputs).sum(), outputs

        return jax.grad(loss, (0, 1), has_aux=True)(variables, x)

    found, expected = (compiled(partial(gradient, layer), variables, x) for layer in (one, two))
    assert_trees_close(found, expected)
    assert kernel_calls(partial(gradient, one), variables, x) == ["backward", "forward"]
    assert len(kernel_calls(partial(gradient, two), variables, x)) == 4
    shape = ",".join(map(str, x.shape))
    program = jax.jit(partial(gradient, one)).lower(variables, x).compile().as_text()
    makers = set(re.findall(rf"= f32\[(?:\d,)*{shape}\]\S* ([a-z-]+)\(", program))
    assert makers <= {"parameter", "bitcast", "get-tuple-element"}, makers


def test_who_looks_on_sees_two_calls():
    x = Options().inputs()
    ours, flaxs = layers((GRU, GRU))
    variables = drawn(jax.eval_shape(ours.init, KEY, x))
    call = {"capture_intermediates": True, "mutable": ["intermediates"]}
    assert_trees_close(
        compiled(ours.apply, variables, x, **call), compiled(flaxs.apply, variables, x, **call)
    )
    assert nn.tabulate(ours, KEY)(x) == nn.tabulate(flaxs, KEY)(x)


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

    assert kernel_calls(jax.grad(loss), variables) == ["backward"] * 2 + ["forward"] * 2
