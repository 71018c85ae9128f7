# SPDX-License-Identifier: Apache-2.0
"""What calls become: native calls with nothing moved about around them, where they pay."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import AS_SHIPPED
from jax import ShapeDtypeStruct

import jax_persistent as jp
from jax_persistent.ffi.registration import native_module

T, B, INPUTS, H = 7, 3, 5, 6
CELLS = {"lstm": (jp.lstm, 4), "gru": (jp.gru, 3), "elman": (jp.elman, 1)}
float32 = partial(ShapeDtypeStruct, dtype=jnp.dtype("float32"))


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_is_transposed_or_copied_around_the_calls(cell: str, time_major: bool) -> None:
    """Forward and backward are a call each; the gradients of the weights are the second's."""
    function, gates = CELLS[cell]

    def loss(x, *weights):
        return (function(x, *weights, time_major=time_major, backend="native")[0] ** 2).sum()

    x = float32((T, B, INPUTS) if time_major else (B, T, INPUTS))
    weights = float32((INPUTS, gates * H)), float32((H, gates * H)), float32((gates * H,))
    program = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(x, *weights).compile(AS_SHIPPED).as_text()
    operations = re.findall(r"= \S+ ([\w-]+)\(", re.sub(r"\(f32[^)]*\) custom-call", " ", program))
    assert not {"transpose", "copy", "dot", "concatenate"} & set(operations)
    targets = re.findall(r'custom_call_target="([^"]+)"', program)
    assert targets == ["jax_persistent.forward", "jax_persistent.backward"]


def test_checkpoint_saves_nothing_in_the_first_run() -> None:
    """Three layers' gradient: three runs for the outputs alone, and three that save."""
    weights = jnp.full((H, 4 * H), 0.1), jnp.full((H, 4 * H), 0.2)
    x = jnp.linspace(-1.0, 1.0, B * T * H).reshape(B, T, H)

    def layer(x, *weights):
        return jp.lstm(x, *weights, backend="native")[0]

    def loss(layer, weights, x):
        for _ in range(3):
            x = layer(x, *weights)
        return (x**2).sum()

    once, twice = (jax.jit(jax.grad(partial(loss, f))) for f in (layer, jax.checkpoint(layer)))
    lines = twice.lower(weights, x).as_text().splitlines()
    runs = [line for line in lines if "@jax_persistent.forward" in line]
    saving = [run for run in runs if f"x{5 * H}xf32" in run.rsplit("->", 1)[1]]
    assert (len(runs), len(saving)) == (6, 3)
    for got, expected in zip(twice(weights, x), once(weights, x), strict=True):
        np.testing.assert_array_equal(got, expected)


# More rows read weights where they lie.
WIDE = native_module().facts("cpu")["lanes"] >= 16


@pytest.mark.parametrize(
    ("steps", "batch", "hidden", "backend", "native"),
    [
        (1, 49, 512, None, False),
        (1, 17, 512, None, WIDE),
        (2, 21, 512, None, False),
        (2, 64, 512, None, False),
        (1, 49, 512, "native", True),
        (3, 17, 512, None, True),
        (1, 16, 512, None, True),
        (1, 65, 512, None, True),
        (1, 17, 256, None, True),
    ],
)
def test_a_few_steps_do_not_pay_for_packing(steps, batch, hidden, backend, native) -> None:
    weights = float32((INPUTS, 4 * hidden)), float32((hidden, 4 * hidden))
    run = jax.jit(partial(jp.lstm, backend=backend))
    program = run.lower(float32((batch, steps, INPUTS)), *weights).as_text()
    assert ("jax_persistent.forward" in program) == native
