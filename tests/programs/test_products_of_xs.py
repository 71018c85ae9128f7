# SPDX-License-Identifier: Apache-2.0
"""Products of xs that the call of a scan makes itself: when it does, and that all is as before."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_persistent as jp
from jax_persistent.ffi import call
from jax_persistent.programs import products

T, B, K, H = 5, 3, 6, 7  # steps, rows, xs' features, units

# How a step multiplies x with W: what W's shape is, and how x is multiplied.
WAYS: dict[str, Any] = {
    "plain": ((K, H), lambda x, w: x @ w),
    "transposed": ((H, K), lambda x, w: x @ w.T),
    "matrix_first": ((H, K), lambda x, w: jnp.einsum("hk,bk->bh", w, x)),
    "highest_precision": ((K, H), lambda x, w: jnp.matmul(x, w, precision="highest")),
}


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), jnp.float32)


def run(scan: Any, way: str, weights: Any, xs: Any, **how: Any) -> Any:
    multiply = WAYS[way][1]

    def step(h: Any, x: Any) -> Any:
        h = jnp.tanh(multiply(x, weights["W"]) + h @ weights["R"])
        return h, h

    return scan(step, jnp.zeros((xs.shape[1], H)), xs, **how)


def weights_of(way: str, seed: int = 1) -> dict[str, jax.Array]:
    return {"W": draw(*WAYS[way][0], seed=seed), "R": draw(H, H, seed=seed) / 3}


def makes_products(function: Any, *given: Any) -> bool:
    """Whether the only thing that multiplies is the call of a scan."""
    text = jax.jit(function).lower(*given).as_text()
    found = set(re.findall(r"custom_call @(jax_persistent[.\w]*)|(dot_general)", text))
    program = (call.TARGETS["program"], "")
    assert program in found, found
    return found == {program}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reverse", [False, True])
def test_values(way: str, reverse: bool) -> None:
    weights, xs = weights_of(way), draw(T, B, K)
    found = jax.jit(lambda w, x: run(jp.scan, way, w, x, reverse=reverse, backend="native"))(
        weights, xs
    )
    assert makes_products(lambda w, x: run(jp.scan, way, w, x, backend="native"), weights, xs)
    expected = run(jax.lax.scan, way, weights, xs, reverse=reverse)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, expected)


@pytest.mark.parametrize(
    ("of_weights", "of_xs"),
    [(None, 0), (None, 1), (0, None), (0, 0), (0, 1)],
)
def test_vmap(of_weights: int | None, of_xs: int | None) -> None:
    """Axes that only some operands have: of groups where weights are mapped, else of rows."""
    weights, xs = weights_of("plain"), draw(T, B, K)
    if of_weights is not None:
        weights = jax.tree.map(lambda w: jnp.stack([w, 2 * w, -w]), weights)
    if of_xs is not None:
        xs = jnp.stack([xs, 3 * xs, -xs], of_xs)
    axes = (of_weights, of_xs)
    found = jax.vmap(lambda w, x: run(jp.scan, "plain", w, x, backend="native"), axes)(weights, xs)
    expected = jax.vmap(lambda w, x: run(jax.lax.scan, "plain", w, x), axes)(weights, xs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, expected)


def test_several() -> None:
    """Two products of xs of two sizes, one of them with a part of x that another reads, too."""
    weights = {"V": draw(4, H), "W": draw(K, H, seed=1), "R": draw(H, H, seed=2) / 3}
    xs = (draw(T, B, K), draw(T, B, 4))

    def scanned(scan: Any, weights: Any, xs: Any, **how: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            a, b = x
            h = jnp.tanh(a @ weights["W"] + h @ weights["R"] - b @ weights["V"])
            return h, h.sum(-1) + a[:, 0]

        return scan(step, jnp.zeros((B, H)), xs, **how)

    assert makes_products(lambda w, x: scanned(jp.scan, w, x, backend="native"), weights, xs)
    found = scanned(jp.scan, weights, xs, backend="native")
    expected = scanned(jax.lax.scan, weights, xs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, expected)


def test_where_something_else_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd depths, gradients, products that are read besides, and large ones of narrow vectors."""
    weights, xs = weights_of("plain"), draw(T, B, K)

    def scanned(w: Any, x: Any) -> Any:
        return run(jp.scan, "plain", w, x, backend="native")

    def also_read(w: Any, x: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            product = x @ w["W"]
            h = jnp.tanh(product + h @ w["R"])
            return h, product

        return jp.scan(step, jnp.zeros((B, H)), x, backend="native")

    odd = {**weights, "W": weights["W"][: K - 1]}, xs[..., : K - 1]
    large = {**weights, "W": jnp.zeros((1 << 13, H))}, jnp.zeros((1 << 9, 1 << 3, 1 << 13))
    assert makes_products(scanned, weights, xs)
    assert not makes_products(scanned, *odd)
    with monkeypatch.context() as narrow:
        facts = {"lanes": 4, "threads": 2}
        narrow.setattr(products, "native_module", lambda: SimpleNamespace(facts=lambda _: facts))
        assert not makes_products(scanned, *large)
    assert not makes_products(also_read, weights, xs)
    assert not makes_products(jax.grad(lambda w, x: scanned(w, x)[1].sum()), weights, xs)
    np.testing.assert_allclose(scanned(*odd)[1], run(jax.lax.scan, "plain", *odd)[1], atol=2e-6)
    np.testing.assert_allclose(also_read(weights, xs)[1], xs @ weights["W"], atol=2e-6)


# What is wrong with a call: its program, or its operands, the last of which is the matrix.
WRONG: dict[str, Any] = {
    "a buffer is not of the program's size": lambda p, o: (p, [*o[:-1], o[-1][:-2]]),
    "a buffer is not of the program's size or type": lambda p, o: (p, [*o[:-1], o[-1] > 0]),
    "the number of buffers is not the program's": lambda p, o: (p, o[:-1]),
    "expected a product of an even depth": lambda p, o: (with_layout(p, -1, K + 1), o),
    "no product is made there": lambda p, o: (with_layout(p, 0, K), o),
}


def with_layout(program: dict[str, Any], n: int, depth: int) -> dict[str, Any]:
    layouts = list(program["layouts"])
    layouts[n] = layouts[n] % 16 + 16 * depth
    return {**program, "layouts": layouts}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_calls_are_refused(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call itself checks what it is given, before it reads any of it."""
    right = call.program_call

    def wrong(program: Any, operands: Any, results: Any) -> Any:
        return right(*WRONG[message](program, list(operands)), results)

    monkeypatch.setattr(call, "program_call", wrong)
    weights, xs = weights_of("plain"), draw(T, B, K)
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(
            jax.jit(lambda w, x: run(jp.scan, "plain", w, x, backend="native"))(weights, xs)
        )
