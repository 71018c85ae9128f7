# SPDX-License-Identifier: Apache-2.0
"""linen.RNN gives what flax's RNN gives: results, gradients, parameters, errors."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, serialization
from flax import linen as nn
from flax_problems import (
    OPTIONS,
    B,
    H,
    Options,
    T,
    assert_trees_close,
    assert_trees_equal,
    compiled,
    drawn,
    every_cell_and_option,
    runs_on_kernel,
    value_and_gradients,
)
from numpy.testing import assert_allclose, assert_array_equal

from jax_persistent.linen import RNN

KEY = jax.random.key(7)
# The default is orthogonal, whose decomposition takes longer to compile than all else together.
CHEAP = nn.initializers.normal()
LSTM = nn.OptimizedLSTMCell(H, recurrent_kernel_init=CHEAP)
GRU = nn.GRUCell(H, recurrent_kernel_init=CHEAP)
SIMPLE = nn.SimpleCell(H)
CELLS = {
    "optimized-lstm": LSTM,
    "lstm": nn.LSTMCell(H, recurrent_kernel_init=CHEAP),
    "gru": GRU,
    "simple": SIMPLE,
    "simple-relu": nn.SimpleCell(H, activation_fn=nn.relu, recurrent_kernel_init=CHEAP),
}
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


def states(cell) -> int:
    return 2 if isinstance(cell, (nn.LSTMCell, nn.OptimizedLSTMCell)) else 1


@cache
def parameters(cell):
    """Variables of an RNN over the cell, for inputs [..., I]."""
    return drawn(jax.eval_shape(nn.RNN(cell).init, KEY, Options().inputs()))


def check_against_flax(cell, options: Options) -> None:
    x, carry = options.inputs(), options.carry(states(cell))
    flax_rnn, rnn = nn.RNN(cell), RNN(cell)
    variables = parameters(cell)

    def call(layer, variables, x, carry):
        return layer.apply(variables, x, initial_carry=carry, **options.flags())

    assert runs_on_kernel(partial(call, rnn), variables, x, carry)
    actual = value_and_gradients(partial(call, rnn), variables, x, carry)
    expected = value_and_gradients(partial(call, flax_rnn), variables, x, carry)
    assert_trees_close(actual, expected)


@every_cell_and_option
def test_equals_flax(name, options):
    check_against_flax({"lstm": LSTM, "gru": GRU, "simple": SIMPLE}[name], options)


@pytest.mark.parametrize("cell", [CELLS["lstm"], CELLS["simple-relu"]], ids=["lstm", "simple-relu"])
def test_other_kernel_cells_equal_flax(cell):
    check_against_flax(cell, OPTIONS[4])


def test_attributes_are_the_call_arguments_defaults():
    options = Options(reverse=True, keep_order=True, return_carry=True, time_major=True)
    x = options.inputs()
    flags = {name: value for name, value in options.flags().items() if name != "seq_lengths"}
    flax_rnn, rnn = nn.RNN(GRU, **flags), RNN(GRU, **flags)
    variables = parameters(GRU)
    assert_trees_close(compiled(rnn.apply, variables, x), compiled(flax_rnn.apply, variables, x))
    overridden = {"reverse": False, "keep_order": False, "return_carry": False}
    assert_trees_close(
        compiled(rnn.apply, variables, x, **overridden),
        compiled(flax_rnn.apply, variables, x, **overridden),
    )


@every_cell
def test_init_gives_flax_parameters_and_our_results(cell):
    x = Options().inputs()
    expected = nn.RNN(cell).init(KEY, x)
    outputs, variables = RNN(cell).init_with_output(KEY, x)
    assert_trees_equal(variables, expected)
    assert_array_equal(outputs, RNN(cell).apply(variables, x))
    shapes = jax.eval_shape(RNN(cell).init, KEY, x)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, expected)


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=["lstm", "gru"])
def test_checkpoints_move_both_ways(cell):
    x = Options().inputs()
    flax_rnn, rnn = nn.RNN(cell), RNN(cell)
    for source, target in ((flax_rnn, rnn), (rnn, flax_rnn)):
        variables = drawn(jax.eval_shape(source.init, KEY, x))
        blank = jax.tree.map(jnp.zeros_like, jax.eval_shape(target.init, KEY, x))
        loaded = serialization.from_bytes(blank, serialization.to_bytes(variables))
        assert_trees_equal(loaded, variables)
        assert_trees_close(compiled(target.apply, loaded, x), compiled(source.apply, variables, x))


def test_boxed_parameters():
    boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "hidden"))
    cell, x = GRU.clone(kernel_init=boxed), Options().inputs()
    expected, variables = nn.RNN(cell).init(KEY, x), RNN(cell).init(KEY, x)
    assert isinstance(variables["params"]["cell"]["ir"]["kernel"], nn.Partitioned)
    assert_trees_equal(variables, expected)
    assert runs_on_kernel(RNN(cell).apply, variables, x)
    assert_trees_close(
        compiled(RNN(cell).apply, variables, x), compiled(nn.RNN(cell).apply, variables, x)
    )


def test_drawn_initial_carry():
    cell, x = nn.OptimizedLSTMCell(H, carry_init=nn.initializers.normal()), Options().inputs()
    variables = parameters(cell)
    for key in (None, jax.random.key(9)):
        assert_trees_close(
            compiled(RNN(cell).apply, variables, x, init_key=key),
            compiled(nn.RNN(cell).apply, variables, x, init_key=key),
        )


def test_numpy_arguments():
    x = np.asarray(Options().inputs())
    variables = jax.tree.map(np.asarray, parameters(GRU))
    flags = {"seq_lengths": np.array([2, 5, 1]), "initial_carry": np.ones((B, H), np.float32)}
    assert runs_on_kernel(lambda x: RNN(GRU).apply(variables, x, **flags), x)
    assert_trees_close(
        RNN(GRU).apply(variables, x, **flags),
        compiled(nn.RNN(GRU).apply, variables, x, **flags),
    )


def test_one_step():
    x = Options().inputs()[:, :1]
    variables = parameters(LSTM)
    call = {"return_carry": True, "seq_lengths": jnp.array([1, 1, 1])}
    assert_trees_close(
        compiled(RNN(LSTM).apply, variables, x, **call),
        compiled(nn.RNN(LSTM).apply, variables, x, **call),
    )


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=["lstm", "gru"])
def test_length_zero_keeps_the_initial_carry(cell):
    options = Options(initial=True)
    x, carry = options.inputs(), options.carry(states(cell))
    rnn = RNN(cell, return_carry=True)
    variables = parameters(cell)
    for masked in (False, True):
        layer = rnn.clone(mask_outputs=masked)
        final, _ = compiled(
            layer.apply, variables, x, initial_carry=carry, seq_lengths=jnp.array([0, T, 2])
        )
        for f, c in zip(jax.tree.leaves(final), jax.tree.leaves(carry), strict=True):
            assert_array_equal(f[0], c[0])
            assert not np.allclose(f[1], c[1])


def test_lengths_with_several_batch_axes():
    options = Options((2, 3), lengths=True, initial=True, reverse=True, return_carry=True)
    x, carry, flags = options.inputs(), options.carry(2), options.flags()
    rnn = RNN(LSTM)
    variables = parameters(LSTM)
    (c, h), outputs = compiled(rnn.apply, variables, x, initial_carry=carry, **flags)
    for n in range(2):
        row = [a[n] for a in (x, *carry, flags["seq_lengths"])]
        (c_n, h_n), outputs_n = compiled(
            nn.RNN(LSTM).apply,
            variables,
            row[0],
            initial_carry=(row[1], row[2]),
            **(flags | {"seq_lengths": row[3]}),
        )
        assert_trees_close((c[n], h[n], outputs[n]), (c_n, h_n, outputs_n))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", [LSTM, GRU, nn.MGUCell(H)], ids=["lstm", "gru", "mgu"])
def test_masked_outputs_are_zero_past_the_length(cell, reverse):
    options = Options(lengths=True, reverse=reverse, return_carry=True, time_major=True)
    x, flags = options.inputs(), options.flags()
    variables = parameters(cell)
    carry, outputs = compiled(RNN(cell, mask_outputs=True).apply, variables, x, **flags)
    flax_carry, flax_outputs = compiled(nn.RNN(cell).apply, variables, x, **flags)
    padding = np.arange(T)[:, None] >= np.asarray(flags["seq_lengths"])
    assert_trees_close(carry, flax_carry)
    assert_array_equal(outputs[padding], 0)
    assert_allclose(outputs[~padding], flax_outputs[~padding], rtol=2e-5, atol=2e-6)


def test_masked_outputs_without_lengths_are_all_outputs():
    x = Options().inputs()
    variables = parameters(GRU)
    assert_array_equal(
        compiled(RNN(GRU, mask_outputs=True).apply, variables, x),
        compiled(RNN(GRU).apply, variables, x),
    )


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (lambda variables, x: ({}, x), errors.ScopeCollectionNotFound),
        (
            lambda variables, x: (
                {"params": {"cell": {"ir": variables["params"]["cell"]["ir"]}}},
                x,
            ),
            errors.ScopeParamNotFoundError,
        ),
        (lambda variables, x: (variables, x[..., :2]), errors.ScopeParamShapeError),
        (lambda variables, x: (variables, x[0, 0, 0]), IndexError),
    ],
    ids=["no-parameters", "a-missing-layer", "other-features", "scalar"],
)
def test_wrong_arguments_raise_what_flax_raises(broken, error):
    arguments = broken(parameters(GRU), Options().inputs())
    messages = []
    for layer in (nn.RNN(GRU), RNN(GRU)):
        with pytest.raises(error) as raised:
            layer.apply(*arguments)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("shape", [(B, H + 1), (B + 1, H), (H,)], ids=str)
def test_wrong_carry_raises_what_flax_raises(shape):
    x, carry = Options().inputs(), jnp.zeros(shape)
    messages = []
    for layer in (nn.RNN(GRU), RNN(GRU)):
        with pytest.raises((TypeError, ValueError, errors.FlaxError)) as raised:
            layer.apply(parameters(GRU), x, initial_carry=carry)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("lengths", [(1, 2, T + 1), (-1, 2, 3)], ids=str)
def test_lengths_out_of_range(lengths):
    x = Options().inputs()
    rnn = RNN(GRU)
    with pytest.raises(ValueError, match=rf"lengths: expected values in 0\.\.T = 0\.\.{T}"):
        rnn.apply(parameters(GRU), x, seq_lengths=jnp.array(lengths))


def test_features_of_one():
    x = Options().inputs(features=1)
    variables = drawn(jax.eval_shape(RNN(SIMPLE).init, KEY, x))
    assert variables["params"]["cell"]["i"]["kernel"].shape == (1, H)
    assert_trees_close(
        compiled(RNN(SIMPLE).apply, variables, x), compiled(nn.RNN(SIMPLE).apply, variables, x)
    )
