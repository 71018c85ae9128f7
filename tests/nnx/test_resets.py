# SPDX-License-Identifier: Apache-2.0
"""nnx.RNN with resets is the cell run step by step, on the kernels and through flax's path."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax_problems import (
    OPTIONS,
    H,
    Options,
    assert_trees_close,
    drawn,
    runs_on_kernel,
    value_and_gradients,
)
from reset_problems import by_hand, some_resets

from jax_persistent.nnx import RNN

CELLS = {
    "lstm": (nnx.OptimizedLSTMCell, True),
    "gru": (nnx.GRUCell, True),
    "simple": (nnx.SimpleCell, True),
    "another activation": (partial(nnx.LSTMCell, activation_fn=nnx.relu), False),
}
# With a reset carry every other time: neighbours in the list of cells differ.
CASES = [
    (name, options, (place + nth) % 2 == 0)
    for place, name in enumerate(CELLS)
    for nth, options in enumerate(OPTIONS[1::2] if name != "gru" else OPTIONS[2:6:3])
]


def made(name: str) -> Any:
    cheap = nnx.initializers.normal()
    cell = CELLS[name][0](4, H, rngs=nnx.Rngs(0), recurrent_kernel_init=cheap)
    nnx.update(cell, drawn(nnx.state(cell, nnx.Param)))
    return cell


def other_carry(carry: Any) -> Any:
    return jax.tree.map(lambda c: 0.3 + jnp.sin(jnp.arange(c.size)).reshape(c.shape), carry)


@pytest.mark.parametrize(("name", "options", "with_carry"), CASES, ids=str)
def test_is_the_cell_step_by_step(name: str, options: Options, with_carry: bool) -> None:
    cell, native = made(name), CELLS[name][1]
    x, resets = options.inputs(), some_resets(options)
    zeros = cell.initialize_carry((*options.batch, x.shape[-1]), nnx.Rngs(0))
    carry = other_carry(zeros) if options.initial else zeros
    reset_carry = jax.tree.map(lambda c: 0.5 - c, other_carry(zeros)) if with_carry else None
    graph, params, rest = nnx.split(RNN(cell), nnx.Param, ...)

    def layer(params: Any, x: jax.Array, carry: Any, reset_carry: Any) -> Any:
        rnn = nnx.merge(graph, params, rest, copy=True)
        flags = options.flags() | {"resets": resets, "reset_carry": reset_carry}
        return rnn(x, initial_carry=carry, **flags)

    def plain(params: Any, x: jax.Array, carry: Any, reset_carry: Any) -> Any:
        step = nnx.merge(graph, params, rest, copy=True).cell
        other = zeros if reset_carry is None else reset_carry
        return by_hand(step, x, carry, resets, other, options)

    operands = params, x, carry, reset_carry
    assert runs_on_kernel(layer, *operands) == native
    assert_trees_close(value_and_gradients(layer, *operands), value_and_gradients(plain, *operands))


def test_the_layer_is_as_it_was_after_a_call() -> None:
    """flax's path with resets puts another cell in its place for the time of the call."""
    options = Options()
    rnn = RNN(made("another activation"))
    cell = rnn.cell
    first = rnn(options.inputs(), resets=some_resets(options))
    assert rnn.cell is cell
    assert_trees_close(rnn(options.inputs(), resets=some_resets(options)), first)
    assert_trees_close(rnn(options.inputs()), nnx.RNN(made("another activation"))(options.inputs()))


def test_wrong_resets() -> None:
    options = Options(time_major=True)
    with pytest.raises(ValueError, match=r"resets: expected bool \[T, \*batch\] = \(5, 3\)"):
        RNN(made("gru"), time_major=True)(options.inputs(), resets=some_resets(Options()))
