# SPDX-License-Identifier: Apache-2.0
"""Problems and comparisons that the tests of the linen and of the nnx layers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

T, B, H = 5, 3, 6
LENGTHS = {(): 3, (3,): (2, 5, 1), (2, 3): ((2, 5, 1), (3, 1, 4))}


@dataclass(frozen=True)
class Options:
    """One call of an RNN layer."""

    batch: tuple[int, ...] = (B,)
    lengths: bool = False
    initial: bool = False
    time_major: bool = False
    reverse: bool = False
    keep_order: bool = False
    return_carry: bool = False

    def __str__(self) -> str:
        flags = [name for name, value in vars(self).items() if value is True]
        return f"{len(self.batch)}d-" + ("-".join(flags) or "plain")

    def inputs(self, seed: int = 1, features: int = 4) -> jax.Array:
        """[*batch, T, I], or [T, *batch, I] time-major."""
        shape = (T, *self.batch) if self.time_major else (*self.batch, T)
        draw = np.random.default_rng(seed)
        return jnp.asarray(draw.standard_normal((*shape, features), np.float32))

    def carry(self, states: int, seed: int = 2) -> Any:
        """(c, h) for the LSTM's two states, h alone otherwise; None if there is to be none."""
        if not self.initial:
            return None
        draw = np.random.default_rng(seed)
        drawn = draw.standard_normal((states, *self.batch, H), np.float32)
        return tuple(map(jnp.asarray, drawn)) if states == 2 else jnp.asarray(drawn[0])

    def flags(self) -> dict[str, Any]:
        names = ("time_major", "reverse", "keep_order", "return_carry")
        lengths = jnp.asarray(LENGTHS[self.batch]) if self.lengths else None
        return {name: getattr(self, name) for name in names} | {"seq_lengths": lengths}


# Every pair of options appears, and both values of each beside both of reverse and lengths.
OPTIONS = (
    Options(),
    Options(reverse=True, initial=True),
    Options(lengths=True, reverse=True),
    Options(lengths=True, initial=True, time_major=True, return_carry=True),
    Options(lengths=True, initial=True, reverse=True, keep_order=True, return_carry=True),
    Options(lengths=True, reverse=True, return_carry=True, time_major=True),
    Options(
        (2, 3), initial=True, reverse=True, keep_order=True, return_carry=True, time_major=True
    ),
    Options((2, 3), lengths=True, reverse=True, keep_order=True),
    Options((), initial=True, return_carry=True),
    Options((), lengths=True, time_major=True, return_carry=True),
)
# All of them for the LSTM, whose state has two parts; the other cells take half each.
OPTIONS_OF = {"lstm": OPTIONS, "gru": OPTIONS[1::2], "simple": OPTIONS[::2]}
every_cell_and_option = pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, several in OPTIONS_OF.items() for options in several],
    ids=str,
)


def compiled(function: Callable[..., Any], *arguments: Any, **flags: Any) -> Any:
    """The result of one call as one program; `flags` stay out of its arguments."""
    return jax.jit(partial(function, **flags))(*arguments)


def value_and_gradients(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """What `function` returns, and the gradients of a weighted sum of it, as one program."""

    def loss(*arguments: Any) -> tuple[jax.Array, Any]:
        result = function(*arguments)
        total = jnp.float32(0)
        for n, leaf in enumerate(jax.tree.leaves(result)):
            weights = jnp.cos(jnp.arange(leaf.size) + n).reshape(leaf.shape)
            total += jnp.sum(weights * leaf.astype(jnp.float32))
        return total, result

    positions = tuple(n for n, a in enumerate(arguments) if a is not None)
    differentiate = jax.value_and_grad(loss, argnums=positions, has_aux=True)
    (_, result), gradients = compiled(differentiate, *arguments)
    return result, gradients


def assert_trees_close(actual: Any, expected: Any, tolerance: float = 2e-5) -> None:
    """Equal structure, shapes and dtypes, and values within a tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (e.shape, e.dtype)
        assert_allclose(
            np.asarray(a, np.float64), np.asarray(e, np.float64), rtol=tolerance, atol=tolerance
        )


def drawn(shapes: Any) -> Any:
    """Parameters of these shapes, biases included: flax starts those at zero."""
    draw = np.random.default_rng(3)
    return jax.tree.map(lambda p: jnp.asarray(0.4 * draw.standard_normal(p.shape), p.dtype), shapes)


def assert_trees_equal(actual: Any, expected: Any) -> None:
    assert_trees_close(actual, expected, tolerance=0)


MARKS = {
    "kernel": "jax_persistent_forward[",
    "jp.scan": "jax_persistent_scan[",
    "lax.scan": " scan[",
}


def runs_as(function: Callable[..., Any], *arguments: Any) -> str:
    """Whether the program of `function` holds a kernel of its cell, our scan, or a plain one."""
    program = str(jax.make_jaxpr(function)(*arguments))
    first, *others = [name for name, mark in MARKS.items() if mark in program]
    assert not (first == "kernel" and others), program
    return first


def runs_on_kernel(function: Callable[..., Any], *arguments: Any) -> bool:
    return runs_as(function, *arguments) == "kernel"
