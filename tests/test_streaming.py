# SPDX-License-Identifier: Apache-2.0
"""A stream gives the bits of the whole sequence, however it is cut, and whoever comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jax_persistent as jp
from jax_persistent.ops import chunks

GATES = {"lstm": 4, "gru": 3, "elman": 1}
FUNCTIONS = {"lstm": jp.lstm, "gru": jp.gru, "elman": jp.elman}
# B, I, units of each layer: one row, several, odd sizes, more than a panel.
SIZES = ((1, 5, (6,)), (3, 4, (70, 17)), (18, 33, (130,)))
T = 43


def layers_of(cell: str, inputs: int, units: tuple[int, ...], dtype: str = "float32") -> list:
    draw, layers = np.random.default_rng(inputs), []
    for hidden in units:
        columns = GATES[cell] * hidden
        arrays = {
            "input_kernel": draw.normal(0, inputs**-0.5, (inputs, columns)),
            "recurrent_kernel": draw.normal(0, hidden**-0.5, (hidden, columns)),
            "bias": draw.normal(0, 0.5, columns),
        }
        if cell == "gru":
            arrays["recurrent_bias"] = draw.normal(0, 0.5, columns)
        layers.append({name: jnp.asarray(a, dtype) for name, a in arrays.items()})
        inputs = hidden
    return layers


def sequence(batch: int, inputs: int, dtype: str = "float32", steps: int = T) -> jax.Array:
    return jnp.asarray(np.random.default_rng(7).normal(size=(batch, steps, inputs)), dtype)


def cuts(seed: int, steps: int) -> Iterator[slice]:
    """Random pieces of a sequence, some of them empty, single steps more often than others."""
    draw, first = np.random.default_rng(seed), 0
    while first < steps:
        count = int(draw.choice([0, 1, 1, 2, draw.integers(3, 30)]))
        yield slice(first, min(first + count, steps))
        first += count


def joined(outputs: list) -> np.ndarray:
    return np.concatenate([np.asarray(y) for y in outputs], axis=1)


def assert_same(got: Any, want: Any) -> None:
    jax.tree.map(assert_array_equal, got, want)


def whole(session: jp.Stream, x: jax.Array, **how: Any) -> Any:
    """The whole sequence as a single chunk."""
    one = jp.Stream(session.layers, session.cell, (T,), session.time_major)
    return one(x, one.start(len(x)), **how)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", GATES)
def test_however_it_is_cut(cell: str, dtype: str, sizes: Any, capsys: Any) -> None:
    batch, inputs, units = sizes
    session = jp.stream(cell, layers_of(cell, inputs, units, dtype), chunk_sizes=(1, 2, 8))
    x = sequence(batch, inputs, dtype)
    draw = np.random.default_rng(5)
    resets = draw.random((batch, T)) < 0.1
    want = whole(session, x, resets=resets)
    for seed in range(2):
        print(f"seed {seed}")  # shown where this fails
        state, outputs = session.start(batch), []
        for cut in cuts(seed, T):
            y, state = session(x[:, cut], state, resets=resets[:, cut])
            outputs.append(y)
        assert_same((joined(outputs), state), want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", GATES)
def test_it_is_the_functions_recurrence(cell: str, dtype: str) -> None:
    batch, inputs, units = SIZES[1]
    layers = layers_of(cell, inputs, units, dtype)
    x = sequence(batch, inputs, dtype)
    y, finals = x, []
    for layer in layers:
        y, final = FUNCTIONS[cell](y, **layer, backend="native")
        finals.append(final)
    close = {"rtol": 0, "atol": 3e-2 if dtype == "bfloat16" else 2e-6}
    got = whole(jp.stream(cell, layers), x)
    jax.tree.map(
        lambda a, b: assert_allclose(np.float32(a), np.float32(b), **close), got, (y, tuple(finals))
    )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_rows_that_come_and_go(cell: str) -> None:
    """Rows get chunks of their own lengths, and each is what it is by itself in one chunk."""
    batch, inputs, units = SIZES[1]
    session = jp.stream(cell, layers_of(cell, inputs, units), chunk_sizes=(1, 4, 8))
    x, draw = sequence(batch, inputs), np.random.default_rng(11)
    whole_y, whole_state = whole(session, x)
    state, at = session.start(batch), np.zeros(batch, int)
    outputs: list[list[np.ndarray]] = [[] for _ in range(batch)]
    while (at < T).any():
        steps = int(draw.integers(1, 12))
        lengths = np.minimum(draw.integers(0, steps + 1, batch), T - at)
        chunk = np.full((batch, steps, inputs), np.nan, np.float32)
        for row, (first, count) in enumerate(zip(at, lengths, strict=True)):
            chunk[row, :count] = x[row, first : first + count]
        y, state = session(chunk, state, lengths=lengths)
        for row, count in enumerate(lengths):
            outputs[row].append(np.asarray(y)[row, :count])
            assert not np.asarray(y)[row, count:].any()
        at += lengths
    assert_same(np.stack([np.concatenate(row) for row in outputs]), np.asarray(whole_y))
    assert_same(state, whole_state)


def test_the_state_is_saved_restored_and_reset_by_row() -> None:
    session = jp.stream("lstm", layers_of("lstm", 4, (9, 6)))
    x = sequence(3, 4)
    _, state = session(x[:, :10], session.start(3))
    saved = jax.tree.map(np.array, state)
    y, after = session(x[:, 10:17], state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))  # donated
    assert_same(session(x[:, 10:17], saved), (y, after))
    some = jax.tree.map(lambda s: jnp.asarray(s[np.array([2, 0])]), saved)
    assert_same(session(x[[2, 0], 10:17], some)[0], y[jnp.array([2, 0])])
    anew = session.reset(jax.tree.map(jnp.asarray, saved), np.array([False, True, False]))
    expected = session(x[:, 10:17], session.start(3))[0][1]
    assert_same(session(x[:, 10:17], anew)[0], y.at[1].set(expected))


def test_few_programs_are_compiled() -> None:
    session = jp.stream("gru", layers_of("gru", 4, (23,)), chunk_sizes=(2, 5, 8))
    x, state = sequence(2, 4), session.start(2)
    _, state = session(x, state)  # 43 = 5 * 8 + 3, as 5
    before = chunks.run._cache_size()
    for steps in (3, 4, 5, 6, 7, 8, 9, 12, 30):
        _, state = session(x[:, :steps], state)
    # Of 1 and 2 steps, of 8 with lengths, of 5 without.
    assert chunks.run._cache_size() <= before + 4


def test_in_a_program() -> None:
    """Under jit and scan a session is a function like others; it is a pytree itself."""
    session = jp.stream("gru", layers_of("gru", 4, (8,)), time_major=True)
    x = jnp.swapaxes(sequence(2, 4), 0, 1)

    @jax.jit
    def run(session: jp.Stream, x: jax.Array) -> Any:
        def step(state: Any, x: jax.Array) -> Any:
            y, state = session(x[None], state)
            return state, y[0]

        return jax.lax.scan(step, session.start(2), x)

    state, y = run(session, x)
    assert_same((y, state), session(x, session.start(2)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_go_through_a_chunk(dtype: str) -> None:
    """Those of what is not packed, by the function's derivative."""
    (layer,) = layers_of("lstm", 4, (6,), dtype)
    session = jp.stream("lstm", layer)
    x = sequence(2, 4, dtype, steps=5)

    def loss(run: Any, x: jax.Array, state: Any) -> jax.Array:
        leaves = jax.tree.leaves(run(x, state))
        return sum(jnp.sum(jnp.sin(leaf.astype("float32"))) for leaf in leaves)

    def function(x: jax.Array, state: Any) -> Any:
        state = jax.tree.map(lambda s: s.astype(dtype), state[0])
        return jp.lstm(x, **layer, initial_state=state, backend="native")

    gradient = jax.jit(jax.grad(loss, (1, 2)), static_argnums=0)
    state = jax.tree.map(lambda s: s + 0.5, session.start(2))
    got = gradient(session.__call__, x, state)
    assert got[1][0][1].dtype == jnp.float32
    want = gradient(function, x, state)
    close = {"rtol": 0, "atol": 3e-2 if dtype == "bfloat16" else 1e-6}
    jax.tree.map(lambda a, b: assert_allclose(np.float32(a), np.float32(b), **close), got, want)


