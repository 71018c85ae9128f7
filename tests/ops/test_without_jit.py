# SPDX-License-Identifier: Apache-2.0
"""Outside `jax.jit`, and under the settings that take jit away or compile at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close, mesh_of, put
from flax.nnx import Rngs, SimpleCell

import jax_persistent as jp
from jax_persistent.nnx import RNN

B, T, I, H = 2, 5, 3, 7  # noqa: E741
CELLS = {"lstm": (jp.lstm, 4), "gru": (jp.gru, 3), "elman": (jp.elman, 1)}
LENGTHS = np.array([4, 0], np.int32)


def arrays(gates: int) -> tuple[Any, ...]:
    draw = np.random.default_rng(gates)
    shapes = (B, T, I), (I, gates * H), (H, gates * H)
    return tuple(jnp.asarray(0.5 * draw.standard_normal(s), jnp.float32) for s in shapes)


def squares(function: Callable[..., Any], *arguments: Any) -> Any:
    return jnp.sum(function(*arguments)[0] ** 2)


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "call": lambda function: function,
    "grad": lambda function: jax.grad(partial(squares, function), (0, 1, 2)),
    "grad in x": lambda function: jax.grad(partial(squares, function)),
    "checkpoint": lambda function: jax.grad(jax.checkpoint(partial(squares, function)), 2),
    "jvp": lambda function: lambda x, *w: jax.jvp(lambda x: function(x, *w), (x,), (x,)),
    "vmap": lambda function: jax.vmap(lambda x, *w: function(x[None], *w), (0, None, None)),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_disable_jit(transform: Callable[..., Any]) -> None:
    """jax goes on compiling each primitive by itself there."""
    function, gates = CELLS["gru"]
    run = transform(partial(function, backend="native"))
    with jax.disable_jit():
        found = run(*arrays(gates))
    close(found, jax.jit(run)(*arrays(gates)))


@pytest.mark.parametrize("cell", CELLS)
def test_disable_jit_with_lengths(cell: str) -> None:
    function, gates = CELLS[cell]
    run = partial(function, lengths=LENGTHS, reverse=True)
    with jax.disable_jit():
        found = run(*arrays(gates))
    close(found, run(*arrays(gates), backend="reference"))


def test_disable_jit_in_a_layer() -> None:
    x, *_ = arrays(1)
    layer = RNN(SimpleCell(I, H, rngs=Rngs(0)))
    with jax.disable_jit():
        found = layer(x)
    close(found, layer(x))


@pytest.mark.parametrize("explicit", [False, True])
def test_disable_jit_on_a_mesh(explicit: bool) -> None:
    mesh = mesh_of(rows=2, explicit=explicit)
    x, *weights = arrays(4)
    split = put(mesh, x, "rows"), *put(mesh, weights)
    with jax.disable_jit():
        outputs, _ = jp.lstm(*split)
    assert outputs.sharding.is_equivalent_to(split[0].sharding, 3)
    close(outputs, jp.lstm(x, *weights)[0])


@pytest.mark.parametrize(
    "setting",
    [jax.ensure_compile_time_eval, partial(jax.debug_nans, True), partial(jax.checking_leaks)],
    ids=["compile-time", "debug_nans", "checking_leaks"],
)
def test_other_settings(setting: Callable[..., contextlib.AbstractContextManager]) -> None:
    x, *weights = arrays(3)

    def constant(x: Any) -> Any:
        with setting():
            outputs, _ = jp.gru(jnp.ones((B, T, I)), *weights)
            return x + jnp.sum(outputs)

    close(constant(x), x + jnp.sum(jp.gru(jnp.ones((B, T, I)), *weights)[0]))
    close(jax.jit(constant)(x), constant(x))
