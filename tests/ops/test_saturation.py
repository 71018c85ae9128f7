# SPDX-License-Identifier: Apache-2.0
"""Saturated units and infinite inputs: limits are reached and slopes vanish, as in lax.scan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jax_persistent as jp

B, T, I = 3, 4, 2  # noqa: E741
CELLS: dict[str, tuple[Callable[..., Any], int]] = {
    "lstm": (jp.lstm, 4),
    "gru": (jp.gru, 3),
    "elman": (jp.elman, 1),
    "relu": (partial(jp.elman, activation="relu"), 1),
}
SATURATING = ("lstm", "gru", "elman")
HUGE = (1e3, 1e6, 1e9)
# Whole vectors, one unit more, one less, and none whole.
WIDTHS = (1, 8, 9, 16, 17, 127)


def kernels(gates: int, hidden: int, dtype: Any = np.float32) -> tuple[Any, Any]:
    """An input kernel with no entry near 0, so that a large x saturates, and a small recurrent."""
    draw = np.random.default_rng(hidden)
    shape = (I, gates * hidden)
    signs = np.where(draw.random(shape) < 0.5, -1.0, 1.0)
    kernel = signs * (0.5 + draw.random(shape))
    recurrent = 0.1 * draw.standard_normal((hidden, gates * hidden))
    return jnp.asarray(kernel, dtype), jnp.asarray(recurrent, dtype)


@pytest.mark.parametrize("x", [20.0, 1e3, 1e30, np.inf])
@pytest.mark.parametrize("hidden", [1, 8, 9])
def test_tanh_reaches_one(hidden: int, x: float) -> None:
    kernels = np.ones((1, hidden), np.float32), np.zeros((hidden, hidden), np.float32)
    for sign in (1.0, -1.0):
        given = np.full((1, 2, 1), sign * x, np.float32)
        outputs, final = jp.elman(given, *kernels, backend="native")
        assert_array_equal(outputs, np.full((1, 2, hidden), sign, np.float32))
        assert_array_equal(final, np.full((1, hidden), sign, np.float32))


def test_tanh_below_one() -> None:
    """Close to the limit it is not rounded to it too soon: within four roundings, as XLA's is."""
    x = np.linspace(7.0, 10.0, 601, dtype=np.float32)
    kernels = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    found = np.asarray(jp.elman(x[:, None, None], *kernels, backend="native")[0]).ravel()
    exact = np.tanh(x.astype(np.float64))
    assert np.abs(found - exact).max() <= 2.0**-22
    assert (found <= 1).all()


