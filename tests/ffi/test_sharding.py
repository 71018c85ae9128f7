"""Kernels under a plain `jax.jit` over a mesh: what the compiled program communicates."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jax_persistent as jp

STEPS, ROWS, FEATURES, UNITS = 5, 16, 3, 6  # T, B, I, H
OPS = {"lstm": (jp.lstm, 4), "gru": (jp.gru, 3), "elman": (jp.elman, 1)}
COLLECTIVE = re.compile(r" ((?:all|reduce|collective|ragged)-[a-z-]+)\(")


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def collectives(compiled: Any) -> list[str]:
    return COLLECTIVE.findall(compiled.as_text())


def arrays(gates: int, *shape: int) -> tuple[Array, Array, Array]:
    random = np.random.RandomState(gates)
    sizes = shape, (FEATURES, gates * UNITS), (UNITS, gates * UNITS)
    x, w, r = (jnp.asarray(0.4 * random.randn(*size), jnp.float32) for size in sizes)
    return x, w, r


@pytest.mark.parametrize("cell", OPS)
@pytest.mark.parametrize(("time_major", "reverse"), [(False, False), (True, True)])
def test_a_batch_is_split_without_a_gather(mesh, cell, time_major, reverse):
    op, gates = OPS[cell]
    x, w, r = arrays(gates, *((STEPS, ROWS, FEATURES) if time_major else (ROWS, STEPS, FEATURES)))
    spec = PartitionSpec(None, "data") if time_major else PartitionSpec("data")
    lengths = jnp.asarray([*range(STEPS + 1)] * 2 + [STEPS] * (ROWS - 2 * (STEPS + 1)), jnp.int32)

    def loss(x, w, r):
        kwargs = {"time_major": time_major, "reverse": reverse, "backend": "native"}
        outputs, final = op(x, w, r, lengths=lengths, **kwargs)
        return jnp.sum(jnp.sin(outputs)) + sum(map(jnp.sum, jax.tree.leaves(final)))

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    split = jax.device_put(x, NamedSharding(mesh, spec))
    compiled = gradient.lower(split, w, r).compile()
    assert compiled.as_text().count('custom_call_target="jax_persistent.') == 2
    assert set(collectives(compiled)) == {"all-reduce"}  # of the loss and of the weights' gradients
    assert compiled.output_shardings[1][0].spec == spec
    found, expected = compiled(split, w, r), gradient(x, w, r)
    for each, whole in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(each, whole, rtol=1e-5, atol=1e-5)


def test_an_ensemble_is_split_without_communication(mesh):
    members, batch = 8, 3
    random = np.random.RandomState(0)
    sizes = (
        (members, batch, STEPS, FEATURES),
        (members, FEATURES, 4 * UNITS),
        (members, UNITS, 4 * UNITS),
    )
    x, w, r = (jnp.asarray(0.4 * random.randn(*size), jnp.float32) for size in sizes)
    run = jax.jit(jax.vmap(lambda x, w, r: jp.lstm(x, w, r, backend="native")[0]))
    split = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in (x, w, r)]
    compiled = run.lower(*split).compile()
    assert 'custom_call_target="jax_persistent.' in compiled.as_text()
    assert collectives(compiled) == []
    np.testing.assert_allclose(compiled(*split), run(x, w, r), rtol=1e-6, atol=1e-6)


def test_time_is_brought_together_first(mesh):
    """A sequence split over time can't be run in parts: it is gathered, and the result is right."""
    x, w, r = arrays(4, 2, 8, FEATURES)
    run = jax.jit(lambda x, w, r: jp.lstm(x, w, r, backend="native")[0])
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "data")))
    np.testing.assert_allclose(run(split, w, r), run(x, w, r), rtol=1e-6, atol=1e-6)
