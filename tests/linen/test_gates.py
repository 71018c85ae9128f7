# SPDX-License-Identifier: Apache-2.0
"""Each gate's parameters are read where they lie, and have gradients of their own."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from devices import mesh_of, put
from flax import linen as nn
from flax_problems import assert_trees_close, compiled, drawn

from jax_persistent.linen import RNN, Bidirectional

B, T, I, H = 16, 5, 4, 9  # noqa: E741
CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "simple": nn.SimpleCell}
# Of a cell's parameters, some gates' of each product and a bias; the others are constant.
TRAINED = {
    "lstm": (("if", "kernel"), ("io", "kernel"), ("hg", "kernel"), ("hi", "bias")),
    "gru": (("in", "kernel"), ("hr", "kernel"), ("hn", "bias"), ("iz", "bias")),
    "simple": (("h", "kernel"),),
}


def inputs(dtype: Any = jnp.float32) -> jax.Array:
    return jnp.sin(jnp.arange(B * T * I, dtype=jnp.float32)).reshape(B, T, I).astype(dtype)


def gradients(layer: Any, x: jax.Array, name: str, lengths: jax.Array | None) -> Any:
    """Of a sum over the outputs before the lengths, in the trained parameters and in x."""
    params = drawn(jax.eval_shape(layer.init, jax.random.key(7), x))["params"]["cell"]
    trained = {(gate, leaf): params[gate][leaf] for gate, leaf in TRAINED[name]}
    ends = T if lengths is None else lengths[:, None, None]

    def loss(trained: Any, x: jax.Array) -> jax.Array:
        cell = {n: {k: trained.get((n, k), v) for k, v in p.items()} for n, p in params.items()}
        outputs = layer.apply({"params": {"cell": cell}}, x, seq_lengths=lengths)
        counts = jnp.arange(T)[None, :, None] < ends
        weights = jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32)).reshape(outputs.shape)
        return jnp.sum(jnp.where(counts, weights * outputs.astype(jnp.float32), 0))

    return compiled(jax.grad(loss, argnums=(0, 1)), trained, x)


@pytest.mark.parametrize(
    ("reverse", "lengths", "dtype", "split"),
    [
        (False, False, "float32", True),
        (True, True, "float32", True),
        (False, True, "bfloat16", False),
        (True, False, "float32", False),
        (True, True, "bfloat16", True),
    ],
)
@pytest.mark.parametrize("name", CELLS)
def test_some_gates_are_trained(name, reverse, lengths, dtype, split):
    cell, x = CELLS[name](H, dtype=dtype, param_dtype=dtype), inputs(dtype)
    ends = jnp.arange(B) % T + 1 if lengths else None
    expected = gradients(nn.RNN(cell, reverse=reverse), x, name, ends)
    if split:
        x = put(mesh_of(data=8), x, "data")
    got = gradients(RNN(cell, reverse=reverse, mask_outputs=True), x, name, ends)
    assert_trees_close(got, expected, 2e-5 if dtype == "float32" else 0.1)
    assert all(jnp.any(gradient != 0) for gradient in jax.tree.leaves(got))


# Operations that copy, and how many values they make.
COPIES = re.compile(r"= \w+\[([0-9,]*)\]\S* (concatenate|copy|slice|pad|transpose)\(")


def copies(function: Any, *arguments: Any) -> list[str]:
    """The copies of a gate's kernel or more in a compiled program."""
    program = jax.jit(function).lower(*arguments).compile().as_text()
    assert "jax_persistent." in program
    found = [(sizes.split(","), op) for sizes, op in COPIES.findall(program)]
    return [f"{op} {sizes}" for sizes, op in found if {str(I * H), str(H)} & set(sizes)]


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_no_weight_is_copied(name, both_ways):
    x, rnns = inputs(), [RNN(CELLS[name](H)) for _ in range(2)]
    layer = Bidirectional(*rnns) if both_ways else rnns[0]
    variables = drawn(jax.eval_shape(layer.init, jax.random.key(7), x))

    def loss(variables: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(layer.apply(variables, x)))

    assert copies(loss, variables, x) == []
    assert copies(jax.grad(loss), variables, x) == []
