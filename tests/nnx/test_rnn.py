# SPDX-License-Identifier: Apache-2.0
"""nnx.RNN gives what flax's RNN gives: results, gradients, state, errors."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax_problems import (
    OPTIONS,
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
from numpy.testing import assert_array_equal

from jax_persistent.nnx import RNN

CELLS = {
    "lstm": nnx.OptimizedLSTMCell,
    "gru": nnx.GRUCell,
    "simple": nnx.SimpleCell,
    "split-lstm": nnx.LSTMCell,
    "simple-relu": partial(nnx.SimpleCell, activation_fn=nnx.relu),
}


@cache
def cell(name, **attributes):
    """A cell with drawn parameters; its rnn layers share it."""
    cheap = nnx.initializers.normal()  # the default, orthogonal, is slow to compile
    made = CELLS[name](4, H, rngs=nnx.Rngs(0), recurrent_kernel_init=cheap, **attributes)
    nnx.update(made, drawn(nnx.state(made, nnx.Param)))
    return made


def applied(layer):
    """(call(params, x, carry, **flags), params) of a layer, as a pure function."""
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def call(params, x, carry=None, **flags):
        return nnx.merge(graph, params, rest, copy=True)(x, initial_carry=carry, **flags)

    return call, params


def check_against_flax(name, options):
    x = options.inputs()
    carry = options.carry(2 if "lstm" in name else 1)
    results = []
    for layer in (RNN(cell(name)), nnx.RNN(cell(name))):
        call, params = applied(layer)
        call = partial(call, **options.flags())
        assert runs_on_kernel(call, params, x, carry) == isinstance(layer, RNN)
        results.append(value_and_gradients(call, params, x, carry))
    assert_trees_close(*results)


@every_cell_and_option
def test_equals_flax(name, options):
    check_against_flax(name, options)


@pytest.mark.parametrize("name", ["split-lstm", "simple-relu"])
def test_other_kernel_cells_equal_flax(name):
    check_against_flax(name, OPTIONS[4])


def test_eager_calls_and_attributes():
    options = Options(lengths=True)
    x, lengths = options.inputs(), options.flags()["seq_lengths"]
    attributes = {"reverse": True, "keep_order": True, "return_carry": True}
    ours, flaxs = RNN(cell("gru"), **attributes), nnx.RNN(cell("gru"), **attributes)
    assert_trees_close(ours(x, seq_lengths=lengths), flaxs(x, seq_lengths=lengths))
    overridden = dict.fromkeys(attributes, False)
    assert_trees_close(ours(x, **overridden), flaxs(x, **overridden))


@pytest.mark.parametrize("name", ["lstm", "simple"])
def test_state_is_flax_state(name):
    ours, flaxs = RNN(cell(name)), nnx.RNN(cell(name))
    state, expected = nnx.state(ours), nnx.state(flaxs)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    assert_trees_equal(nnx.state(ours, nnx.Param), nnx.state(flaxs, nnx.Param))
    other = nnx.clone(flaxs)
    nnx.update(other, jax.tree.map(lambda p: 2 * p, nnx.state(other, nnx.Param)))
    nnx.update(ours := nnx.clone(ours), nnx.state(other))
    x = Options().inputs()
    assert_trees_close(ours(x), other(x))


def test_random_carry_draws_from_the_same_stream():
    x = Options().inputs()
    with pytest.warns(UserWarning, match="carry_init"):
        drawing = nnx.GRUCell(4, H, carry_init=nnx.initializers.normal(), rngs=nnx.Rngs(0))
    ours, flaxs = RNN(drawing, return_carry=True), nnx.RNN(drawing, return_carry=True)
    for rngs in (None, None, nnx.Rngs(5)):
        assert_trees_close(ours(x, rngs=nnx.clone(rngs)), flaxs(x, rngs=nnx.clone(rngs)))
        assert ours.rngs.count[...] == flaxs.rngs.count[...]


def test_no_rngs():
    x = Options().inputs()
    for layer in (RNN(cell("gru"), rngs=False), nnx.RNN(cell("gru"), rngs=False)):
        with pytest.raises(ValueError, match="RNGs must be provided to initialize the cell carry"):
            layer(x)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_length_zero_keeps_the_initial_carry(name):
    options = Options(initial=True)
    x, carry = options.inputs(), options.carry(2 if name == "lstm" else 1)
    for masked in (False, True):
        layer = RNN(cell(name), return_carry=True, mask_outputs=masked)
        final, _ = layer(x, initial_carry=carry, seq_lengths=jnp.array([0, T, 2]))
        for f, c in zip(jax.tree.leaves(final), jax.tree.leaves(carry), strict=True):
            assert_array_equal(f[0], c[0])
            assert not np.allclose(f[1], c[1])


@pytest.mark.parametrize("name", ["lstm", "without-a-kernel"])
def test_masked_outputs_are_zero_past_the_length(name):
    options = Options(lengths=True, reverse=True, return_carry=True)
    x, flags = options.inputs(), options.flags()
    made = cell("lstm") if name == "lstm" else cell("simple", residual=True)
    carry, outputs = RNN(made, mask_outputs=True)(x, **flags)
    flax_carry, flax_outputs = nnx.RNN(made)(x, **flags)
    padding = np.arange(T) >= np.asarray(flags["seq_lengths"])[:, None]
    assert_array_equal(outputs[padding], 0)
    assert_trees_close((carry, outputs[~padding]), (flax_carry, flax_outputs[~padding]))


DTYPES = {
    "mixed": (jnp.bfloat16, jnp.float32, jnp.float32),
    "all-bf16": (jnp.bfloat16, jnp.bfloat16, jnp.bfloat16),
    "half": (jnp.float16, jnp.float16, jnp.float16),
    "integers": (None, jnp.float32, jnp.int32),
}


@pytest.mark.parametrize("name", ["split-lstm", "gru"])
@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
def test_dtypes(name, dtypes):
    dtype, param_dtype, input_dtype = dtypes
    made = cell(name, dtype=dtype, param_dtype=param_dtype)
    x = (2 * Options().inputs()).astype(input_dtype)
    results = []
    with jax.numpy_dtype_promotion("standard"):
        for layer in (RNN(made, return_carry=True), nnx.RNN(made, return_carry=True)):
            call, params = applied(layer)
            assert runs_on_kernel(call, params, x) == isinstance(layer, RNN)
            results.append(compiled(call, params, x))
    tolerance = 2e-5 if dtype is None else 8 * float(jnp.finfo(dtype).eps)
    assert_trees_close(*results, tolerance)
