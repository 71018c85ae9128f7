# SPDX-License-Identifier: Apache-2.0
"""Products around a recurrence: whose they are, and that both give the same."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_persistent.ffi import call
from jax_persistent.programs import products, weight_gradients

SIZES = (130, 34, 97)  # rows, depth, columns


def matrices(sizes: tuple[int, int, int], left_transposed: bool, right_transposed: bool) -> Any:
    rows, depth, columns = sizes
    draw = np.random.default_rng(3).standard_normal
    left = draw((depth, rows) if left_transposed else (rows, depth))
    right = draw((columns, depth) if right_transposed else (depth, columns))
    return left, right


def targets(dtype: Any, sizes: tuple[int, int, int], **how: Any) -> bool:
    arrays = (jnp.zeros(m.shape, dtype) for m in matrices(sizes, False, False))
    text = jax.jit(lambda *a: products.product(*a, **how)).lower(*arrays).as_text()
    return call.PRODUCT_TARGET in text


@pytest.mark.parametrize("left_transposed", [False, True])
@pytest.mark.parametrize("right_transposed", [False, True])
def test_values(left_transposed: bool, right_transposed: bool) -> None:
    left, right = matrices(SIZES, left_transposed, right_transposed)
    expected = (left.T if left_transposed else left) @ (right.T if right_transposed else right)
    how = {"left_transposed": left_transposed, "right_transposed": right_transposed}
    found = products.product(jnp.asarray(left, jnp.float32), jnp.asarray(right, jnp.float32), **how)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("heads", "depth"), [(2, 34), (5, 8), (5, 7)])
def test_values_of_heads(heads: int, depth: int) -> None:
    draw = np.random.default_rng(3).standard_normal
    left, right = draw((depth, heads, 6)), draw((depth, heads, 19))
    expected = np.einsum("kha,khb->hab", left, right)
    flat = [jnp.asarray(x.reshape(depth, -1), jnp.float32) for x in (left, right)]
    found = products.product(*flat, left_transposed=True, heads=heads)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_of_heads_are_ours() -> None:
    """Where a step multiplies each head's features, those of its matrices are one product."""
    draw = np.random.default_rng(3).standard_normal
    factor, d = (jnp.asarray(draw((4, 1, 5, 3, width)), jnp.float32) for width in (6, 7))
    run = jax.jit(partial(weight_gradients.outer_products, "XYZhk,XYZhn->hkn"))
    assert call.PRODUCT_TARGET in run.lower(factor, d).as_text()
    expected = np.einsum("xyzhk,xyzhn->hkn", factor, d)
    np.testing.assert_allclose(run(factor, d), expected, atol=1e-5)


def test_what_is_ours() -> None:
    """Float32 of an even depth; the rest goes to XLA."""
    assert targets("float32", SIZES)
    assert targets("float32", SIZES, precision=jax.lax.Precision.HIGHEST)
    assert not targets("float32", SIZES, precision=jax.lax.DotAlgorithmPreset.BF16_BF16_F32)
    assert not targets("bfloat16", SIZES)
    assert not targets("float32", (130, 33, 97))


def test_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are ours where vectors are wide."""
    large = (1 << 10, 1 << 10, 1 << 9)
    for lanes, is_ours in ((16, True), (8, False)):
        facts = {"lanes": lanes, "threads": 2}
        module = SimpleNamespace(facts=lambda platform, facts=facts: facts)
        monkeypatch.setattr(products, "native_module", lambda module=module: module)
        assert targets("float32", large) == is_ours
        assert targets("float32", SIZES)


def test_wrong_operands_are_refused() -> None:
    """The call itself checks what it is given, before it reads any of it."""
    run = jax.jit(
        lambda a, b: call.product_call(a, b, left_transposed=False, right_transposed=False)
    )
    for left, right, message in (
        ((3, 5), (5, 2), "expected matrices of an even depth; got 3 x 5 x 2"),
        ((3, 4), (6, 2), "the matrices' sizes differ"),
    ):
        with pytest.raises(Exception, match=f"jax_persistent.product: {message}"):
            run(jnp.zeros(left), jnp.zeros(right)).block_until_ready()
    several = jax.jit(partial(call.product_call, heads=2))
    message = "jax_persistent.product: expected a left matrix that is transposed alone"
    with pytest.raises(Exception, match=message):
        several(jnp.zeros((6, 4)), jnp.zeros((4, 2))).block_until_ready()
