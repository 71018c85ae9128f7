# SPDX-License-Identifier: Apache-2.0
"""linen.RNN with resets is the cell run step by step, on the kernels and through flax's path."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
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

from jax_persistent.linen import RNN

KEY = jax.random.key(7)


class Counting(nn.RNNCellBase):
    """A user's cell, whose carry is a dict; the cell inside has a cell of its own kind inside."""

    features: int

    @nn.compact
    def __call__(self, carry: Any, x: jax.Array) -> Any:
        h, y = nn.GRUCell(self.features, name="inner")(carry["h"], x)
        return {"h": h, "steps": carry["steps"] + 1.0}, y + carry["steps"]

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, shape: tuple[int, ...]) -> Any:
        h = jnp.zeros((*shape[:-1], self.features))
        return {"h": h, "steps": h[..., :1]}

    @property
    def num_feature_axes(self) -> int:
        return 1


CELLS = {
    "lstm": (nn.OptimizedLSTMCell(H), True),
    "gru": (nn.GRUCell(H), True),
    "simple": (nn.SimpleCell(H), True),
    "mgu": (nn.MGUCell(H), False),
    "another activation": (nn.LSTMCell(H, activation_fn=nn.relu), False),
    "a user's": (Counting(H), False),
}
# All options where a layer has code of its own, some where only flax has. With a reset carry every
# other time: what one of "lstm" and "mgu" has without, the other has with one.
CASES = [
    (name, options, (place + nth) % 2 == 0)
    for place, (name, (_, native)) in enumerate(CELLS.items())
    for nth, options in enumerate(
        OPTIONS if name in ("lstm", "mgu") else OPTIONS[2:8:2] if native else OPTIONS[4:6]
    )
]


def other_carry(carry: Any) -> Any:
    return jax.tree.map(lambda c: 0.3 + jnp.sin(jnp.arange(c.size)).reshape(c.shape), carry)


@pytest.mark.parametrize(("name", "options", "with_carry"), CASES, ids=str)
def test_is_the_cell_step_by_step(name: str, options: Options, with_carry: bool) -> None:
    cell, native = CELLS[name]
    x, resets = options.inputs(), some_resets(options)
    step_shape = (*options.batch, x.shape[-1])
    zeros = cell.initialize_carry(KEY, step_shape)
    carry = other_carry(zeros) if options.initial else zeros
    reset_carry = jax.tree.map(lambda c: 0.5 - c, other_carry(zeros)) if with_carry else None
    variables = drawn(jax.eval_shape(nn.RNN(cell).init, KEY, x))

    def layer(variables: Any, x: jax.Array, carry: Any, reset_carry: Any) -> Any:
        flags = options.flags() | {"resets": resets, "reset_carry": reset_carry}
        return RNN(cell).apply(variables, x, initial_carry=carry, **flags)

    def plain(variables: Any, x: jax.Array, carry: Any, reset_carry: Any) -> Any:
        step = partial(cell.apply, {"params": variables["params"]["cell"]})
        other = zeros if reset_carry is None else reset_carry
        return by_hand(step, x, carry, resets, other, options)

    assert runs_on_kernel(layer, variables, x, carry, reset_carry) == native
    operands = variables, x, carry, reset_carry
    assert_trees_close(value_and_gradients(layer, *operands), value_and_gradients(plain, *operands))


def test_masked_outputs_and_lengths() -> None:
    """Past a row's length: zeros, and resets that do nothing."""
    options = Options(lengths=True, return_carry=True)
    x, resets = options.inputs(), some_resets(options)
    for cell in (nn.OptimizedLSTMCell(H), nn.MGUCell(H)):
        variables = drawn(jax.eval_shape(nn.RNN(cell).init, KEY, x))
        flags = options.flags() | {"resets": resets}
        carry, outputs = RNN(cell, mask_outputs=True).apply(variables, x, **flags)
        expected_carry, expected = RNN(cell).apply(variables, x, **flags)
        inside = np.arange(x.shape[1])[None, :, None] < np.array((2, 5, 1))[:, None, None]
        assert_trees_close(carry, expected_carry)
        assert_trees_close(outputs, jnp.where(inside, expected, 0.0))


@pytest.mark.parametrize("cell", [nn.GRUCell(H), nn.MGUCell(H)], ids=["kernel", "flax"])
def test_wrong_resets(cell: Any) -> None:
    options = Options((2, 3))
    x = options.inputs()
    variables = drawn(jax.eval_shape(nn.RNN(cell).init, KEY, x))
    resets = some_resets(options)
    for wrong in (resets[..., :4], resets[0], resets.astype(np.int32)):
        with pytest.raises(ValueError, match=r"resets: expected bool \[\*batch, T\] = \(2, 3, 5\)"):
            RNN(cell).apply(variables, x, resets=wrong)


def test_init_with_resets_makes_flaxs_parameters() -> None:
    options = Options()
    for cell in (nn.OptimizedLSTMCell(H), nn.MGUCell(H)):
        ours = RNN(cell).init(KEY, options.inputs(), resets=some_resets(options))
        assert_trees_close(ours, nn.RNN(cell).init(KEY, options.inputs()))


@pytest.mark.parametrize("cell", [nn.OptimizedLSTMCell(H), nn.LSTMCell(H, activation_fn=nn.relu)])
def test_wrong_reset_carries(cell: Any) -> None:
    options = Options()
    x, resets = options.inputs(), some_resets(options)
    variables = drawn(jax.eval_shape(nn.RNN(cell).init, KEY, x))
    h = jnp.zeros((*options.batch, H))
    for wrong in (h, (h, h.T), (h[:1], h), (h, h, h)):
        with pytest.raises(ValueError, match="reset_carry: expected the carry's shapes"):
            RNN(cell).apply(variables, x, resets=resets, reset_carry=wrong)
    with pytest.raises(ValueError, match="reset_carry: expected with resets"):
        RNN(cell).apply(variables, x, reset_carry=(h, h))
