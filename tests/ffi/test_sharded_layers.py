# SPDX-License-Identifier: Apache-2.0
"""The flax layers over a mesh: a batch that is split, and parameters that are (FSDP)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import (
    close,
    collectives,
    collectives_in_loops,
    kernel_results,
    mesh_of,
    put,
)
from flax import linen as nn
from flax import nnx
from flax_problems import drawn

from jax_persistent import linen as persistent_linen
from jax_persistent import nnx as persistent_nnx

ROWS, STEPS, FEATURES, UNITS = 16, 5, 3, 6  # B, T, I, H
LENGTHS = np.array([n % STEPS + 1 for n in range(ROWS)], np.int32)
CELLS = {
    "lstm": "OptimizedLSTMCell",
    "split": "LSTMCell",
    "gru": "GRUCell",
    "simple": "SimpleCell",
}


def inputs(features: int = FEATURES):
    return np.random.default_rng(7).standard_normal((ROWS, STEPS, features), np.float32)


def linen_layer(cell: str, units: int = UNITS):
    return persistent_linen.RNN(getattr(nn, CELLS[cell])(units), return_carry=True)


def gradients_of(apply):
    """(parameters, x, lengths) to the gradients in the first two of a sum over all results."""

    def loss(params, x, lengths):
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(apply(params, x, lengths)))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def linen_apply(cell):
    return lambda params, x, lengths: linen_layer(cell).apply(params, x, seq_lengths=lengths)


def nnx_layer(cell: str, features: int, units: int):
    """Parameters, and a function of them and of the layer's arguments."""
    layer = persistent_nnx.RNN(getattr(nnx, CELLS[cell])(features, units, rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def apply(params, x, **kwargs):
        return nnx.merge(graph, params, rest, copy=True)(x, **kwargs)

    return drawn(params), apply


def assert_split(compiled, split, sums):
    assert set(collectives(compiled)) == {"all-reduce"}
    assert len(collectives(compiled)) <= sums
    assert kernel_results(compiled)[0] == f"f32[1,{ROWS // 8},{STEPS},1,{UNITS}]"
    assert compiled.output_shardings[1][1].is_equivalent_to(split.sharding, 3)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_linen_splits_a_batch(cell, explicit):
    mesh = mesh_of(data=8, explicit=explicit)
    layer, x = linen_layer(cell), inputs()
    params = drawn(layer.init(jax.random.key(0), x))
    gradient = gradients_of(linen_apply(cell))
    split, lengths = put(mesh, (x, LENGTHS), "data")
    compiled = gradient.lower(params, split, lengths).compile()
    assert_split(compiled, split, 1 + len(jax.tree.leaves(params)))
    close(compiled(params, split, lengths), gradient(params, x, LENGTHS))


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_nnx_splits_a_batch(cell, explicit):
    mesh = mesh_of(data=8, explicit=explicit)
    params, layer = nnx_layer(cell, FEATURES, UNITS)
    gradient = gradients_of(
        lambda params, x, lengths: layer(params, x, seq_lengths=lengths, return_carry=True)
    )
    x = inputs()
    split, lengths = put(mesh, (x, LENGTHS), "data")
    compiled = gradient.lower(params, split, lengths).compile()
    assert_split(compiled, split, 1 + len(jax.tree.leaves(params)))
    close(compiled(params, split, lengths), gradient(params, x, LENGTHS))


def test_linen_parameters_start_the_same_from_a_split_batch():
    mesh = mesh_of(data=8, explicit=True)
    layer, x = linen_layer("gru"), inputs()
    expected = layer.init(jax.random.key(0), x)
    close(layer.init(jax.random.key(0), put(mesh, x, "data")), expected, 0)


def linen_for_training(cell):
    layer = persistent_linen.RNN(getattr(nn, CELLS[cell])(8))
    return drawn(layer.init(jax.random.key(0), inputs(16))), layer.apply


def nnx_for_training(cell):
    return nnx_layer(cell, 16, 8)


@pytest.mark.parametrize("layers", [linen_for_training, nnx_for_training])
@pytest.mark.parametrize("cell", ["lstm", "gru", "simple"])
def test_split_parameters_are_gathered_once_a_training_step(cell, layers):
    """FSDP: parameters and optimizer state are split like the batch, over the same devices."""
    mesh = mesh_of(data=8)
    params, apply = layers(cell)
    x, optimizer = inputs(16), optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def step(params, state, x):
        loss, gradients = jax.value_and_grad(lambda p: jnp.sum(jnp.sin(apply(p, x))))(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    start = params, optimizer.init(params), x
    split = put(mesh, start, "data")
    compiled = step.lower(*split).compile()
    assert len(kernel_results(compiled)) == 2
    assert collectives_in_loops(compiled) == []
    # No parameter comes twice.
    assert collectives(compiled).count("all-gather") <= len(jax.tree.leaves(params))
    found = compiled(*split)
    close(found, step(*start))
    for array in jax.tree.leaves(found[:2]):
        assert array.sharding.spec[0] == "data"
