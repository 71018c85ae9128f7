# SPDX-License-Identifier: Apache-2.0
"""What one program's step is made of: heads as one operation, products apart from the carry."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

import jax_persistent as jp

T, B, I, P = 4, 3, 5, 2  # noqa: E741


def heads(matrices: Array, h: Array, x: Array) -> Any:
    """Products by heads [K, F, F], beside operations on all of their features."""
    of_heads = jnp.einsum("bkf,kfg->bkg", h.reshape(B, *matrices.shape[:2]), matrices)
    joined = of_heads.reshape(h.shape)
    after = jnp.tanh(joined + x) * jax.nn.sigmoid(joined - h)
    return after, of_heads[:, 1]


def arguments(count: int, features: int) -> tuple[Array, Array, Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    matrices = jax.random.normal(keys[0], (count, features, features))
    h = jax.random.normal(keys[1], (B, count * features))
    return matrices, h, jax.random.normal(keys[2], (T, B, count * features))


def close(found: Array, expected: Array) -> None:
    """To float32's rounding of the array's largest value, of which the others are differences."""
    largest = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)


def check(step: Any, weights: Any, init: Any, xs: Any) -> None:
    def both(scan: Any, *given: Any) -> Any:
        def run(weights: Any, init: Any, xs: Any) -> Any:
            return scan(partial(step, weights), init, xs)

        def loss(*given: Any) -> Array:
            leaves = jax.tree.leaves(run(*given))
            return sum((jnp.cos(jnp.arange(r.size)).reshape(r.shape) * r).sum() for r in leaves)

        return run(*given), jax.grad(loss, (0, 1, 2))(*given)

    found = jax.jit(partial(both, partial(jp.scan, backend="native")))(weights, init, xs)
    expected = jax.jit(partial(both, lax.scan))(weights, init, xs)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(("count", "features"), [(2, 4), (3, 6), (2, 3), (4, 1), (2, 34)])
def test_heads(count: int, features: int) -> None:
    check(heads, *arguments(count, features))


def test_heads_are_one_operation() -> None:
    def text(count: int) -> str:
        matrices, h, xs = arguments(count, 4)
        return jp.explain(partial(_without_a_head, matrices), h, xs).reason.split("A step:")[1]

    assert "2 x [4] x [4, 1*4]; 5 operations on 8 features" in text(2)
    assert "7 x [4] x [4, 1*4]; 5 operations on 28 features" in text(7)


def _without_a_head(matrices: Array, h: Array, x: Array) -> Any:
    return heads(matrices, h, x)[0], None


def around(weights: Any, h: Array, x: Array) -> Any:
    """A product of x, and one that only a y waits for, of what the step makes of h."""
    w, r, v, b = weights
    after = jnp.tanh(x @ w + h @ r + b)
    return after, {"read out": jnp.exp(-(after @ v)), "of x": x @ w, "as it was": h @ v}


def of_around() -> tuple[Any, Array, Array]:
    units = 6
    shapes = {"w": (I, units), "r": (units, units), "v": (units, P), "b": (1, units)}
    keys = jax.random.split(jax.random.key(1), len(shapes) + 2)
    weights = tuple(
        jax.random.normal(k, s) / 2 for k, s in zip(keys[2:], shapes.values(), strict=True)
    )
    return weights, jax.random.normal(keys[0], (B, units)), jax.random.normal(keys[1], (T, B, I))


def test_products_around_the_carry() -> None:
    check(around, *of_around())


def test_only_the_carry_s_product_is_in_the_loop() -> None:
    weights, h, xs = of_around()
    steps = jp.explain(partial(around, weights), h, xs).reason.split("A step:\n")[1]
    assert steps.splitlines() == [
        "  stage 1: [6] x [6, 1*6]; 3 operations on 6 features",
        "for all steps before, as they wait for no carry: 2 equations",
        "after, as no carry waits for them: 4 equations",
    ]


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, 1), (0, 0, None)])
def test_products_around_are_mapped(axes: tuple[int | None, ...]) -> None:
    weights, h, xs = of_around()

    def several(n: int | None, given: Any) -> Any:
        return given if n is None else jax.tree.map(lambda a: jnp.stack([a, -a], n), given)

    given = [several(n, a) for n, a in zip(axes, (weights, h, xs), strict=True)]

    def run(scan: Any, weights: Any, h: Array, xs: Array) -> Any:
        return scan(partial(around, weights), h, xs)

    def mapped(scan: Any) -> Any:
        loss = lambda *a: sum(jnp.square(y).sum() for y in jax.tree.leaves(run(scan, *a)))  # noqa: E731
        both = lambda *a: (run(scan, *a), jax.grad(loss, (0, 1, 2))(*a))  # noqa: E731
        return jax.jit(jax.vmap(both, axes))(*given)

    found, expected = mapped(partial(jp.scan, backend="native")), mapped(lax.scan)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(("heads", "per"), [(3, 4), (2, 3), (5, 1)])
def test_a_factor_for_each_head(heads: int, per: int, repeated: bool) -> None:
    """Features of a vector, beside those of another of a feature a head: they are not joined."""
    draw = np.random.default_rng(2).normal
    h, s = (jnp.asarray(draw(size=(2, n)), jnp.float32) for n in (heads * per, heads))
    xs = jnp.asarray(draw(size=(3, 2, heads * per)), jnp.float32)

    def step(carry: Any, x: Any) -> Any:
        h, s = carry
        if repeated:
            h = (h.reshape(2, heads, per) * s[:, :, None]).reshape(2, heads * per)
        else:
            h *= jnp.broadcast_to(s[:, :, None], (2, heads, per)).reshape(2, heads * per)
        h = jnp.tanh(h + x)
        first = h.reshape(2, heads, per)[:, :, :1].reshape(2, heads)
        return (h, 0.9 * s), (h, first, jnp.concatenate([h[:, :1] * s[:, :1], s * first], -1))

    def both(scan: Any, h: Any, s: Any) -> Any:
        def loss(*carry: Any) -> Any:
            leaves = jax.tree.leaves(scan(step, carry, xs))
            return sum((jnp.sin(1 + jnp.arange(r.size)).reshape(r.shape) * r).sum() for r in leaves)

        return scan(step, (h, s), xs), jax.grad(loss, (0, 1))(h, s)

    found, expected = (jax.jit(partial(both, scan))(h, s) for scan in (jp.scan, jax.lax.scan))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, 2e-5, 1e-5)
