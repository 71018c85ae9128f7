# SPDX-License-Identifier: Apache-2.0
"""Both directions of a layer in one call are two calls, bit for bit, on one x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close
from numpy.testing import assert_array_equal

from jax_persistent.cells import CELLS
from jax_persistent.ops import functions
from jax_persistent.problem import Arrays

T, B, I, H = 5, 3, 4, 9  # noqa: E741
Given = dict[str, Any]


def drawn(cell: str, dtype: str = "float32") -> Given:
    """All that is of each direction has an axis of two."""
    draw = np.random.default_rng(len(cell))
    columns = CELLS[cell].gates * H

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(0.6 * draw.standard_normal(shape), dtype)

    given = {
        "x": normal(B, T, I),
        "input_kernel": normal(2, I, columns),
        "recurrent_kernel": normal(2, H, columns),
        "bias": normal(2, columns),
        "initial_state": tuple(normal(2, B, H) for _ in CELLS[cell].states),
        "reset_state": tuple(normal(2, B, H) for _ in CELLS[cell].states),
    }
    if CELLS[cell].reset_after:
        given["recurrent_bias"] = normal(2, columns)
    return given


LENGTHS = jnp.array([3, T, 0], jnp.int32)
RESETS = jnp.asarray(np.random.default_rng(0).random((2, B, T)) < 0.4)


def run(cell: str, directions: str, given: Given, resets: jax.Array, backend: str | None) -> Any:
    return functions.run(
        CELLS[cell],
        Arrays(given | {"lengths": LENGTHS, "resets": resets}),
        directions=directions,
        time_major=False,
        backend=backend,
    )


def together(cell: str, given: Given, backend: str | None = "native") -> Any:
    return run(cell, "both", given, RESETS, backend)


def apart(cell: str, given: Given, backend: str | None = "native") -> Any:
    found = []
    for way, directions in enumerate(("forward", "reverse")):
        shared = {"x": given["x"]}
        own = {n: jax.tree.map(lambda a, w=way: a[w], a) for n, a in given.items() if n != "x"}
        found.append(run(cell, directions, shared | own, RESETS[way], backend))
    (first, states), (second, others) = found
    final = tuple(jnp.stack(pair) for pair in zip(states, others, strict=True))
    return jnp.stack([first, second], axis=2), final


def weighted(results: Any) -> jax.Array:
    """A scalar that depends on every result, curved in each."""
    total = jnp.float32(0)
    for n, result in enumerate(jax.tree.leaves(results)):
        weights = jnp.cos(jnp.arange(result.size) + n).reshape(result.shape)
        total += jnp.sum(jnp.sin(result.astype(jnp.float32)) * weights)
    return total


def both(function: Callable[..., Any], cell: str, *backend: str) -> Callable[[Given], Any]:
    def loss(given: Given) -> Any:
        results = function(cell, given, *backend)
        return weighted(results), results

    return jax.jit(jax.grad(loss, has_aux=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_one_call_is_two(cell: str, dtype: str) -> None:
    given = drawn(cell, dtype)
    got, want = (both(function, cell)(given) for function in (together, apart))
    jax.tree.map(assert_array_equal, got, want)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_reference_is_two_scans(cell: str) -> None:
    given = drawn(cell)
    close(*(both(function, cell, "reference")(given) for function in (together, apart)))


def test_in_any_other_transform() -> None:
    """Forward mode, a gradient of a gradient, and members with weights of their own."""
    cell, given = "gru", drawn("gru")

    def slope(function: Callable[..., Any], given: Given) -> jax.Array:
        gradient = jax.grad(lambda given: weighted(function(cell, given)))(given)
        return sum(jnp.sum(jnp.sin(g)) for g in jax.tree.leaves(gradient))

    def several(function: Callable[..., Any]) -> Any:
        members = jax.tree.map(lambda a: jnp.stack([a, a / 2, -a]), given)
        axes = {name: None if name == "x" else 0 for name in given}
        members["x"] = given["x"]
        direction = jax.tree.map(jnp.cos, given)
        return (
            jax.jvp(lambda given: function(cell, given), (given,), (direction,)),
            jax.grad(lambda given: slope(function, given))(given),
            jax.vmap(jax.grad(lambda given: weighted(function(cell, given))), (axes,))(members),
        )

    got, want = (jax.jit(lambda f=function: several(f))() for function in (together, apart))
    close(got, want, 1e-4)


def test_the_program_has_one_call_a_pass_and_no_copy_of_x() -> None:
    text = both(together, "lstm").lower(drawn("lstm")).compile().as_text()
    assert text.count('custom_call_target="jax_persistent.forward"') == 1
    assert text.count('custom_call_target="jax_persistent.backward"') == 1
    assert f"f32[2,{B},{T},{I}]" not in text
    assert f"f32[1,2,{B},{T},{I}]" not in text
