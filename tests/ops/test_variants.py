# SPDX-License-Identifier: Apache-2.0
"""`lstm` with peepholes and `gru` reset before the product: the library's cells in the functions.

Against a loop in plain numpy, row by row, over lengths, resets, reverse, layout and dtype.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import mesh_of, put

import jax_persistent as jp

T, B, I, H = 5, 3, 4, 6  # noqa: E741
VARIANTS = ("lstm", "gru")
each_variant = pytest.mark.parametrize("variant", VARIANTS)
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2, "float64": 1e-12}


def arguments(variant: str, dtype: Any = np.float32, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    gates, states = (4, 2) if variant == "lstm" else (3, 1)

    def normal(*shape: int) -> Any:
        return jnp.asarray(draw.normal(size=shape) * 0.6, dtype)

    given = {
        "x": normal(B, T, I),
        "input_kernel": normal(I, gates * H),
        "recurrent_kernel": normal(H, gates * H),
        "bias": normal(gates * H),
        "initial_state": tuple(normal(B, H) for _ in range(states)),
        "reset_state": tuple(normal(B, H) for _ in range(states)),
    }
    extra = {"peephole": normal(3 * H)} if variant == "lstm" else {"recurrent_bias": normal(3 * H)}
    return given | extra


def call(variant: str, given: dict[str, Any], *, time_major: bool = False, **how: Any) -> Any:
    """The package's function on batch-major arrays -> (batch-major outputs, states)."""
    given = {**given, **how}
    if given.get("resets") is None:
        given.pop("reset_state", None)
    if variant == "gru":
        states = ("initial_state", "reset_state")
        given |= {n: given[n][0] for n in states if isinstance(given.get(n), tuple)}
        given.setdefault("reset_after", False)
    if time_major:
        given["x"] = jnp.swapaxes(given["x"], 0, 1)
        if given.get("resets") is not None:
            given["resets"] = given["resets"].T
    function = {"lstm": jp.lstm, "gru": jp.gru}[variant]
    outputs, states = function(**given, time_major=time_major)
    outputs = jnp.swapaxes(outputs, 0, 1) if time_major else outputs
    return outputs, states if variant == "lstm" else (states,)


def sig(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def lstm_step(q: Any, x: Any, h: Any, c: Any) -> Any:
    i, f, g, o = np.split(x @ q["input_kernel"] + h @ q["recurrent_kernel"] + q["bias"], 4)
    p_i, p_f, p_o = np.split(q["peephole"], 3)
    c = sig(f + p_f * c) * c + sig(i + p_i * c) * np.tanh(g)
    return sig(o + p_o * c) * np.tanh(c), c


def gru_step(q: Any, x: Any, h: Any) -> Any:
    W_r, W_z, W_n = np.split(q["input_kernel"], 3, -1)
    R_r, R_z, R_n = np.split(q["recurrent_kernel"], 3, -1)
    b_r, b_z, b_n = np.split(q["bias"] + q["recurrent_bias"], 3)
    r, z = sig(x @ W_r + h @ R_r + b_r), sig(x @ W_z + h @ R_z + b_z)
    n = np.tanh(x @ W_n + b_n + (r * h) @ R_n)
    return ((1 - z) * n + z * h,)


def by_hand(variant: str, given: Any, *, lengths: Any, resets: Any, reverse: bool) -> Any:
    q = jax.tree.map(lambda a: np.asarray(a, np.float64), given)
    step = {"lstm": lstm_step, "gru": gru_step}[variant]
    outputs, finals = np.zeros((B, T, H)), []
    for b in range(B):
        state = [s[b] for s in q["initial_state"]]
        steps = range(T if lengths is None else lengths[b])
        for t in reversed(steps) if reverse else steps:
            if resets is not None and resets[b, t]:
                state = [s[b] for s in q["reset_state"]]
            state = step(q, q["x"][b, t], *state)
            outputs[b, t] = state[0]
        finals.append(state)
    return outputs, tuple(np.array(s) for s in zip(*finals, strict=True))


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, tolerance, tolerance)


LENGTHS = np.array([3, 0, 5], np.int32)
RESETS = np.random.default_rng(7).random((B, T)) < 0.4
CROSSED = list(itertools.product((None, LENGTHS), (None, RESETS), (False, True), (False, True)))


@pytest.mark.parametrize("number", range(len(CROSSED)))
@each_variant
def test_it_is_the_loop(variant: str, number: int) -> None:
    """Each of the crossings in one of the dtypes, and in the other with the layout turned."""
    lengths, resets, reverse, time_major = CROSSED[number]
    dtype = ("float32", "bfloat16")[number.bit_count() % 2]
    given = arguments(variant, dtype, number)
    how = {"lengths": lengths, "resets": resets, "reverse": reverse}
    found = call(variant, given, **how, time_major=time_major, backend="native")
    assert {a.dtype.name for a in jax.tree.leaves(found)} == {dtype}
    assert_close(found, by_hand(variant, given, **how), TOLERANCE[dtype])


@each_variant
def test_float64_is_the_plain_scan(variant: str) -> None:
    how: dict[str, Any] = {"lengths": LENGTHS, "resets": RESETS, "reverse": True}
    with jax.enable_x64(True):
        given = arguments(variant, np.float64)
        found = call(variant, given, **how)
        with pytest.raises(NotImplementedError, match="float64"):
            call(variant, given, **how, backend="native")
    assert_close(found, by_hand(variant, given, **how), TOLERANCE["float64"])


