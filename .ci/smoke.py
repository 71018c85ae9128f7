# SPDX-License-Identifier: Apache-2.0
"""What must work in a package that was just installed, whatever jax is beside it: a few seconds."""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jax_persistent as jp
from jax_persistent import compat, linen, nnx

B, T, I, H = 3, 5, 4, 7  # noqa: E741
DRAW = np.random.default_rng(0)
X, W, R = (DRAW.standard_normal(s, np.float32) for s in ((B, T, I), (I, 4 * H), (H, 4 * H)))


def lstm(backend: str, *arrays: jax.Array) -> jax.Array:
    return jp.lstm(*arrays, backend=backend)[0].sum()


def scan(backend: str, x: jax.Array, w: jax.Array, r: jax.Array) -> jax.Array:
    def step(carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        carry = jnp.tanh(x + carry @ r[:, :H])
        return carry, carry

    inputs = (x @ w[:, :H]).swapaxes(0, 1)
    return jp.scan(step, jnp.zeros((B, H)), inputs, backend=backend)[1].sum()


def main() -> None:
    place, sources = Path(jp.__file__).resolve(), Path(__file__).resolve().parent.parent
    assert not place.is_relative_to(sources / "jax_persistent"), f"{place} is the checkout's"
    assert jp.__version__ == version("jax-persistent")
    for run in (lstm, scan):  # "native" is the kernel, or an error
        got, expected = (
            jax.jit(jax.value_and_grad(partial(run, backend), (0, 1, 2)))(X, W, R)
            for backend in ("native", "reference")
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)
    cell = nn.LSTMCell(H)
    variables = linen.RNN(cell).init(jax.random.key(0), X)
    outputs = [rnn(cell).apply(variables, X) for rnn in (linen.RNN, nn.RNN)]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)
    assert nnx.RNN is not None
    lacking = [reason for _, reason in compat.features() if reason != "yes"]
    assert not lacking, "\n".join(lacking)
    versions = (f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "numpy"))
    print(f"works: Python {sys.version.split()[0]}, {', '.join(versions)}")


if __name__ == "__main__":
    main()
