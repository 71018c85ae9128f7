# SPDX-License-Identifier: Apache-2.0
"""What a program is spared: operations that another one takes along, and values kept twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jax_persistent as jp
from jax_persistent.programs import derivative, jaxprs
from jax_persistent.programs.program import OPERATIONS, Program, program_of

H = 5
MOVES = ("load_operand", "load_buffer", "store_y", "store_buffer")
# A step's result from its carry h and its x, and the operations that it takes.
STEPS: dict[str, tuple[Callable[[Array, Array], Array], list[str]]] = {
    "plus zeros": (lambda h, x: (jnp.zeros(H) + x) * (h - jnp.zeros(H)), ["mul"]),
    "times ones": (lambda h, x: jnp.ones(H) * x / jnp.ones(H) + h, ["add"]),
    "of a constant": (lambda h, x: jnp.full(H, 2.0) * x - h, ["mul_sub"]),
    "plus the negative": (lambda h, x: x + -h, ["sub"]),
    "less the negative": (lambda h, x: x - -h, ["add"]),
    "negative difference": (lambda h, x: -(x - h), ["sub"]),
    "negative factors": (lambda h, x: (-x) * (-h), ["mul"]),
    "less a product": (lambda h, x: x - jnp.tanh(h) * x, ["sub_mul", "tanh"]),
    "plus a negative product": (lambda h, x: (-x) * h + x, ["sub_mul"]),
    "product less": (lambda h, x: h * x - x, ["mul_sub"]),
    "product plus": (lambda h, x: x + h * x, ["mul_add"]),
    "square plus": (lambda h, x: x * x + h, ["mul_add"]),
    "two products": (lambda h, x: h * x + h * h, ["mul", "mul_add"]),
    "chain": (lambda h, x: (h * x + h) * x + h, ["mul_add", "mul_add"]),
    "product read twice": (lambda h, x: (h * x + h) / (h * x), ["add", "div", "mul"]),
    "sum with a factor": (
        lambda h, x: h * (x - h.sum() * h).sum(),
        ["mul", "reduce", "reduce", "sub_mul"],
    ),
    "sum of negatives": (lambda h, x: h * (-x).sum(), ["mul", "neg", "reduce"]),
}


def program(step: Callable[[Array, Array], Array]) -> Program:
    row = jax.ShapeDtypeStruct((H,), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda h, x: (step(h, x),))(row, row)
    return program_of(jaxprs.inlined(jaxpr, custom=True), 0, 1)


def operations(step: Callable[[Array, Array], Array]) -> list[str]:
    stages = program(step).stages
    code = [OPERATIONS[i[0]] for loops in stages for loop in loops for i in loop.code]
    return sorted(name for name in code if name not in MOVES)


@pytest.mark.parametrize("name", STEPS)
def test_operations_that_another_takes_along(name: str) -> None:
    step, expected = STEPS[name]
    assert operations(step) == expected


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", STEPS)
def test_same_values(name: str, rows: int) -> None:
    step = jax.vmap(STEPS[name][0])
    draw = np.random.default_rng(7)
    h, x = (jnp.asarray(draw.normal(1, 0.3, (*t, rows, H)), jnp.float32) for t in ((), (4,)))

    def run(scan: Any) -> Any:
        def both(h: Array, x: Array) -> tuple[Array, Array]:
            h = jnp.tanh(step(h, x))
            return h, h

        return jax.jit(lambda h, x: scan(both, h, x))(h, x)

    found = run(lambda *of: jp.scan(*of, backend="native"))
    for a, b in zip(found, run(jax.lax.scan), strict=True):
        np.testing.assert_allclose(a, b, 2e-6, 1e-6)


def test_sums_do_not_wait_for_their_factors() -> None:
    """As in the derivative of a norm: both sums are of what there is before either."""

    def norm(x: Array) -> Array:
        x = x - x.mean()
        return x * jax.lax.rsqrt(jnp.square(x).mean() + 1e-5)

    def derivative(h: Array, x: Array) -> Array:
        return jax.vjp(norm, x)[1](h)[0]

    plain = program(lambda h, x: h * x.sum())
    assert len(program(lambda h, x: h * (h * x.sum() - x).sum()).stages) == len(plain.stages)
    # What is summed; the mean; the variance, and both sums of the derivative.
    assert len(program(derivative).stages) == 3


def kept(step: Callable[..., Any], *widths: int) -> list[int]:
    """How many features each value has that a step of (h, x) keeps for its derivative."""
    rows = [jax.ShapeDtypeStruct((width,), jnp.float32) for width in widths]
    jaxpr = jaxprs.inlined(jax.make_jaxpr(lambda *of: [step(*of)])(*rows), custom=True)
    found = derivative.backward(jaxpr, 0, 1)
    return [a.shape[0] for a in jaxprs.avals_of(found.forward.jaxpr.outvars[1:])]


def test_a_function_written_twice_is_kept_once() -> None:
    def highway(h: Array, x: Array) -> Array:
        return jax.nn.sigmoid(x + h) * jnp.tanh(x) + (1 - jax.nn.sigmoid(x + h)) * h

    assert kept(highway, H, H) == [H] * 3  # h, the gate, tanh


def test_no_part_is_kept_beside_the_whole() -> None:
    def gated(h: Array, x: Array) -> Array:
        r, z = jnp.split(jax.nn.sigmoid(x), 2)
        return z * h + jnp.tanh(r * h)

    assert Counter(kept(gated, H, 2 * H)) == {H: 2, 2 * H: 1}  # h, tanh; both gates


def test_merged_equations_differ_in_no_parameter() -> None:
    def step(x: Array) -> list[Array]:
        return [x.sum(0), x.sum(1), x.sum(0), x + 1, x + 1, x + 2]

    jaxpr = jax.make_jaxpr(step)(jnp.zeros((2, 3)))
    found = jaxprs.merged(jaxpr)
    assert len(found.jaxpr.eqns) == len(jaxpr.jaxpr.eqns) - 2
    x = jnp.arange(6.0).reshape(2, 3)
    for a, b in zip(jaxprs.function_of(found)(x), step(x), strict=True):
        np.testing.assert_array_equal(a, b)
