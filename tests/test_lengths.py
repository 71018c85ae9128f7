# SPDX-License-Identifier: Apache-2.0
"""Lengths in every form: lists and tuples, numpy's and jax's arrays, known and traced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax_problems import assert_trees_close, assert_trees_equal, drawn

import jax_persistent as jp
from jax_persistent.linen import RNN, Bidirectional
from jax_persistent.nnx import RNN as NnxRNN

B, T, I, H = 2, 5, 3, 6  # noqa: E741
X = np.sin(np.arange(B * T * I, dtype=np.float32)).reshape(B, T, I)
LENGTHS = np.array([5, 2], np.int32)
FORMS: dict[str, Any] = {
    "list": [5, 2],
    "tuple": (5, 2),
    "numpy integers": [np.int32(5), np.int64(2)],
    "jax integers": [jnp.int32(5), 2],
    "int64": np.array([5, 2]),
    "uint8": np.array([5, 2], np.uint8),
}
CELL = nn.GRUCell(H, recurrent_kernel_init=nn.initializers.normal())
VARIABLES = drawn(jax.eval_shape(nn.RNN(CELL).init, jax.random.key(0), X))
KERNELS = np.cos(np.arange((I + H) * 3 * H, dtype=np.float32)).reshape(I + H, 3 * H)


def function(x: Any, lengths: Any, **flags: Any) -> Any:
    return jp.gru(x, KERNELS[:I], KERNELS[I:], lengths=lengths, **flags)


def layer(x: Any, lengths: Any, **flags: Any) -> Any:
    return RNN(CELL, return_carry=True, **flags).apply(VARIABLES, x, seq_lengths=lengths)


def nnx_layer(x: Any, lengths: Any, **flags: Any) -> Any:
    rnn = NnxRNN(nnx.GRUCell(I, H, rngs=nnx.Rngs(0)), return_carry=True, **flags)
    return rnn(x, seq_lengths=lengths)


def masked(x: Any, lengths: Any, **flags: Any) -> Any:
    return layer(x, lengths, mask_outputs=True, **flags)


CALLS = {"function": function, "linen": layer, "mask_outputs": masked, "nnx": nnx_layer}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@every_call
def test_forms(call: Callable[..., Any], form: Any) -> None:
    run = partial(call, reverse=True)
    assert_trees_equal(jax.jit(lambda x: run(x, form))(X), jax.jit(lambda x: run(x, LENGTHS))(X))


@every_call
def test_a_list_of_traced_integers(call: Callable[..., Any]) -> None:
    found = jax.jit(lambda x, a, b: call(x, [a, b]))(X, 5, 2)
    assert_trees_close(found, jax.jit(call)(X, LENGTHS))


@pytest.mark.parametrize("form", [[6, 2], (5, -1), np.array([6, 2])], ids=str)
@every_call
def test_known_ones_out_of_range(call: Callable[..., Any], form: Any) -> None:
    """Traced or not what surrounds them."""
    says = r"lengths: expected values in 0..T = 0..5; got (seq_)?lengths"
    with pytest.raises(ValueError, match=says):
        call(X, form)
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(lambda x: call(x, form), X)


@every_call
def test_no_array_at_all(call: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"lengths: expected an array of integers; got \[5, \["):
        call(X, [5, [2]])


def test_of_one_sequence_and_of_several_batch_axes() -> None:
    assert_trees_equal(layer(X[0], 3), layer(X[0], jnp.int32(3)))
    x = np.stack([X, -X, 2 * X])
    lengths = [[5, 2], [1, 4], [0, 3]]
    assert_trees_equal(layer(x, lengths), layer(x, jnp.array(lengths)))
    with pytest.raises(ValueError, match="lengths: expected values in"):
        jax.eval_shape(lambda x: layer(x, [[5, 2], [1, 4], [0, 6]]), x)


def test_of_no_rows() -> None:
    for call in CALLS.values():
        outputs = jax.tree.leaves(jax.eval_shape(lambda x, call=call: call(x, []), X[:0]))
        assert {leaf.shape for leaf in outputs} == {(0, T, H), (0, H)}


@pytest.mark.parametrize(("lengths", "reverse"), [([5.0, 2.0], False), ([2], True)], ids=str)
def test_what_only_flax_takes(lengths: Any, reverse: bool) -> None:
    """Floats, which it doesn't read here, and one length for all rows: flax's own code, scanned."""
    run = partial(RNN(CELL).apply, seq_lengths=lengths, reverse=reverse)
    plain = partial(nn.RNN(CELL).apply, seq_lengths=np.array(lengths), reverse=reverse)
    assert_trees_close(jax.jit(run)(VARIABLES, X), jax.jit(plain)(VARIABLES, X))


@pytest.mark.parametrize(
    ("lengths", "got"),
    [
        ([5, 2, 3], r"int(32|64) of shape \(3,\)"),
        (np.ones((B, T), bool), r"bool of shape \(2, 5\)\. Of a mask .*: mask\.sum\(-1\)"),
        (np.ones(B, bool), r"bool of shape \(2,\)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", [nn.GRUCell(H), nn.MGUCell(H)], ids=["kernel", "scan"])
def test_what_no_layer_takes(lengths: Any, got: str, cell: Any) -> None:
    match = rf"seq_lengths: expected integers \[\*batch\] = \(2,\), .*; got {got}"
    for layer_of in (RNN, lambda cell: Bidirectional(RNN(cell), RNN(cell.clone()))):
        with pytest.raises(ValueError, match=match):
            layer_of(cell).init(jax.random.key(0), X, seq_lengths=lengths)
    kind = nnx.GRUCell if isinstance(cell, nn.GRUCell) else nnx.SimpleCell
    with pytest.raises(ValueError, match=match):
        NnxRNN(kind(I, H, rngs=nnx.Rngs(0)))(X, seq_lengths=lengths)


def test_both_directions() -> None:
    rnn = Bidirectional(RNN(CELL), RNN(CELL.clone(parent=None)))
    variables = drawn(jax.eval_shape(rnn.init, jax.random.key(0), X))
    run = jax.jit(lambda x: rnn.apply(variables, x, seq_lengths=[5, 2]))
    assert_trees_equal(run(X), jax.jit(partial(rnn.apply, seq_lengths=LENGTHS))(variables, X))
