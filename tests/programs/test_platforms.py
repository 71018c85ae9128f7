# SPDX-License-Identifier: Apache-2.0
"""Where a step function has no program, or no kernel, a scan is a `lax.scan`, and says so."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from programs.steps import CASES, arguments

import jax_persistent as jp
from jax_persistent import notices

H, T = 6, 5


def lowered(platform: str, backend: str | None, step: Any) -> str:
    run = lambda h: jp.scan(step, h, length=T, backend=backend)  # noqa: E731
    traced = jax.jit(run).trace(jnp.ones((3, H)))
    return str(traced.lower(lowering_platforms=(platform,)).as_text())


def one_product(h: Any, x: None) -> tuple[Any, Any]:
    del x
    return jnp.tanh(h @ jnp.eye(H)), h


def two_products(h: Any, x: None) -> tuple[Any, Any]:
    del x
    return jnp.tanh(h @ jnp.eye(H)) @ jnp.eye(H), h


NONE = "no programs of step functions for this platform; there are for cpu, cuda"
TWO = "a step has 2 exchanges, as products wait for each other; the GPU kernels have one"
REFUSED = [("tpu", one_product, NONE), ("cuda", two_products, TWO)]


@pytest.mark.parametrize(("platform", "step", "reason"), REFUSED)
def test_a_platform_says_that_it_scans(
    platform: str,
    step: Any,
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notices, "_SAID", set())
    with caplog.at_level(logging.WARNING, "jax_persistent"):
        text = lowered(platform, None, step)
    assert "while" in text
    assert "jax_persistent.program" not in text
    assert reason in caplog.text
    with pytest.raises(NotImplementedError, match=f"backend='native': {reason}"):
        lowered(platform, "native", step)
    assert "while" in lowered(platform, "reference", step)


def test_a_gpu_runs_a_step_of_one_product() -> None:
    text = lowered("cuda", "native", one_product)
    assert "jax_persistent.program" in text
    assert "while" not in text


# What GPUs have no kernel for, of tests' steps and of the library's cells; the rest of steps.CASES
# they run.
NO_KERNEL = {
    "gru_reset_before": TWO,
    "over_concatenated": "it works on vectors of 4 features and of 6; the GPU kernels take those",
    "projected": TWO,
    "normalised": "it has 2 sums or other reductions over features; the GPU kernels have products "
    "alone",
    "by_heads": "it has 1 sum or other reductions over features",
    "independent": "it has no product; the GPU kernels are built around one",
    "highway": TWO.replace("2", "3"),
    "multiplicative": TWO,
    "stacked": TWO,
    "attending": "it has 4 sums or other reductions over features",
    "halting": "it works on vectors of 1 feature and of 6",
}


@pytest.mark.parametrize("name", CASES)
def test_what_gpus_run(name: str) -> None:
    """In both passes, and for every architecture alike."""
    weights, *given = arguments(CASES[name], seed=0)
    plan = jp.explain(partial(CASES[name].step, weights), *given, device="sm_90")
    assert plan.reason.startswith(NO_KERNEL.get(name, "")), plan
    assert (plan.backend == "reference") == (name in NO_KERNEL)
    assert "lax.scan" not in plan.reason  # of the gradient


def shifting(h: Any, x: None) -> tuple[Any, Any]:
    del x
    return jnp.tanh(h @ jnp.eye(H)) + jnp.roll(h, 1, -1), h


def gated(h: Any, x: None) -> tuple[Any, Any]:
    del x
    gates = jnp.split(jnp.tanh(h @ WIDE), 5, -1)
    return sum(gates[1:], gates[0]), h


def of_two_vectors(carry: Any, x: None) -> tuple[Any, Any]:
    del x
    h, m = carry
    return (jnp.tanh(h @ jnp.eye(H)) * (m @ jnp.eye(H)), h), m


def beside_a_scalar(carry: Any, x: None) -> tuple[Any, Any]:
    del x
    h, scale = carry
    return (jnp.tanh(h @ jnp.eye(H)) * scale, scale / 2), h


def of_many_arrays(h: Any, xs: Any) -> tuple[Any, Any]:
    return jnp.tanh(sum((jnp.sin(h * x) for x in xs), h @ jnp.eye(H))), h


WIDE = jnp.arange(5.0 * H * H, dtype=jnp.float32).reshape(H, 5 * H)
ONE, MANY = jnp.ones((3, H)), jnp.ones((70, T, 3, H))
SMALL = [
    (shifting, ONE, None, "it works on vectors of 1 feature and of 5"),
    (gated, ONE, None, r"its matrix is [1*H, 5*H]; the GPU kernels take [H, G*H] with G up to 4"),
    (of_two_vectors, (ONE, ONE), None, "a step multiplies 2 vectors; the GPU kernels take"),
    (beside_a_scalar, (ONE, ONE[:, :1]), None, "it works on vectors of 1 feature and of 6"),
    (of_many_arrays, ONE, list(MANY), "it has more than 64 operands or results"),
]


@pytest.mark.parametrize(("step", "init", "xs", "reason"), SMALL)
def test_why_gpus_do_not(step: Any, init: Any, xs: Any, reason: str) -> None:
    plan = jp.explain(step, init, xs, length=T, device="sm_90")
    assert plan.backend == "reference"
    assert reason in plan.reason


def test_devices_of_explain() -> None:
    h = jnp.ones((3, H))
    assert jp.explain(one_product, h, length=T).backend == "native"
    plan = jp.explain(one_product, h, length=T, device="tpu")
    assert (plan.backend, plan.reason) == (
        "reference",
        "no kernel for platform 'tpu'; there are for cpu, cuda",
    )
    with pytest.raises(ValueError, match="device: expected a"):
        jp.explain(one_product, h, length=T, device=3)  # type: ignore[arg-type]


def test_a_single_step_is_none_to_pack_for() -> None:
    """It reads its matrices where they lie; for a gradient it is a program only if asked for."""
    R = jnp.eye(H)

    def is_program(length: int, backend: str | None, differentiated: bool) -> bool:
        def run(h: Any) -> Any:
            return jp.scan(lambda h, x: (h @ R, None), h, length=length, backend=backend)[0].sum()

        run = jax.grad(run) if differentiated else run
        return "jax_persistent.program" in jax.jit(run).lower(jnp.ones((3, H))).as_text()

    assert is_program(1, None, False)
    assert not is_program(1, None, True)
    assert is_program(1, "native", True)
    assert is_program(2, None, True)
