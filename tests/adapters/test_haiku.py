# SPDX-License-Identifier: Apache-2.0
"""The unrolls give what Haiku's give: parameters, values, gradients, training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax_problems import (
    MARKS,
    assert_trees_close,
    assert_trees_equal,
    compiled,
    value_and_gradients,
)

T, B, I, H = 5, 3, 4, 6  # noqa: E741
KEY = jax.random.key(1)
X = jax.random.normal(KEY, (T, B, I))
RESETS = jax.random.bernoulli(KEY, 0.4, (T, B))


@pytest.fixture(scope="module")
def loaded() -> Any:
    """Haiku and the adapter, which only the worker that runs this file pays for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import haiku

        from jax_persistent import haiku as adapter
    return SimpleNamespace(hk=haiku, adapter=adapter)


@pytest.fixture(autouse=True)
def loosely() -> Iterator[None]:
    """As Haiku wants it: it mixes dtypes and ranks."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@dataclass(frozen=True)
class Case:
    """One core and one unroll of it; `runs` says as what."""

    core: str
    runs: str
    batch_major: bool = False
    reverse: bool = False
    resets: bool = False
    all_states: bool = False
    single_bias: bool = False
    static: bool = False
    gradients: bool = False  # whether they are compared too

    def __str__(self) -> str:
        flags = [name for name, value in vars(self).items() if value is True]
        return "-".join([self.core, *flags])


CASES = (
    Case("LSTM", "kernel", batch_major=True, reverse=True, resets=True, gradients=True),
    Case("LSTM", "kernel", static=True),
    Case("LSTM", "jp.scan", all_states=True, batch_major=True),
    Case("VanillaRNN", "kernel", resets=True, gradients=True),
    Case("VanillaRNN", "kernel", single_bias=True, static=True, batch_major=True, resets=True),
    Case("GRU", "jp.scan", reverse=True, gradients=True),
    Case("GRU", "jp.scan", batch_major=True, resets=True, static=True),
    Case("DeepRNN", "jp.scan", resets=True, batch_major=True),
    Case("DeepRNN", "neither", static=True),
)


def made(hk: Any, case: Case) -> Any:
    if case.core == "DeepRNN":
        core = hk.DeepRNN([hk.LSTM(H), jax.nn.relu, hk.GRU(H)])
    else:
        options = {"double_bias": not case.single_bias} if case.core == "VanillaRNN" else {}
        core = getattr(hk, case.core)(H, **options)
    return hk.ResetCore(core) if case.resets else core


def unrolled(hk: Any, by: Any, case: Case) -> Any:
    """(init, apply) of an unroll by `by`, which is Haiku or the adapter."""

    def run(x: Any) -> Any:
        core = made(hk, case)
        resets = RESETS
        if case.batch_major:
            x, resets = x.swapaxes(0, 1), resets.swapaxes(0, 1)
        given = (x, resets) if case.resets else x
        how = {"time_major": not case.batch_major}
        if case.static:
            return by.static_unroll(core, given, core.initial_state(B), **how)
        how |= {"reverse": case.reverse, "return_all_states": case.all_states}
        return by.dynamic_unroll(core, given, core.initial_state(B), **how)

    return hk.without_apply_rng(hk.transform(run))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_haiku(loaded: Any, case: Case) -> None:
    own, ours = (unrolled(loaded.hk, by, case) for by in (loaded.hk, loaded.adapter))
    params = own.init(KEY, X)
    if not case.static:
        assert_trees_equal(ours.init(KEY, X), params)
    program = str(jax.make_jaxpr(ours.apply)(params, X))
    marks = {name: mark in program for name, mark in MARKS.items()}
    assert [name for name, there in marks.items() if there] == (
        [] if case.runs == "neither" else [case.runs]
    )
    compute = value_and_gradients if case.gradients else compiled
    assert_trees_close(compute(ours.apply, params, X), compute(own.apply, params, X))


def test_random_numbers_are_haikus(loaded: Any) -> None:
    """A core that draws at each step; the key is a part of the carry."""
    hk = loaded.hk

    def run(by: Any) -> Any:
        def unrolled(x: Any) -> Any:
            linear = hk.Linear(H)

            def noisy(x: Any, h: Any) -> Any:
                h = jnp.tanh(linear(x) + h + hk.dropout(hk.next_rng_key(), 0.5, h))
                return h, h

            return by.dynamic_unroll(noisy, x, jnp.ones((B, H)))

        return hk.transform(unrolled)

    params = jax.jit(run(hk).init)(KEY, X)
    found, expected = (
        compiled(run(by).apply, params, jax.random.key(3), X) for by in (loaded.adapter, hk)
    )
    assert_trees_close(found, expected)


def lstm(hk: Any, by: Any, hidden: int = H) -> Any:
    def run(x: Any, state: Any = None) -> Any:
        core = hk.LSTM(hidden)
        return by.dynamic_unroll(
            core, x, core.initial_state(x.shape[1]) if state is None else state
        )

    return hk.without_apply_rng(hk.transform(run))


def test_what_reads_parameters_is_left_to_every_call(loaded: Any) -> None:
    hk = loaded.hk

    def halved(next_getter: Any, value: Any, context: Any) -> Any:
        return next_getter(0.5 * value)

    def run(by: Any) -> Any:
        def inside(x: Any) -> Any:
            core = hk.LSTM(H)
            with hk.custom_getter(halved):
                return by.dynamic_unroll(core, x, core.initial_state(B))

        return hk.without_apply_rng(hk.transform(inside))

    params = run(hk).init(KEY, X)
    ours = run(loaded.adapter)
    assert "jax_persistent_scan[" in str(jax.make_jaxpr(ours.apply)(params, X))
    assert_trees_close(compiled(ours.apply, params, X), compiled(run(hk).apply, params, X))


def test_calls_without_a_kernel(loaded: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded.adapter.notices._SAID.clear()
    caplog.set_level("INFO", logger="jax_persistent")
    hk, adapter = loaded.hk, loaded.adapter
    params = lstm(hk, hk).init(KEY, X)
    ours = lstm(hk, adapter)
    one = jax.tree.map(lambda a: a[0], hk.LSTMState(jnp.zeros((B, H)), jnp.zeros((B, H))))
    jax.eval_shape(ours.apply, params, X[:, 0], one)
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    jax.eval_shape(ours.apply, narrow, X)
    jax.eval_shape(unrolled(hk, adapter, Case("DeepRNN", "", static=True)).init, KEY, X)
    first, second, third = caplog.messages
    assert first.startswith("jax_persistent.haiku runs a jax_persistent.scan: ")
    assert "one array [T, B, I] with a step and a row" in first
    assert "input_kernel: expected float32, the dtype of x; got bfloat16" in second
    assert third.startswith("jax_persistent.haiku runs Haiku's own static_unroll: DeepRNN has no")


def test_another_haiku_runs_its_own_unroll(
    loaded: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.adapter, "stateful", ModuleType("another"))
    assert loaded.adapter._loops()[None] is loaded.hk.dynamic_unroll
    assert caplog.messages == [
        "jax_persistent.haiku runs a lax.scan: this Haiku's unroll is another: another has no jax"
    ]


def test_training_takes_the_same_course(loaded: Any) -> None:
    optimizer = optax.adam(1e-2)

    def losses(by: Any) -> list[float]:
        net = lstm(loaded.hk, by)

        @jax.jit
        def update(params: Any, state: Any) -> Any:
            loss = lambda params: jnp.mean((net.apply(params, X)[0] - 1) ** 2)  # noqa: E731
            found, gradients = jax.value_and_grad(loss)(params)
            changes, state = optimizer.update(gradients, state)
            return found, optax.apply_updates(params, changes), state

        params = net.init(KEY, X)
        state, found = optimizer.init(params), []
        for _ in range(4):
            value, params, state = update(params, state)
            found.append(float(value))
        return found

    found = losses(loaded.adapter)
    assert found[-1] < found[0]
    np.testing.assert_allclose(found, losses(loaded.hk), rtol=1e-5)
