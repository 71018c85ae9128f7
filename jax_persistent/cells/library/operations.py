# SPDX-License-Identifier: Apache-2.0
"""What the steps of library cells are made of: products, norms, masks."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax, random
from jax.nn import sigmoid as sigmoid


def widened(dtype: Any) -> Any:
    """What sums of a dtype are in."""
    return jnp.dtype(dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32)


def dot(vector: Array, kernel: Any) -> Array:
    """[n] x [n, m] -> [m]; a packed kernel has a `matrix`."""
    matrix = kernel.matrix() if hasattr(kernel, "matrix") else kernel
    return jnp.dot(
        vector.astype(matrix.dtype), matrix, preferred_element_type=widened(matrix.dtype)
    )


def dot_by_heads(vector: Array, kernel: Array) -> Array:
    """[K*n] x [G, K, n, m] -> [G*K*m]: a block diagonal matrix for each gate, side by side."""
    heads = vector.astype(kernel.dtype).reshape(kernel.shape[1], -1)
    products = [
        jnp.einsum("kn,knm->km", heads, gate, preferred_element_type=widened(kernel.dtype))
        for gate in kernel
    ]
    return jnp.concatenate(products).reshape(-1)


def layer_norm(a: Array, scale: Array, epsilon: float = 1e-5) -> Array:
    centred = a - a.mean()
    return centred * lax.rsqrt(jnp.square(centred).mean() + epsilon) * scale


def rms_norm(a: Array, scale: Array, epsilon: float = 1e-5) -> Array:
    return a * lax.rsqrt(jnp.square(a).mean() + epsilon) * scale


def check_rates(below_one: bool = False, **rates: Any) -> None:
    """Raises unless each is a probability."""
    for name, rate in rates.items():
        if not 0 <= rate <= 1 or (below_one and rate == 1):
            expected = "0 to 1, and below 1" if below_one else "0 to 1"
            raise ValueError(f"{name}: expected a probability, {expected}; got {rate!r}")


def mask(key: Array, probability: float, lead: tuple[int, ...], hidden: int) -> Array:
    """1 with this probability, else 0."""
    return random.bernoulli(key, probability, (*lead, hidden)).astype(jnp.float32)