@each_variant
def test_gradients_are_those_of_the_reference(variant: str) -> None:
    """Of all that is given; what x holds in the padding, a NaN here, has none."""
    given = arguments(variant)
    given["x"] = jnp.where((np.arange(T) < LENGTHS[:, None])[:, :, None], given["x"], jnp.nan)

    def loss(given: Any, backend: str) -> Any:
        how = {"lengths": LENGTHS, "resets": RESETS, "backend": backend}
        results = jax.tree.leaves(call(variant, given, **how))
        return sum((jnp.sin(r) * (n + 1)).sum() for n, r in enumerate(results))

    found, expected = (jax.jit(jax.grad(loss), static_argnums=1)(given, b) for b in BACKENDS)
    assert_close(found, expected, 2e-5)
    assert all(np.abs(a).max() > 0 for a in jax.tree.leaves(found))


BACKENDS = ("native", "reference")


def test_without_peepholes_it_is_the_lstm() -> None:
    given = arguments("lstm") | {"peephole": None}
    zeros = {**given, "peephole": jnp.zeros(3 * H)}
    how: dict[str, Any] = {"lengths": LENGTHS, "resets": RESETS, "reverse": True}
    assert_close(call("lstm", zeros, **how), call("lstm", given, **how), 2e-6)


def test_where_nothing_is_reset_both_grus_are_one() -> None:
    """r = 1: a bias of its own that is large."""
    given = arguments("gru")
    given["bias"] = given["bias"].at[:H].set(40)
    assert_close(call("gru", given), call("gru", given, reset_after=True), 2e-6)


@each_variant
def test_what_may_be_left_out(variant: str) -> None:
    given = arguments(variant)
    del given["reset_state"]
    reset = {**given, "resets": RESETS}
    zeros = {**reset, "reset_state": jax.tree.map(jnp.zeros_like, given["initial_state"])}
    assert_close(call(variant, reset), call(variant, zeros), 0)
    fewer = {n: a for n, a in given.items() if n in ("x", "input_kernel", "recurrent_kernel")}
    fewer |= {"peephole": given["peephole"]} if variant == "lstm" else {}
    none = {n: a if n in fewer else jax.tree.map(jnp.zeros_like, a) for n, a in given.items()}
    assert_close(call(variant, fewer), call(variant, none), 0)


@each_variant
def test_nothing_to_run(variant: str) -> None:
    given = arguments(variant)
    outputs, states = call(variant, {**given, "x": given["x"][:, :0]})
    assert outputs.shape == (B, 0, H)
    assert_close(states, given["initial_state"], 0)


@each_variant
def test_export_of_any_size(variant: str) -> None:
    given = arguments(variant)
    given = {n: given[n] for n in given if n not in ("initial_state", "reset_state")}
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)
    shapes["x"] = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"b, t, {I}"), np.float32)
    exported = jax.export.export(jax.jit(lambda given: call(variant, given)))(shapes)
    assert_close(exported.call(given), call(variant, given), 2e-6)


@each_variant
@pytest.mark.parametrize("axis", [0, None])
def test_vmap(variant: str, axis: int | None) -> None:
    """Over everything, or over weights alone."""
    several = [arguments(variant, seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *several)
    stacked["x"] = stacked["x"] if axis == 0 else several[1]["x"]
    axes = dict.fromkeys(stacked, 0) | {"x": axis}
    how: dict[str, Any] = {"lengths": LENGTHS, "resets": RESETS, "backend": "native"}
    found = jax.jit(jax.vmap(lambda given: call(variant, given, **how), (axes,)))(stacked)
    expected = call(variant, several[1], **how)
    assert_close(jax.tree.map(lambda a: a[1], found), expected, 2e-6)


@each_variant
def test_a_batch_split_along_an_explicit_axis(variant: str) -> None:
    given = arguments(variant)
    rows = {
        n: jax.tree.map(lambda a: jnp.tile(a[:2], (2,) + (1,) * (a.ndim - 1)), given[n])
        for n in ("x", "initial_state")
    }
    mesh = mesh_of(explicit=True, data=2)
    split = put(mesh, given) | put(mesh, rows, "data")
    found = jax.jit(lambda given: call(variant, given))(split)
    assert_close(found, call(variant, {**given, **rows}), 2e-6)


def test_wrong_arguments() -> None:
    for value, words in (
        (jnp.zeros(3 * H + 1), r"peephole: expected \[3\*H\] = \(18,\) .*; got shape \(19,\)"),
        (jnp.zeros((3, H)), r"peephole: expected \[3\*H\] = \(18,\) .*; got shape \(3, 6\)"),
        (jnp.zeros(3 * H, jnp.bfloat16), "peephole: expected float32, .*; got bfloat16"),
        ("none", "peephole: expected an array of numbers; got str"),
    ):
        with pytest.raises(ValueError, match=words):
            call("lstm", arguments("lstm") | {"peephole": value})
    with pytest.raises(ValueError, match="reset_after: expected a Python bool; got 'no'"):
        call("gru", arguments("gru"), reset_after="no")
    for variant in VARIANTS:
        given = arguments(variant)
        with pytest.raises(ValueError, match=r"lengths: expected values in 0\.\.T"):
            call(variant, given, lengths=[1, 2, 6])
        with pytest.raises(ValueError, match="recurrent_kernel: expected"):
            call(variant, {**given, "recurrent_kernel": given["recurrent_kernel"][:, 1:]})
