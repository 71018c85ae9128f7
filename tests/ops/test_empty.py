# SPDX-License-Identifier: Apache-2.0
"""No rows, no steps, or an axis of size 0 under `jax.vmap`: empty results, as from a lax.scan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close, mesh_of, put
from flax import linen as nn
from flax import nnx
from flax_problems import assert_trees_equal, drawn

import jax_persistent as jp
from jax_persistent.linen import RNN
from jax_persistent.nnx import RNN as NnxRNN
from jax_persistent.pipeline import wavefront

B, T, I, H = 2, 5, 3, 7  # noqa: E741
CELLS: dict[str, tuple[Callable[..., Any], int]] = {
    "lstm": (jp.lstm, 4),
    "gru": (jp.gru, 3),
    "elman": (jp.elman, 1),
}
KEY = jax.random.key(7)


def kernels(gates: int) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(gates)
    shapes = (I, gates * H), (H, gates * H)
    return tuple((0.3 * draw.standard_normal(s)).astype(np.float32) for s in shapes)


def state(cell: str, rows: int) -> Any:
    drawn = np.cos(np.arange(2 * rows * H, dtype=np.float32)).reshape(2, rows, H)
    return tuple(drawn) if cell == "lstm" else drawn[0]


def total(results: Any) -> Any:
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(results))


@pytest.mark.parametrize(
    ("backend", "time_major"), [(None, True), ("native", False), ("reference", False)]
)
@pytest.mark.parametrize(("rows", "steps"), [(0, T), (B, 0), (0, 0)])
@pytest.mark.parametrize("cell", CELLS)
def test_no_rows_or_no_steps(
    cell: str, backend: str | None, rows: int, steps: int, time_major: bool
) -> None:
    """The final state is the initial one; with no steps all of the gradient goes to that."""
    function, gates = CELLS[cell]
    x = np.zeros((steps, rows, I) if time_major else (rows, steps, I), np.float32)
    initial, flags = state(cell, rows), {"time_major": time_major, "backend": backend}

    def run(x: Any, initial: Any, *weights: Any) -> Any:
        return function(x, *weights, initial_state=initial, **flags)

    outputs, final = jax.jit(run)(x, initial, *kernels(gates))
    assert outputs.shape == (*x.shape[:2], H)
    assert outputs.dtype == np.float32
    assert_trees_equal(final, jax.tree.map(jnp.asarray, initial))
    slopes = jax.jit(jax.grad(lambda *a: total(run(*a)), (0, 1, 2, 3)))(x, initial, *kernels(gates))
    close(slopes[1], jax.tree.map(np.cos, initial), 1e-6)
    assert slopes[0].shape == x.shape
    assert not any(np.any(slope) for slope in slopes[2:])


def test_lengths_of_nothing() -> None:
    weights = kernels(3)
    flags = {"lengths": np.zeros(B, np.int32), "reverse": True}
    outputs, final = jp.gru(np.zeros((B, 0, I), np.float32), *weights, **flags)
    assert outputs.shape == (B, 0, H)
    assert not np.any(final)
    outputs, final = jp.gru(
        np.zeros((0, T, I), np.float32), *weights, lengths=np.zeros(0, np.int32)
    )
    assert (outputs.shape, final.shape) == ((0, T, H), (0, H))
    with pytest.raises(ValueError, match=r"lengths: expected values in 0..T = 0..0"):
        jp.gru(np.zeros((B, 0, I), np.float32), *weights, lengths=np.ones(B, np.int32))


def vmap_of_gradient(run: Callable[..., Any], axes: Any) -> Callable[..., Any]:
    return jax.vmap(jax.grad(lambda *a: total(run(*a)), (0, 1, 2)), axes)


def gradient_of_vmap(run: Callable[..., Any], axes: Any) -> Callable[..., Any]:
    return jax.grad(lambda *a: total(jax.vmap(run, axes)(*a)), (0, 1, 2))


def vmap_of_second_derivative(run: Callable[..., Any], axes: Any) -> Callable[..., Any]:
    def product(x: Any, *weights: Any) -> Any:
        return jax.jvp(jax.grad(lambda x: total(run(x, *weights))), (x,), (x,))

    return jax.vmap(product, axes)


@pytest.mark.parametrize("mapped", [(0,), (1, 2), (0, 2)], ids=str)
@pytest.mark.parametrize(
    "transform",
    [jax.vmap, vmap_of_gradient, gradient_of_vmap, vmap_of_second_derivative],
    ids=lambda function: function.__name__,
)
def test_vmap_over_nothing(transform: Callable[..., Any], mapped: tuple[int, ...]) -> None:
    """Over sequences, over weights, over both; shared weights have gradients of zero."""
    function, gates = CELLS["gru"]
    operands = np.ones((B, T, I), np.float32), *kernels(gates)
    none = [np.zeros((0, *a.shape), a.dtype) if n in mapped else a for n, a in enumerate(operands)]
    axes = tuple(0 if n in mapped else None for n in range(3))
    found = jax.jit(transform(partial(function, lengths=np.array([4, 0], np.int32)), axes))(*none)
    reference = partial(function, lengths=np.array([4, 0], np.int32), backend="reference")
    expected = jax.eval_shape(transform(reference, axes), *none)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), found) == jax.tree.map(
        lambda a: (a.shape, a.dtype), expected
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("sizes", [(0, 2), (2, 0)], ids=str)
def test_nested_vmap_over_nothing(sizes: tuple[int, int]) -> None:
    weights = kernels(4)
    inner, outer = (0, None, None), (0, 0, None)
    run = jax.vmap(jax.vmap(lambda x, *w: jp.lstm(x, *w)[0], inner), outer)
    x = np.zeros((*sizes, B, T, I), np.float32)
    several = np.zeros((sizes[0], *weights[0].shape), np.float32)
    assert jax.jit(run)(x, several, weights[1]).shape == (*sizes, B, T, H)


@pytest.mark.parametrize("name", ["x", "h0"])
def test_vmap_over_another_axis_and_without_jit(name: str) -> None:
    weights = kernels(1)
    x, h0 = np.ones((B, T, I), np.float32), np.ones((B, H), np.float32)
    if name == "x":
        run = jax.vmap(lambda x: jp.elman(x, *weights, initial_state=h0), 2, (1, 0))
        found = run(np.zeros((B, T, 0, I), np.float32))
    else:
        run = jax.vmap(lambda h0: jp.elman(x, *weights, initial_state=h0), 1, (1, 0))
        found = run(np.zeros((B, 0, H), np.float32))
    assert jax.tree.map(jnp.shape, found) == ((B, 0, T, H), (0, B, H))


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("shape", [(3, 0, I), (0, T, I), (2, 0, T, I)], ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_layers(name: str, shape: tuple[int, ...], lengths: bool) -> None:
    """As flax's, which fails where a carry at a row's length is asked for and there is no step."""
    cell = {"lstm": nn.OptimizedLSTMCell(H), "gru": nn.GRUCell(H)}[name]
    x, batch = jnp.zeros(shape), shape[:-2]
    variables = drawn(jax.eval_shape(nn.RNN(cell).init, KEY, jnp.zeros((B, T, I))))
    given = drawn(jax.eval_shape(lambda: cell.initialize_carry(KEY, (*batch, I))))
    flags = {"initial_carry": given, "reverse": True, "return_carry": True}
    ends = jnp.zeros(batch, jnp.int32) if lengths else None
    carry, outputs = jax.jit(partial(RNN(cell).apply, seq_lengths=ends, **flags))(variables, x)
    assert_trees_equal(carry, given)
    assert outputs.shape == (*shape[:-1], H)
    masked = jax.jit(RNN(cell, mask_outputs=True).apply)(variables, x, seq_lengths=ends)
    assert masked.shape == outputs.shape
    assert_trees_equal(
        jax.jit(RNN(cell).apply)(variables, x), jax.jit(nn.RNN(cell).apply)(variables, x)
    )
    assert jax.eval_shape(RNN(cell).init, KEY, x) == jax.eval_shape(nn.RNN(cell).init, KEY, x)


@pytest.mark.parametrize("shape", [(3, 0, I), (0, T, I)], ids=str)
def test_nnx_layers(shape: tuple[int, ...]) -> None:
    x, cell = jnp.zeros(shape), nnx.SimpleCell(I, H, rngs=nnx.Rngs(0))
    flags = {"return_carry": True, "reverse": True}
    assert_trees_equal(NnxRNN(cell)(x, **flags), nnx.RNN(cell)(x, **flags))


def test_a_wavefront_without_rows() -> None:
    mesh = mesh_of(layers=2)
    weights = {k: np.ones((2, H, H), np.float32) for k in ("input_kernel", "recurrent_kernel")}
    run = partial(wavefront, jp.elman, mesh=mesh, axis="layers", chunks=2)
    outputs, final = jax.jit(run)(np.zeros((0, T, H), np.float32), put(mesh, weights, "layers"))
    assert (outputs.shape, final.shape) == ((0, T, H), (2, 0, H))
    with pytest.raises(ValueError, match=r"chunks: expected an integer in 1..T = 1..0"):
        run(np.zeros((B, 0, H), np.float32), weights)


@pytest.mark.parametrize("explicit", [False, True])
def test_no_rows_on_a_mesh(explicit: bool) -> None:
    mesh, weights = mesh_of(rows=2, explicit=explicit), kernels(4)
    x = put(mesh, np.zeros((0, T, I), np.float32), "rows")
    outputs, (h, c) = jax.jit(jp.lstm)(x, *put(mesh, weights))
    assert (outputs.shape, h.shape, c.shape) == ((0, T, H), (0, H), (0, H))
