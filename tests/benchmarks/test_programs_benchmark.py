# SPDX-License-Identifier: Apache-2.0
"""The benchmark of whole programs: where a step's time goes, and its means."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jax_persistent as jp
from benchmarks import programs


def test_a_profile_tells_calls_from_products() -> None:
    W, R = jnp.ones((6, 4 * 40)), jnp.full((40, 4 * 40), 0.01)
    M = jnp.full((3 * 40, 200), 0.01)

    @jax.jit
    def train(state: Any, x: Any, number: int) -> Any:
        outputs, _ = jp.lstm(x, W, R, backend="native")
        logits = outputs.reshape(-1, 3 * 40) @ M
        return state + jax.nn.softmax(logits).sum() + number, logits

    parts = programs.parts(train, jnp.zeros(()), jnp.ones((20, 300, 6)))
    assert sum(parts.values()) == pytest.approx(1, abs=2e-3)
    assert min(parts.values()) > 0
    row = {"example": "speech", "preset": "quick", "width": 9, "ms": {"kernels": 2.0}}
    row |= {"flax_over_kernels": 4.0, "parts": parts, "at_most": 5.0}
    assert programs.means([row, row | {"flax_over_kernels": 1.0}]) == {"speech": 2.0}
    assert "flax 4.00x (at most 5.00x;" in programs.line(row)


def test_operations_are_those_of_every_step() -> None:
    """Those of products, of either pass, in scans and in functions that are compiled."""

    @jax.jit
    def loss(w: Any) -> Any:
        def step(h: Any, _: Any) -> Any:
            return jnp.tanh(h @ w), None

        return jax.lax.scan(step, jnp.ones((3, 8)), length=10)[0].sum()

    w, product = jnp.ones((8, 8)), 2 * 3 * 8 * 8
    assert programs.operations(jax.make_jaxpr(loss)(w)) == 10 * product
    assert programs.operations(jax.make_jaxpr(jax.grad(loss))(w)) == 30 * product


def test_presets_have_two_widths() -> None:
    for example in programs.EXAMPLES:
        for preset in programs.PRESETS:
            assert len(set(programs.widths(example, preset))) == 2