@pytest.mark.parametrize("x", [200.0, np.inf])
def test_sigmoid_reaches_its_limits(x: float) -> None:
    """An LSTM of one unit whose gates are all open, then all closed, seen from its states."""
    kernel, recurrent = np.ones((1, 4), np.float32), np.zeros((1, 4), np.float32)
    state = np.full((1, 1), 0.5, np.float32), np.full((1, 1), 0.25, np.float32)
    given = np.full((1, 1, 1), x, np.float32)
    _, (h, c) = jp.lstm(given, kernel, recurrent, initial_state=state, backend="native")
    assert_array_equal(c, [[1.25]])  # 1 * 0.25 + 1 * tanh(inf)
    assert_allclose(h, [[np.tanh(1.25)]], rtol=1e-6)
    _, (h, c) = jp.lstm(-given, kernel, recurrent, initial_state=state, backend="native")
    assert_allclose([h, c], np.zeros((2, 1, 1)), atol=1e-37)  # no unit keeps what it should forget
    kernel, recurrent = np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)
    _, h = jp.gru(given, kernel, recurrent, initial_state=state[0], backend="native")
    assert_array_equal(h, state[0])  # z = 1: what was there stays
    _, h = jp.gru(given, -kernel, recurrent, initial_state=state[0], backend="native")
    assert_array_equal(h, [[-1.0]])  # z = 0: n, which is tanh(-inf)


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("cell", SATURATING)
def test_saturated_units_have_no_slope(cell: str, size: float) -> None:
    """Of the input kernel above all: a slope that is not quite 0 would be as large as the input."""
    function, gates = CELLS[cell]
    x = size * np.where(np.arange(B * T) % 3 == 0, -1.0, 1.0)
    x = np.stack([x, 0 * x], axis=-1).reshape(B, T, I).astype(np.float32)

    def loss(backend: str, x: Any, kernel: Any, recurrent: Any) -> Any:
        return jnp.sum(jnp.sin(function(x, kernel, recurrent, backend=backend)[0]))

    given = x, *kernels(gates, 9)
    found, expected = (
        jax.jit(jax.grad(partial(loss, backend), (0, 1)))(*given)
        for backend in ("native", "reference")
    )
    for ours, wanted in zip(found, expected, strict=True):
        assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_the_slope_of_one_unit_at_a_million() -> None:
    def last(kernel: Any, x: Any) -> Any:
        return jp.elman(x, kernel, jnp.zeros((1, 1)), backend="native")[0].sum()

    assert jax.grad(last)(jnp.ones((1, 1)), jnp.full((1, 1, 1), 1e6)) == 0
    assert jax.grad(last, 1)(jnp.full((1, 1), 1e6), jnp.ones((1, 1, 1))) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_an_infinite_input_stays_in_its_row(cell: str, dtype: str) -> None:
    """Units saturate, or pass it on as lax.scan does; other rows know nothing of it."""
    function, gates = CELLS[cell]
    x = np.sin(np.arange(B * T * I)).reshape(B, T, I)
    spoiled = x.copy()
    spoiled[1, 1, 0] = -np.inf

    @jax.jit  # one program for all widths
    def run(x: Any, spoiled: Any, weights: Any) -> Any:
        native, reference = (partial(function, backend=b) for b in ("native", "reference"))
        return [
            (native(spoiled, *w)[0], native(x, *w)[0], reference(spoiled, *w)[0]) for w in weights
        ]

    weights = [kernels(gates, hidden, dtype) for hidden in WIDTHS]
    results = run(x.astype(dtype), spoiled.astype(dtype), weights)
    tolerance = 1e-5 if dtype == "float32" else 0.03
    for hidden, each in zip(WIDTHS, results, strict=True):
        found, clean, wanted = (np.asarray(outputs, np.float64) for outputs in each)
        assert found.shape == (B, T, hidden)
        assert_array_equal(found[[0, 2]], clean[[0, 2]])
        assert_array_equal(found[1, 0], clean[1, 0])
        assert_allclose(found, wanted, rtol=tolerance, atol=tolerance, err_msg=f"{hidden} units")
        assert np.isfinite(found).all() or cell == "relu", hidden


@pytest.mark.parametrize("hidden", [8, 9])
@pytest.mark.parametrize("cell", SATURATING)
def test_gradients_around_an_infinite_input(cell: str, hidden: int) -> None:
    """Those of the other rows, of the initial state and of the recurrent kernel."""
    function, gates = CELLS[cell]
    kernel, recurrent = kernels(gates, hidden)
    x = np.sin(np.arange(B * T * I, dtype=np.float32)).reshape(B, T, I)
    x[1, 1, 0] = np.inf
    start = np.cos(np.arange(2 * B * hidden, dtype=np.float32)).reshape(2, B, hidden)

    def loss(backend: str, recurrent: Any, start: Any) -> Any:
        state = tuple(start) if cell == "lstm" else start[0]
        outputs, _ = function(x, kernel, recurrent, initial_state=state, backend=backend)
        return jnp.sum(jnp.sin(outputs))

    found, wanted = (
        jax.jit(jax.grad(partial(loss, backend), (0, 1)))(recurrent, start)
        for backend in ("native", "reference")
    )
    for ours, expected in zip(found, wanted, strict=True):
        assert np.isfinite(expected).all()
        assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
