# SPDX-License-Identifier: Apache-2.0
"""The dtypes of results are flax's, and rounding stays within what flax itself loses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax_problems import H, Options, assert_trees_close, compiled, drawn, runs_on_kernel

from jax_persistent.linen import RNN

KEY = jax.random.key(7)
BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32
# Of the cell's products, its parameters and the inputs.
DTYPES = {
    "mixed": (BF16, F32, F32),
    "mixed-bf16-inputs": (BF16, F32, BF16),
    "all-bf16": (BF16, BF16, BF16),
    "inferred-bf16": (None, BF16, BF16),
    "inferred-f32": (None, F32, BF16),
    "half": (F16, F16, F16),
    "integers": (None, F32, jnp.int32),
}


def exact(variables, x, cell):
    """flax in float64 from the same numbers."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (variables, x))
        double = cell.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        return jax.tree.map(np.asarray, compiled(nn.RNN(double, return_carry=True).apply, *wide))


def error(result, truth) -> float:
    pairs = zip(jax.tree.leaves(result), jax.tree.leaves(truth), strict=True)
    return max(np.abs(np.asarray(r, np.float64) - t).max() for r, t in pairs)


@pytest.mark.parametrize("cell_type", [nn.OptimizedLSTMCell, nn.GRUCell], ids=["lstm", "gru"])
@pytest.mark.parametrize("name", DTYPES)
def test_error_and_dtypes(name, cell_type):
    dtype, param_dtype, input_dtype = DTYPES[name]
    # flax's own is orthogonal, for which jax 0.11 has no half precision.
    start = nn.initializers.normal()
    cell = cell_type(H, dtype=dtype, param_dtype=param_dtype, recurrent_kernel_init=start)
    x = (2 * Options().inputs()).astype(input_dtype)
    with jax.numpy_dtype_promotion("standard"):
        flax_rnn, rnn = nn.RNN(cell, return_carry=True), RNN(cell, return_carry=True)
        variables = drawn(jax.eval_shape(flax_rnn.init, KEY, x))
        assert runs_on_kernel(rnn.apply, variables, x)
        actual, expected = compiled(rnn.apply, variables, x), compiled(flax_rnn.apply, variables, x)
    assert [a.dtype for a in jax.tree.leaves(actual)] == [
        e.dtype for e in jax.tree.leaves(expected)
    ]
    truth = exact(variables, x, cell)
    assert error(actual, truth) <= 1.5 * error(expected, truth) + 2e-6


def test_float64():
    with jax.enable_x64(True):
        cell = nn.OptimizedLSTMCell(H, param_dtype=jnp.float64)
        x = jax.random.normal(jax.random.key(1), (3, 5, 4), jnp.float64)
        flax_rnn, rnn = nn.RNN(cell), RNN(cell)
        variables = drawn(jax.eval_shape(flax_rnn.init, KEY, x))
        assert runs_on_kernel(rnn.apply, variables, x)
        assert_trees_close(
            compiled(rnn.apply, variables, x), compiled(flax_rnn.apply, variables, x), 1e-12
        )


def test_weakly_typed_carry():
    cell, x = nn.GRUCell(H), Options().inputs()
    carry = jnp.full((3, H), 0.5)
    assert carry.weak_type
    variables = drawn(jax.eval_shape(nn.RNN(cell).init, KEY, x))
    assert runs_on_kernel(lambda x: RNN(cell).apply(variables, x, initial_carry=carry), x)
    assert_trees_close(
        compiled(RNN(cell).apply, variables, x, initial_carry=carry),
        compiled(nn.RNN(cell).apply, variables, x, initial_carry=carry),
    )


@pytest.mark.parametrize(
    ("cell", "carry"),
    [
        (nn.SimpleCell(H, dtype=BF16), None),
        (nn.GRUCell(H), jnp.zeros((3, H), BF16)),
        (nn.OptimizedLSTMCell(H), (jnp.zeros((3, H), BF16), jnp.zeros((3, H)))),
    ],
    ids=["simple-mixed", "gru-narrow-carry", "lstm-two-dtypes"],
)
def test_a_carry_that_flax_rejects(cell, carry):
    x = Options().inputs()
    variables = drawn(jax.eval_shape(nn.RNN(cell.clone(dtype=None)).init, KEY, x))
    messages = []
    for layer in (nn.RNN(cell), RNN(cell)):
        with jax.numpy_dtype_promotion("standard"), pytest.raises(TypeError) as raised:
            layer.apply(variables, x, initial_carry=carry)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
