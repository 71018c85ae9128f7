# SPDX-License-Identifier: Apache-2.0
"""Resets: what they mean in words, beside the crossings of test_recurrence and test_transforms."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close, collectives, mesh_of, put
from numpy.testing import assert_allclose, assert_array_equal

import jax_persistent as jp

from . import oracle
from .problems import Case, call, problem

T, B, I, H = 7, 3, 4, 6  # noqa: E741
BACKENDS = ("native", "reference")
backends = pytest.mark.parametrize("backend", BACKENDS)
cells = pytest.mark.parametrize("cell", oracle.CELLS)
both_ways = pytest.mark.parametrize("reverse", [False, True])


def params(cell: str, **changes: Any) -> dict[str, Any]:
    case = Case(cell, sizes=(T, B, I, H), resets=True, reset_state=True)
    return {**problem(case).params, **changes}


def without(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


def at(*steps: int) -> np.ndarray:
    """Resets of every row at these steps."""
    return np.isin(np.arange(T), steps)[None, :].repeat(B, 0)


@cells
@both_ways
@backends
def test_sequences_packed_end_to_end_are_run_apart(cell: str, reverse: bool, backend: str) -> None:
    """Two sequences in one row, the second from step 4 on, each as if it were alone."""
    given = without(params(cell), "h0", "c0", "reset_h", "reset_c")
    cut = 4
    first = 3 if reverse else cut  # the step of the later run that it begins with
    packed = call(cell, given, resets=at(first), reverse=reverse, backend=backend)
    for part in (slice(0, cut), slice(cut, T)):
        alone = call(cell, {**given, "x": given["x"][:, part]}, reverse=reverse, backend=backend)
        assert_allclose(packed["outputs"][:, part], alone["outputs"], rtol=2e-6, atol=2e-6)


@cells
@backends
def test_the_reset_state_stands_in_for_whatever_was_there(cell: str, backend: str) -> None:
    """At a row's first step in place of the initial state, which then has no gradient."""
    given = params(cell)

    def loss(q):
        results = call(cell, q, resets=at(0), backend=backend)
        return sum(jnp.sin(v).sum() for v in results.values()), results

    (_, results), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(given)
    moved = {**without(given, "h0", "c0", "reset_h", "reset_c"), "h0": given["reset_h"]}
    if cell == "lstm":
        moved["c0"] = given["reset_c"]
    expected = call(cell, moved, backend=backend)
    close(results, expected)
    assert_array_equal(grads["h0"], 0)
    assert np.abs(grads["reset_h"]).min() > 0


@cells
@both_ways
@backends
def test_no_gradient_flows_across(cell: str, reverse: bool, backend: str) -> None:
    given = without(params(cell), "reset_h", "reset_c")
    later = slice(0, 3) if reverse else slice(4, T)  # in the order in which steps run

    def loss(x):
        resets = at(2 if reverse else 4)
        outputs = call(cell, {**given, "x": x}, resets=resets, reverse=reverse, backend=backend)
        return outputs["outputs"][:, later].sum()

    found = np.asarray(jax.jit(jax.grad(loss))(given["x"]))
    seen = np.zeros(T, bool)
    seen[later] = True
    assert_array_equal(found[:, ~seen], 0)
    assert np.abs(found[:, seen]).max() > 0


@cells
@both_ways
@backends
def test_a_reset_in_the_padding_is_none(cell: str, reverse: bool, backend: str) -> None:
    given, lengths = params(cell), np.array([3, T, 0], np.int32)
    resets = at(2, 5)
    inside = resets & (np.arange(T)[None, :] < lengths[:, None])
    assert (inside != resets).any()

    def run(q, resets):
        results = call(cell, q, lengths=lengths, resets=resets, reverse=reverse, backend=backend)
        return sum(jnp.sin(v).sum() for v in results.values()), results

    run = jax.jit(jax.value_and_grad(run, has_aux=True))
    jax.tree.map(assert_array_equal, run(given, resets), run(given, inside))


@cells
@backends
def test_no_reset_is_no_reset(cell: str, backend: str) -> None:
    given = without(params(cell), "reset_h", "reset_c")
    found = call(cell, given, resets=np.zeros((B, T), bool), backend=backend)
    # Not a bit of a kernel's result changes; the reference is another program.
    close(found, call(cell, given, backend=backend), 0.0 if backend == "native" else 2e-6)


@pytest.mark.parametrize("mapped", ["resets", "reset_h", "both"])
def test_vmap(mapped: str) -> None:
    given, resets = params("gru"), np.stack([at(1, 4), at(0, 5)])
    states = np.stack([given["reset_h"], -given["reset_h"]])
    axes = None if mapped == "resets" else 0, None if mapped == "reset_h" else 0
    state = states if axes[0] == 0 else states[0]
    which = resets if axes[1] == 0 else resets[0]

    def gradient(backend, state, resets):
        def loss(q):
            return jnp.sin(call("gru", q, resets=resets, backend=backend)["outputs"]).sum()

        return jax.grad(loss)({**given, "reset_h": state})

    run = {b: jax.jit(jax.vmap(partial(gradient, b), axes)) for b in BACKENDS}
    close(run["native"](state, which), run["reference"](state, which), 2e-5)


def test_over_a_mesh_and_under_checkpoint() -> None:
    mesh = mesh_of(data=8)
    case = Case("lstm", sizes=(T, 16, I, H), resets=True, reset_state=True)
    p = problem(case)

    def loss(q, resets):
        run = jax.checkpoint(lambda q: call("lstm", q, resets=resets, backend="native"))
        return sum(jnp.sin(v).sum() for v in run(q).values())

    rows = {name for name in p.params if "kernel" not in name and "bias" not in name}
    split = {n: put(mesh, v, "data") if n in rows else v for n, v in p.params.items()}
    gradient = jax.jit(jax.grad(loss))
    compiled = gradient.lower(split, put(mesh, p.resets, "data")).compile()
    assert set(collectives(compiled)) == {"all-reduce"}
    close(compiled(split, put(mesh, p.resets, "data")), gradient(p.params, p.resets), 2e-5)


@cells
def test_wrong_resets(cell: str) -> None:
    given = without(params(cell), "reset_h", "reset_c")
    for wrong in (np.zeros((B, T + 1), bool), np.zeros((T, B), bool), np.zeros(B, bool)):
        with pytest.raises(ValueError, match=r"resets: expected \[B, T\] = \(3, 7\)"):
            call(cell, given, resets=wrong)
    for dtype in (np.int32, np.float32):
        with pytest.raises(ValueError, match=r"resets: expected dtype bool.*resets != 0"):
            call(cell, given, resets=np.zeros((B, T), dtype))
    function = {"lstm": jp.lstm, "gru": jp.gru}.get(cell, jp.elman)
    with pytest.raises(ValueError, match=r"resets: expected \[T, B\] = \(3, 7\).*time_major=True"):
        function(
            given["x"],
            given["input_kernel"],
            given["recurrent_kernel"],
            resets=np.zeros((T, B), bool),
            time_major=True,
        )


@cells
def test_wrong_reset_states(cell: str) -> None:
    given = params(cell)
    with pytest.raises(ValueError, match="reset_state: expected with resets"):
        call(cell, given)
    for wrong in (np.zeros((B, H + 1), np.float32), np.zeros((B, H), np.float16)):
        with pytest.raises(ValueError, match="reset_state h0: expected"):
            call(cell, {**given, "reset_h": wrong}, resets=at(1))