def test_an_encoders_state_and_nothing_new() -> None:
    layers = layers_of("lstm", 4, (6,), "bfloat16")
    session = jp.stream("lstm", [layers])  # as weights.from_pytorch has them: of directions
    x = sequence(2, 4, "bfloat16")
    _, encoded = jp.lstm(x, **layers[0])
    y, state = session(x[:, :0], (encoded,))
    assert y.shape == (2, 0, 6)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    packed = jp.pack("lstm", {n: a for n, a in layers[0].items() if "kernel" in n})
    assert_same(jp.stream("lstm", layers[0] | packed)(x, state)[0].shape, (2, T, 6))


GOOD = layers_of("gru", 4, (6, 5))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reverse": True}, "reverse: expected False; got a recurrence that runs in reverse, from"),
        ({"layers": [[GOOD[0], GOOD[0]]]}, r"layers\[0\]: expected one direction; got a recurr"),
        ({"layers": []}, "layers: expected at least one layer; got none"),
        ({"layers": [GOOD[0], GOOD[0]]}, r"layers\[1\]: expected input_kernel \[6, ..\].*got \(4,"),
        ({"layers": [GOOD[0], 3]}, r"layers\[1\]: expected arrays by name, input_kernel.* got int"),
        ({"layers": GOOD[0] | {"peephole": 1}}, r"for cell 'gru'; got .*'peephole'"),
        ({"cell": "lstm"}, r"layers\[0\]: expected arrays by name.*got .*'recurrent_bias'"),
        (
            {"layers": GOOD[0] | {"bias": jnp.ones(4)}},
            r"layers\[0\]: bias: expected \[3\*H\] = \(18,\)",
        ),
        (
            {"layers": [GOOD[0], layers_of("gru", 6, (5,), "bfloat16")[0]]},
            "layers: expected arrays of one dtype; got bfloat16, float32",
        ),
        (
            {"chunk_sizes": (4, 0)},
            r"chunk_sizes: expected numbers of steps, each at least 1; got \(4, 0\)",
        ),
        ({"time_major": 1}, "time_major: expected a Python bool"),
    ],
)
def test_what_can_not_be_streamed(changes: dict, says: str) -> None:
    given = {"cell": "gru", "layers": GOOD} | changes
    with pytest.raises(ValueError, match=says):
        jp.stream(**given)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"x": jnp.ones((2, 3))},
            r"x: expected a chunk \[B, T, I\] with I = 4; got shape \(2, 3\)",
        ),
        (
            {"x": jnp.ones((2, 3, 4), "bfloat16")},
            r"got bfloat16. Cast it with .astype\('float32'\)",
        ),
        (
            {"state": ()},
            "state: expected a tuple with an entry for each of 2 layers.*got a tuple of 0",
        ),
        (
            {"state": (jnp.ones((2, 6)), jnp.ones((3, 5)))},
            r"state\[1\] h0: expected \[B, H\] = \(2, 5",
        ),
        ({"lengths": [4, 1]}, r"lengths: expected values in 0..T = 0..3; got lengths\[0\] = 4"),
        ({"resets": jnp.ones((2, 3))}, "resets: expected dtype bool; got float32"),
    ],
)
def test_chunks_that_can_not_be(changes: dict, says: str) -> None:
    session = jp.stream("gru", GOOD)
    given = {"x": jnp.ones((2, 3, 4)), "state": session.start(2)} | changes
    with pytest.raises(ValueError, match=says):
        session(given.pop("x"), given.pop("state"), **given)


def test_a_state_is_used_once() -> None:
    session, x = jp.stream("gru", GOOD), jnp.ones((2, 3, 4))
    state = session.start(2)
    session(x, state)
    rows = jnp.array([True, False])
    for again in (lambda: session(x, state), lambda: session.reset(state, rows)):
        with pytest.raises(ValueError, match=r"state: .*an earlier call\. .*jax\.device_get"):
            again()


def test_rows_to_reset() -> None:
    session = jp.stream("gru", GOOD)
    with pytest.raises(ValueError, match=r"rows: expected bool \[B\] = \(2,\); got int32 \(2,\)"):
        session.reset(session.start(2), jnp.array([0, 1]))
