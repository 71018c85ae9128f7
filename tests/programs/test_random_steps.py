# SPDX-License-Identifier: Apache-2.0
"""Random step functions, made of what programs know, against `jax.lax.scan`.

RANDOM_STEPS in the environment is how many there are; a failing one is named by its seed.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

import jax_persistent as jp

COUNT = int(os.environ.get("RANDOM_STEPS", "40"))
STEPS, INPUTS = 4, 5


class RandomStep:
    """A step that draws what it does: the same for the same seed, whatever it is given."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        draw = np.random.default_rng(seed)
        rows = 1 if seed % 4 == 3 else 3
        self.sizes = [int(n) for n in draw.choice([2, 3, 4, 6, 17], size=draw.integers(1, 4))]
        self.matrices = jnp.asarray(draw.normal(size=(8, 34, 34)) * 0.3, jnp.float32)
        self.vectors = jnp.asarray(draw.normal(size=(8, 34)), jnp.float32)
        self.carry = [jnp.asarray(draw.normal(size=(rows, n)), jnp.float32) for n in self.sizes]
        self.xs = jnp.asarray(draw.normal(size=(STEPS, rows, INPUTS)), jnp.float32)
        self.flags = jnp.asarray(draw.random((STEPS, rows)) < 0.3)

    def __call__(self, weights: Any, carry: list[Array], given: Any) -> Any:
        x, flag = given
        self.draw = np.random.default_rng(self.seed + 10**6)
        self.weights, self.used = weights, 0
        self.known = [*carry, x]
        for _ in range(self.draw.integers(2, 9)):
            self.known.append(self.value(flag))
        after = [jnp.tanh(self.sized(self.pick(), n)) for n in self.sizes]
        return after, {"last": self.known[-1], "some": self.pick()}

    def pick(self) -> Array:
        return self.known[self.draw.integers(len(self.known))]

    def sized(self, value: Array, size: int) -> Array:
        """A value of `size` features made of this one."""
        if value.shape[1] == size:
            return value
        if value.shape[1] > size and self.draw.random() < 0.5:
            begin = int(self.draw.integers(value.shape[1] - size + 1))
            return value[:, begin : begin + size]
        matrix = self.weights[0][self.used % 8]
        self.used += 1
        if self.draw.random() < 0.3:
            return value @ matrix[:size, : value.shape[1]].T
        return value @ matrix[: value.shape[1], :size]

    def value(self, flag: Array) -> Array:
        a, kind = self.pick(), self.draw.integers(12)
        size = a.shape[1]
        other = self.sized(self.pick(), size)
        vector = self.weights[1][self.used % 8, :size][None]
        if kind == 0:
            return a + other * vector
        if kind == 1:
            return jax.nn.sigmoid(a) * other
        if kind == 2:
            return jnp.concatenate([a, jnp.tanh(other)], -1)[:, :34]
        if kind == 3:
            return jnp.where(flag[:, None], other, a)
        if kind == 4:
            return jnp.where(a > other, jnp.sin(a), other)
        if kind == 5:
            mean = a.mean(-1, keepdims=True)
            return (a - mean) * lax.rsqrt(jnp.square(a - mean).mean(-1, keepdims=True) + 0.1)
        if kind == 6:
            return jax.nn.softmax(a, -1) - jax.nn.softplus(other)
        if kind == 7:
            return jnp.clip(a, -0.5, 0.5) / (1 + jnp.abs(other))
        if kind == 8:
            return jnp.pad(a, ((0, 0), (1, 2)))[:, :34] * 0.5
        if kind == 9:
            return jnp.exp(-jnp.square(a)) + jnp.log1p(jnp.square(other)) ** 3
        if kind == 10:
            return jnp.maximum(a, other) - a.max(-1, keepdims=True)
        return self.sized(self.sized(a, 6).reshape(-1, 2, 3).sum(1), size)


# 104: the mean of an array of constants. 127: of a single row, an x of one feature, whose axes are
# alike.
@pytest.mark.parametrize("seed", [*range(COUNT), 104, 127])
def test_random_step(seed: int) -> None:
    step = RandomStep(seed)
    weights = step.matrices, step.vectors
    reverse = bool(seed % 2)

    def run(scan: Any, weights: Any, carry: Any, xs: Any) -> Any:
        return scan(partial(step, weights), carry, (xs, step.flags), reverse=reverse)

    def both(scan: Any, *given: Any) -> Any:
        def loss(*given: Any) -> Any:
            leaves = jax.tree.leaves(run(scan, *given))
            return sum((jnp.sin(1 + jnp.arange(r.size)).reshape(r.shape) * r).sum() for r in leaves)

        return run(scan, *given), jax.grad(loss, (0, 1, 2))(*given)

    found = jax.jit(partial(both, partial(jp.scan, backend="native")))(weights, step.carry, step.xs)
    expected = jax.jit(partial(both, lax.scan))(weights, step.carry, step.xs)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = 1 + np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, 0, 3e-5)
