# SPDX-License-Identifier: Apache-2.0
"""linen's lifted transforms, sharing and inspection see our RNN as they see flax's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
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

from jax_persistent.linen import RNN

KEY = jax.random.key(7)
CHEAP = nn.initializers.normal()


class Compact(nn.Module):
    """Cells made in place, one of them shared by two layers."""

    rnn: Any

    @nn.compact
    def __call__(self, x):
        cell = nn.LSTMCell(H, recurrent_kernel_init=CHEAP)
        last = nn.GRUCell(H, recurrent_kernel_init=CHEAP)
        return self.rnn(last)(self.rnn(cell)(x) + self.rnn(cell, reverse=True)(x))


class Setup(nn.Module):
    rnn: Any

    def setup(self):
        self.cell = nn.GRUCell(H)
        self.first = self.rnn(self.cell)
        self.second = self.rnn(nn.SimpleCell(H))

    def __call__(self, x):
        return self.second(self.first(x))


class Remat(nn.Module):
    rnn: Any

    @nn.compact
    def __call__(self, x):
        return nn.remat(self.rnn)(nn.OptimizedLSTMCell(H))(x)


class Jit(nn.Module):
    rnn: Any

    @nn.compact
    def __call__(self, x):
        return nn.jit(self.rnn)(nn.GRUCell(H), name="jitted")(x)


class Ensemble(nn.Module):
    """Independent weights over the same inputs."""

    rnn: Any

    @nn.compact
    def __call__(self, x):
        lifted = nn.vmap(
            self.rnn,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=2,
        )
        return lifted(nn.GRUCell(H))(x)


class Residual(nn.Module):
    rnn: Any

    @nn.compact
    def __call__(self, x, _):
        return x + self.rnn(nn.GRUCell(x.shape[-1]))(x), None


class Layers(nn.Module):
    """A stack of equal layers as one scan."""

    rnn: Any

    @nn.compact
    def __call__(self, x):
        stack = nn.scan(
            Residual, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return stack(self.rnn)(x, None)[0]


MODELS = [Compact, Setup, Remat, Jit, Ensemble, Layers]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__.lower())
def test_models_equal_flax(model):
    x = Options().inputs()
    flax_model, ours = model(nn.RNN), model(RNN)
    shapes = jax.eval_shape(ours.init, KEY, x)
    assert shapes == jax.eval_shape(flax_model.init, KEY, x)
    variables = drawn(shapes)
    assert "jax_persistent_forward" in str(jax.make_jaxpr(ours.apply)(variables, x))
    assert_trees_close(
        value_and_gradients(ours.apply, variables, x),
        value_and_gradients(flax_model.apply, variables, x),
        5e-5,
    )


def test_init_of_a_model():
    x = Options().inputs()
    expected = Compact(nn.RNN).init(KEY, x)
    assert_trees_close(Compact(RNN).init(KEY, x), expected, 0)
    assert set(expected["params"]) == {"LSTMCell_0", "GRUCell_0"}


def test_vmap_over_inputs_and_over_weights():
    x = jnp.stack([Options().inputs(seed) for seed in (1, 2)])
    flax_rnn, rnn = nn.RNN(nn.GRUCell(H)), RNN(nn.GRUCell(H))
    shapes = jax.eval_shape(rnn.init, KEY, x[0])
    variables = drawn(jax.tree.map(lambda s: jax.ShapeDtypeStruct((2, *s.shape), s.dtype), shapes))
    for axes in ((None, 0), (0, None), (0, 0)):
        weights = variables if axes[0] == 0 else jax.tree.map(lambda p: p[0], variables)
        inputs = x if axes[1] == 0 else x[0]
        assert runs_on_kernel(jax.vmap(rnn.apply, axes), weights, inputs)
        assert_trees_close(
            compiled(jax.vmap(rnn.apply, axes), weights, inputs),
            compiled(jax.vmap(flax_rnn.apply, axes), weights, inputs),
        )


def test_a_bound_layer_and_its_cell():
    x = Options().inputs()
    variables = drawn(jax.eval_shape(RNN(nn.GRUCell(H)).init, KEY, x))
    bound, flax_bound = (rnn(nn.GRUCell(H)).bind(variables) for rnn in (RNN, nn.RNN))
    assert_trees_close(bound(x), flax_bound(x))
    carry = bound.cell.initialize_carry(KEY, x[:, 0].shape)
    assert_trees_close(bound.cell(carry, x[:, 0])[1], bound(x)[:, 0])


def test_captured_intermediates():
    x = Options().inputs()
    variables = drawn(jax.eval_shape(Setup(RNN).init, KEY, x))
    call = {"capture_intermediates": True, "mutable": ["intermediates"]}
    assert_trees_close(
        compiled(Setup(RNN).apply, variables, x, **call),
        compiled(Setup(nn.RNN).apply, variables, x, **call),
    )


def test_tabulate():
    x = Options().inputs()
    ours, flaxs = (nn.tabulate(rnn(nn.GRUCell(H)), KEY)(x) for rnn in (RNN, nn.RNN))
    assert ours == flaxs


def test_parameters_created_by_a_mutable_apply():
    x = Options().inputs()
    call = {"mutable": ["params"], "rngs": {"params": KEY}}
    cell = nn.SimpleCell(H, recurrent_kernel_init=CHEAP)
    ours = RNN(cell).apply({}, x, **call)
    assert_trees_close(ours, compiled(nn.RNN(cell).apply, {}, x, **call))
