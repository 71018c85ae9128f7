# SPDX-License-Identifier: Apache-2.0
"""Each operation of programs against jax's own, over float32's range and at its edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_persistent as jp
from jax_persistent.programs.pieces import BINARY, UNARY

# XLA takes what is smaller than the least normal number for zero.
EDGES = [0.0, -0.0, 2e-38, 1e-20, 1.0, 88.0, 89.0, -87.0, -89.0, 104.0, 3e38, np.inf, np.nan]
# Functions that programs compute by themselves, and how far off they may be, relative to the
# result; the others are exact, or the C library's.
NEAR = {"exp": 3e-7, "log": 3e-7, "log1p": 4e-7, "logistic": 4e-7, "tanh": 6e-7, "rsqrt": 3e-7}
ROUNDED = {"rint": jnp.round, "round": lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO)}
FUNCTIONS: dict[str, Callable[..., Any]] = {n: getattr(lax, n, None) for n in (*UNARY, *BINARY)}
FUNCTIONS |= ROUNDED | {"not": lambda x: jnp.logical_not(x > 0.5)}


def ran(function: Callable[..., Any], *operands: np.ndarray) -> np.ndarray:
    """A function of carried vectors, in a program."""
    carry = tuple(map(jnp.asarray, operands))

    def step(carry: Any, x: None) -> Any:
        del x
        return tuple(-c for c in carry), function(*carry)

    run = jax.jit(lambda *c: jp.scan(step, c, length=1, backend="native")[1])
    return np.asarray(run(*carry))[0]


def assert_near(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    if expected.dtype == bool:
        np.testing.assert_array_equal(found, expected)
        return
    normal = ~(np.abs(expected) < np.finfo(np.float32).tiny)  # below that, zero is as good
    np.testing.assert_allclose(found[normal], expected[normal], NEAR.get(name, 2e-7), 0)
    assert (np.abs(found[~normal]) < 2 * np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("name", UNARY)
def test_of_one_operand(name: str) -> None:
    draw = np.random.default_rng(1)
    wide = draw.normal(size=301) * 10.0 ** draw.integers(-6, 3, size=301)
    x = np.concatenate([EDGES, -np.array(EDGES), wide]).astype(np.float32)
    function = FUNCTIONS[name]
    with np.errstate(all="ignore"), jax.enable_x64(True):
        exact = np.asarray(function(x.astype(np.float64)))
        expected = exact if exact.dtype == bool else exact.astype(np.float32)
    # Of sums in float32 jax's own results are the better measure: sin(1e30) depends on every bit.
    if name in ("sin", "cos", "tan"):
        x, expected = x[np.abs(x) < 1e4], expected[np.abs(x) < 1e4]
    assert_near(name, ran(function, x), expected)


@pytest.mark.parametrize("name", BINARY)
def test_of_two_operands(name: str) -> None:
    draw = np.random.default_rng(2)
    edges = np.array(np.meshgrid(EDGES, EDGES)).reshape(2, -1)
    a, b = np.concatenate([edges, draw.normal(size=(2, 95)) * 3], 1).astype(np.float32)
    if name == "pow":
        a = np.abs(a)
    with jax.enable_x64(True):
        exact = np.asarray(FUNCTIONS[name](a.astype(np.float64), b.astype(np.float64)))
    with np.errstate(all="ignore"):
        expected = exact if exact.dtype == bool else exact.astype(np.float32)
    assert_near(name, ran(FUNCTIONS[name], a, b), expected)
