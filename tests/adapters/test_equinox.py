# SPDX-License-Identifier: Apache-2.0
"""A cell of Equinox over a sequence gives what `lax.scan` of its calls gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax_problems import assert_trees_close, compiled, runs_as, value_and_gradients
from numpy.testing import assert_array_equal

T, B, I, H = 5, 3, 4, 6  # noqa: E741
KEY = jax.random.key(1)
X = jax.random.normal(KEY, (B, T, I))


@pytest.fixture(scope="module")
def loaded() -> Any:
    """Equinox and the adapter, which only the worker that runs this file pays for."""
    import equinox

    from jax_persistent import equinox as adapter

    class Leaky(equinox.Module):
        """A user's own cell."""

        kernel: jax.Array
        recurrent: jax.Array

        def __call__(self, x: Any, h: Any) -> Any:
            return 0.5 * h + jnp.tanh(self.kernel @ x + self.recurrent @ h)

    def cell(name: str, **options: Any) -> Any:
        if name == "own":
            return Leaky(*(jax.random.normal(KEY, (H, n)) / n for n in (I, H)))
        return getattr(equinox.nn, f"{name}Cell")(I, H, key=KEY, **options)

    return SimpleNamespace(eqx=equinox, RNN=adapter.RNN, cell=cell)


def start(name: str, rows: int = B) -> Any:
    """States [rows, H]."""
    drawn = jax.random.normal(jax.random.key(2), (2, rows, H))
    return tuple(drawn) if name == "LSTM" else drawn[0]


def scanned(cell: Any, x: Any, state: Any, reverse: bool) -> Any:
    """(ys, state) of one sequence, by Equinox's documented loop."""

    def step(state: Any, x: Any) -> Any:
        after = cell(x, state)
        return after, jax.tree.leaves(after)[0]

    final, ys = jax.lax.scan(step, state, x, reverse=reverse)
    return ys, final


@pytest.mark.parametrize(
    ("name", "runs", "reverse", "options"),
    [
        ("LSTM", "kernel", True, {}),
        ("GRU", "kernel", False, {}),
        ("GRU", "kernel", True, {"use_bias": False}),
        ("own", "jp.scan", True, {}),
    ],
)
def test_equals_a_scan(loaded: Any, name: str, runs: str, reverse: bool, options: Any) -> None:
    """vmap over sequences included, of which one call is made."""

    def ours(cell: Any, x: Any, state: Any) -> Any:
        return jax.vmap(loaded.RNN(cell, reverse))(x, state)

    def own(cell: Any, x: Any, state: Any) -> Any:
        return jax.vmap(lambda x, state: scanned(cell, x, state, reverse))(x, state)

    arguments = loaded.cell(name, **options), X, start(name)
    assert runs_as(ours, *arguments) == runs
    assert_trees_close(value_and_gradients(ours, *arguments), value_and_gradients(own, *arguments))


def test_vmap_over_cells_is_one_call_too(loaded: Any) -> None:
    """An ensemble, by filter_vmap."""
    cells = loaded.eqx.filter_vmap(lambda key: loaded.eqx.nn.GRUCell(I, H, key=key))(
        jax.random.split(KEY, B)
    )
    run = loaded.eqx.filter_vmap(lambda cell, x: loaded.RNN(cell)(x))
    program = str(jax.make_jaxpr(run)(cells, X))
    assert program.count("jax_persistent_forward[") == 1
    assert " scan[" not in program
    zeros = jnp.zeros(H)
    own = loaded.eqx.filter_vmap(lambda cell, x: scanned(cell, x, zeros, False))
    assert_trees_close(compiled(run, cells, X), compiled(own, cells, X))


@pytest.mark.parametrize("name", ["LSTM", "own"])
def test_lengths_and_resets(loaded: Any, name: str) -> None:
    cell, state = loaded.cell(name), jax.tree.map(lambda a: a[0], start(name))

    def in_parts(x: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, state)
        first, _ = scanned(cell, x[:1], state, False)
        rest, final = scanned(cell, x[1:3], zeros, False)
        return jnp.concatenate([first, rest, jnp.zeros((T - 3, H))]), final

    resets = jnp.arange(T) == 1
    found = compiled(lambda x: loaded.RNN(cell)(x, state, lengths=3, resets=resets), X[0])
    assert_trees_close(found, compiled(in_parts, X[0]))


def test_start_from_zeros(loaded: Any) -> None:
    for name in ("LSTM", "GRU"):
        state = jax.tree.map(lambda a: jnp.zeros_like(a[0]), start(name))
        rnn = loaded.RNN(loaded.cell(name))
        assert_trees_close(rnn(X[0]), rnn(X[0], state), tolerance=0)
    expected = "state: expected the first state of a Leaky; got None. Only LSTMCell and GRUCell"
    with pytest.raises(ValueError, match=expected):
        loaded.RNN(loaded.cell("own"))(X[0])


def test_several_sequences_are_for_vmap(loaded: Any) -> None:
    with pytest.raises(
        ValueError, match=r"xs: expected one sequence \[T, I\]; got shape \(3, 5, 4"
    ):
        loaded.RNN(loaded.cell("GRU"))(X)


def test_arrays_of_several_dtypes(loaded: Any) -> None:
    cell = loaded.cell("GRU", dtype=jnp.bfloat16)
    rnn = loaded.RNN(cell)
    with jax.numpy_dtype_promotion("standard"):
        assert runs_as(rnn, X[0].astype(jnp.bfloat16)) == "kernel"
        assert runs_as(rnn, X[0].astype(jnp.bfloat16), jnp.zeros(H)) != "kernel"


def test_training_takes_the_same_course(loaded: Any) -> None:
    """With filter_grad, on the module as a pytree; the cell in it stays Equinox's."""
    zeros = jnp.zeros(H)
    optimizer = optax.adam(1e-2)

    def losses(run: Any) -> list[float]:
        def loss(rnn: Any) -> Any:
            ys, _ = jax.vmap(lambda x: run(rnn, x))(X)
            return jnp.mean((ys - 1) ** 2)

        @loaded.eqx.filter_jit
        def update(rnn: Any, state: Any) -> Any:
            found, gradients = loaded.eqx.filter_value_and_grad(loss)(rnn)
            changes, state = optimizer.update(gradients, state)
            return found, loaded.eqx.apply_updates(rnn, changes), state

        rnn = loaded.RNN(loaded.cell("GRU"))
        assert_array_equal(jax.tree.leaves(rnn)[0], rnn.cell.weight_ih)
        state, found = optimizer.init(loaded.eqx.filter(rnn, loaded.eqx.is_array)), []
        for _ in range(4):
            value, rnn, state = update(rnn, state)
            found.append(float(value))
        return found

    with jax.numpy_dtype_promotion("standard"):
        found = losses(lambda rnn, x: rnn(x))
        expected = losses(lambda rnn, x: scanned(rnn.cell, x, zeros, False))
    assert found[-1] < found[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
