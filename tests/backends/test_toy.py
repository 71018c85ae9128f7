# SPDX-License-Identifier: Apache-2.0
"""A backend from outside the package, for a platform that is made up: asked, refusing, running."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.export import DisabledSafetyCheck
from numpy.testing import assert_allclose

import jax_persistent as jp
from jax_persistent.backends import reference, registry
from jax_persistent.backends.base import Backend
from jax_persistent.problem import Arrays, Problem

B, T, I, H = 2, 5, 3, 4  # noqa: E741


class ToyBackend(Backend):
    """Refuses more than four units, is slow for a single step, and gives twice what is right."""

    platform = "toy"

    def __init__(self) -> None:
        self.asked: list[Problem] = []
        self.called: list[Problem] = []

    def refusal(self, problem: Problem) -> str | None:
        self.asked.append(problem)
        return f"H = {problem.hidden}: a toy has room for 4" if problem.hidden > 4 else None

    def slower_than_reference(self, problem: Problem) -> str | None:
        return "one step" if problem.steps == 1 else None

    def call(self, problem: Problem, arrays: Arrays) -> Arrays:
        self.called.append(problem)
        results = problem.named_results(reference.run(problem, problem.flat(arrays)))
        key = "outputs" if problem.pass_ == "forward" else "d_x"
        results[key] = 2 * results[key]
        return results

    def plan(self, problem: Problem, device: Any) -> dict[str, Any]:
        reason = self.refusal(problem)
        ours = {"residency": "a shelf", "workers": 7, "packed_bytes": 8}
        return {"runs": reason is None, "explanation": reason or "on a shelf"} | ours


def no_devices() -> Any:
    raise RuntimeError("a made-up platform has no devices")


@pytest.fixture
def toy() -> Iterator[ToyBackend]:
    jax.devices()  # before jax hears of the platform: it is not to be looked for
    jax.extend.backend.register_backend_factory("toy", no_devices, priority=-100)
    backend = ToyBackend()
    registry.register(backend)
    yield backend
    registry._BACKENDS.pop("toy")


def weights(hidden: int = H) -> tuple[jax.Array, jax.Array]:
    draw = np.random.default_rng(hidden)
    sizes = (I, 4 * hidden), (hidden, 4 * hidden)
    w, r = (jnp.asarray(0.5 * draw.standard_normal(s), jnp.float32) for s in sizes)
    return w, r


def inputs(steps: int = T) -> jax.Array:
    return jnp.linspace(-1.0, 1.0, B * steps * I).reshape(B, steps, I)


def on_toy(function: Any, *operands: Any) -> Any:
    """What the program for the made-up platform computes, run on the platform that is here."""
    anywhere = [DisabledSafetyCheck.platform()]
    jitted = jax.jit(function)
    exported = jax.export.export(jitted, platforms=["toy"], disabled_checks=anywhere)(*operands)
    return jax.jit(exported.call)(*operands)


def test_it_is_asked_about_the_problem_and_runs_it(toy: ToyBackend) -> None:
    w, r = weights()
    outputs = on_toy(lambda x: jp.lstm(x, w, r, reverse=True)[0], inputs())
    expected = jp.lstm(inputs(), w, r, reverse=True, backend="reference")[0]
    assert_allclose(outputs, 2 * expected, rtol=1e-6)
    (problem,) = toy.called
    assert problem in toy.asked
    assert (problem.batch, problem.steps, problem.inputs, problem.hidden) == (B, T, I, H)
    assert (problem.cell.name, problem.dtype, problem.directions) == ("lstm", "float32", "reverse")


def test_it_runs_both_passes_of_a_gradient(toy: ToyBackend) -> None:
    w, r = weights()

    def gradient(backend: str | None, x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jp.lstm(x, w, r, backend=backend)[0].sum())(x)

    found = on_toy(partial(gradient, None), inputs())
    assert_allclose(found, 2 * gradient("reference", inputs()), rtol=1e-5)
    assert [problem.pass_ for problem in toy.called] == ["forward", "backward"]


def test_what_it_refuses_is_the_reference_or_an_error_with_its_reason(toy: ToyBackend) -> None:
    w, r = weights(5)
    outputs = on_toy(lambda x: jp.lstm(x, w, r)[0], inputs())
    assert_allclose(outputs, jp.lstm(inputs(), w, r, backend="reference")[0], rtol=1e-6)
    assert toy.asked
    assert not toy.called
    message = r"backend='native': H = 5: a toy has room for 4\. Use backend=None"
    with pytest.raises(NotImplementedError, match=message):
        on_toy(lambda x: jp.lstm(x, w, r, backend="native")[0], inputs())


def test_where_it_would_be_slower_it_runs_only_if_asked_for(toy: ToyBackend) -> None:
    w, r = weights()
    on_toy(lambda x: jp.lstm(x, w, r)[0], inputs(1))
    assert not toy.called
    on_toy(lambda x: jp.lstm(x, w, r, backend="native")[0], inputs(1))
    assert len(toy.called) == 1


def test_plan_knows_it_by_its_platform(toy: ToyBackend) -> None:
    found = jp.plan("gru", H, B, device="toy")
    assert str(found) == "native: on a shelf"
    assert (found.residency, found.workers, found.packed_bytes) == ("a shelf", 7, 8)
    assert str(jp.plan("gru", 9, B, device="toy")) == "reference: H = 9: a toy has room for 4"


def test_without_it_the_platform_is_unknown() -> None:
    with pytest.raises(ValueError, match=r"device: expected a jax\.Device, .*; got 'toy'"):
        jp.plan("gru", H, B, device="toy")
