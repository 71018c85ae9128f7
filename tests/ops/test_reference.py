# SPDX-License-Identifier: Apache-2.0
"""The reference as a backend that users ask for: its sums, its transforms, and split programs."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close, mesh_of, put
from jax.sharding import PartitionSpec as P

import jax_persistent as jp
from jax_persistent.pipeline import wavefront

BACKENDS = ("native", "reference")


def operands(batch: int, steps: int, inputs: int, hidden: int, dtype=np.float32) -> tuple:
    draw = np.random.default_rng(steps)
    sizes = (batch, steps, inputs), (inputs, 3 * hidden), (hidden, 3 * hidden)
    x, w, r = (jnp.asarray(0.3 * draw.standard_normal(s), dtype) for s in sizes)
    return x, w, r


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_weights_are_summed_in_float32(backend: str) -> None:
    """Of 1200 terms, where a sum in bfloat16 stops growing."""
    x, w, r = operands(4, 300, 5, 8, jnp.bfloat16)

    def gradient(backend, *arrays):
        return jax.grad(lambda r: jp.gru(*arrays, r, backend=backend)[0].astype(jnp.float32).sum())

    found = gradient(backend, x, w)(r).astype(jnp.float32)
    wide = (a.astype(jnp.float32) for a in (x, w, r))
    x, w, r = wide
    expected = gradient("reference", x, w)(r)
    error = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
    assert error < 0.02


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [4, 0])
def test_under_shard_map_without_an_initial_state(backend: str, steps: int) -> None:
    x, w, r = operands(8, steps, 3, 5)
    run = partial(jp.gru, backend=backend)
    split = jax.shard_map(
        lambda x: run(x, w, r)[0], mesh=mesh_of(data=8), in_specs=P("data"), out_specs=P("data")
    )
    close(jax.jit(split)(x), run(x, w, r)[0])


def test_gradient_of_a_gradient_under_shard_map() -> None:
    x, w, r = operands(8, 4, 3, 5)

    def curvature(x):
        def slope(x):
            return jax.grad(lambda x: jnp.sin(jp.gru(x, w, r)[0]).sum())(x)

        return jax.grad(lambda x: (slope(x) ** 2).sum())(x)

    split = jax.shard_map(curvature, mesh=mesh_of(data=8), in_specs=P("data"), out_specs=P("data"))
    close(jax.jit(split)(x), jax.jit(curvature)(x))


def test_a_split_program_keeps_its_types_where_it_is_compiled() -> None:
    """XLA asks for a device's part outside `jax.enable_x64`."""
    with jax.enable_x64(True):
        x, w, r = operands(8, 4, 3, 5, np.float64)
        split = put(mesh_of(data=8), x, "data")
        lowered = jax.jit(lambda x: jp.gru(x, w, r)[0]).lower(split)
        expected = jp.gru(x, w, r)[0]
    found = lowered.compile()(split)
    assert found.dtype == np.float64
    close(found, expected, 1e-12)


def test_a_wavefront_refuses_resets_by_name() -> None:
    weights = {"input_kernel": jnp.ones((2, 5, 15)), "recurrent_kernel": jnp.ones((2, 5, 15))}
    with pytest.raises(NotImplementedError, match="resets: each layer of a wavefront"):
        wavefront(
            jp.gru,
            jnp.ones((3, 4, 5)),
            weights,
            mesh=mesh_of(layers=2),
            axis="layers",
            chunks=2,
            resets=np.zeros((3, 4), bool),
        )
