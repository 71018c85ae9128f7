# SPDX-License-Identifier: Apache-2.0
"""nnx's transforms, capture and Bidirectional see our RNN as they see flax's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax_problems import H, Options, assert_trees_close, compiled

from jax_persistent.nnx import RNN, Bidirectional

KEY = jax.random.key(7)


def layer(rnn, seed=0):
    return rnn(
        nnx.GRUCell(4, H, recurrent_kernel_init=nnx.initializers.normal(), rngs=nnx.Rngs(seed))
    )


def loss(model, x):
    outputs = model(x)
    return jnp.sum(jnp.cos(jnp.arange(outputs.size)) * outputs.ravel())


def test_jit_and_grad():
    x, results = Options().inputs(), []
    for rnn in (RNN, nnx.RNN):
        value, gradients = nnx.jit(nnx.value_and_grad(loss))(layer(rnn), x)
        results.append((value, nnx.to_pure_dict(gradients)))
    assert_trees_close(*results, 5e-5)


def test_remat():
    x, results = Options().inputs(), []
    for rnn in (RNN, nnx.RNN):
        gradients = nnx.grad(nnx.remat(loss))(layer(rnn), x)
        results.append(nnx.to_pure_dict(gradients))
    assert_trees_close(*results, 5e-5)


def test_vmap_over_weights():
    x = Options().inputs()

    @nnx.vmap(in_axes=0, out_axes=0)
    def ensemble(key):
        return nnx.LSTMCell(
            4, H, recurrent_kernel_init=nnx.initializers.normal(), rngs=nnx.Rngs(key)
        )

    cells = ensemble(jax.random.split(KEY, 2))

    def outputs(rnn):
        return nnx.vmap(lambda cell, x: rnn(cell)(x), in_axes=(0, None))(cells, x)

    assert_trees_close(outputs(RNN), outputs(nnx.RNN))
    assert not jnp.allclose(*outputs(RNN))


def test_scan_over_layers():
    x = Options().inputs(features=H)

    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(key):
        return nnx.SimpleCell(
            H, H, recurrent_kernel_init=nnx.initializers.normal(), rngs=nnx.Rngs(key)
        )

    cells = stack(jax.random.split(KEY, 3))

    def outputs(rnn):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def layers(x, cell):
            return x + rnn(cell)(x)

        return layers(x, cells)

    assert_trees_close(outputs(RNN), outputs(nnx.RNN))


def test_capture():
    x, model = Options().inputs(), layer(RNN)
    outputs, state = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(x)
    (captured,) = jax.tree.leaves(nnx.to_pure_dict(state)["__call__"])
    assert_trees_close(captured, outputs)
    assert_trees_close(outputs, layer(nnx.RNN)(x))


@pytest.mark.parametrize(
    ("lengths", "attributes"),
    [
        (False, {}),
        (True, {"return_carry": True, "time_major": True}),
        (False, {"return_carry": True, "time_major": True}),
        (False, {"merge_fn": lambda a, b: a - b}),
    ],
    ids=["plain", "lengths", "carry-time_major", "merge_fn"],
)
def test_bidirectional(lengths, attributes):
    options = Options(lengths=lengths, initial=True, time_major="time_major" in attributes)
    x, lengths = options.inputs(), options.flags()["seq_lengths"]
    carry = (options.carry(1), options.carry(1, seed=4))
    results, calls = [], []
    for both, rnn in ((Bidirectional, RNN), (nnx.Bidirectional, nnx.RNN)):
        graph, state = nnx.split(both(layer(rnn, 0), layer(rnn, 1), **attributes))

        def call(state, x, carry, graph=graph):
            return nnx.merge(graph, state)(x, initial_carry=carry, seq_lengths=lengths)

        results.append(compiled(call, state, x, carry))
        calls.append(str(jax.make_jaxpr(call)(state, x, carry)).count("jax_persistent_forward"))
    assert_trees_close(*results)
    assert calls == [1 if lengths is None else 2, 0]


def test_a_captured_bidirectional():
    """Both layers' own calls are seen."""
    x, model = Options().inputs(), Bidirectional(layer(RNN, 0), layer(RNN, 1))
    outputs, state = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(x)
    state = nnx.to_pure_dict(state)
    seen = [jax.tree.leaves(state[name]["__call__"]) for name in ("forward_rnn", "backward_rnn")]
    assert_trees_close(jnp.concatenate([of_rnn[-1] for of_rnn in seen], axis=-1), outputs)
    assert_trees_close(model(x), outputs)
