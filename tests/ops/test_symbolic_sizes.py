# SPDX-License-Identifier: Apache-2.0
"""Programs exported for any number of rows and steps, serialised, and run with some."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close
from flax import linen as nn
from flax_problems import drawn
from jax import ShapeDtypeStruct, export

import jax_persistent as jp
from jax_persistent.linen import RNN, Bidirectional

B, T, I, H = 2, 5, 3, 7  # noqa: E741
CELLS = {"lstm": (jp.lstm, 4), "gru": (jp.gru, 3), "elman": (jp.elman, 1)}
LENGTHS = np.array([4, 1], np.int32)
KERNELS = [
    export.DisabledSafetyCheck.custom_call(f"jax_persistent.{direction}")
    for direction in ("forward", "backward")
]


def arrays(gates: int, hidden: int = H) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(gates)
    shapes = (B, T, I), (I, gates * hidden), (hidden, gates * hidden)
    return tuple((0.3 * draw.standard_normal(s)).astype(np.float32) for s in shapes)


def exported(function: Callable[..., Any], *shapes: str, platform: str = "cpu") -> Any:
    """As another process has it: each argument's shape as in "b, t, 3", those of rank 1 integer."""
    scope = export.SymbolicScope()
    arguments = [
        ShapeDtypeStruct(export.symbolic_shape(s, scope=scope), "float32" if "," in s else "int32")
        for s in shapes
    ]
    program = export.export(jax.jit(function), platforms=[platform], disabled_checks=KERNELS)
    return export.deserialize(program(*arguments).serialize())


def gradients(function: Callable[..., Any], x: Any, *weights: Any, **flags: Any) -> Any:
    def squares(x: Any, *weights: Any) -> Any:
        return jnp.sum(function(x, *weights, **flags)[0] ** 2)

    return jax.grad(squares, (0, 1, 2))(x, *weights)


@pytest.mark.parametrize(
    ("backend", "shape"),
    [
        (None, f"{B}, t, {I}"),
        (None, f"b, {T}, {I}"),
        ("native", f"b, t, {I}"),
        ("reference", f"b, t, {I}"),
    ],
)
def test_without_lengths(backend: str | None, shape: str) -> None:
    x, *weights = arrays(4)
    again = exported(lambda x: jp.lstm(x, *weights, backend=backend), shape)
    assert ("jax_persistent.forward" in again.mlir_module()) == (backend != "reference")
    close(again.call(x), jax.jit(partial(jp.lstm, backend="reference"))(x, *weights))


@pytest.mark.parametrize(
    ("cell", "backend"), [("lstm", None), ("gru", None), ("elman", None), ("elman", "reference")]
)
def test_lengths_and_gradients(cell: str, backend: str | None) -> None:
    function, gates = CELLS[cell]
    x, *weights = arrays(gates)

    def both(x: Any, lengths: Any, backend: str | None = backend) -> Any:
        flags = {"lengths": lengths, "reverse": True, "backend": backend}
        return function(x, *weights, **flags), gradients(function, x, *weights, **flags)

    again = exported(both, f"b, t, {I}", "b")
    rows = np.tile(x, (2, 1, 1)), np.array([T + 3, -1, 4, 1], np.int32)  # clamped, being traced
    clipped = rows[0], np.array([T, 0, 4, 1], np.int32)
    close(jax.jit(again.call)(*rows), jax.jit(partial(both, backend="reference"))(*clipped))


def test_known_lengths_and_an_unknown_number_of_steps() -> None:
    x, *weights = arrays(3)
    again = exported(lambda x: jp.gru(x, *weights, lengths=LENGTHS), f"{B}, t, {I}")
    want = jax.jit(partial(jp.gru, lengths=LENGTHS, backend="reference"))(x, *weights)
    close(again.call(x), want)
    with pytest.raises(ValueError, match="lengths: expected values in 0"):
        exported(lambda x: jp.gru(x, *weights, lengths=-LENGTHS), f"{B}, t, {I}")


@pytest.mark.parametrize("shape", [f"b, 2, {I}", f"1, t, {I}"])
def test_unknown_sizes_are_not_taken_for_small(shape: str) -> None:
    """Where T and B are known to be that small, so many units run as the reference."""
    _, *weights = arrays(4, 300)
    assert "jax_persistent.forward" in exported(lambda x: jp.lstm(x, *weights), shape).mlir_module()


def test_time_major_and_several_copies() -> None:
    x, *weights = arrays(3)
    many = np.stack([x, 2 * x, -x])

    def run(many: Any, backend: str | None = None) -> Any:
        flags = {"time_major": True, "backend": backend}
        return jax.vmap(lambda x: jp.gru(x, *weights, **flags)[0])(many)

    close(
        exported(run, f"n, t, b, {I}").call(many), jax.jit(partial(run, backend="reference"))(many)
    )


@pytest.mark.parametrize(("mask", "both"), [(False, False), (True, True)])
def test_layers(mask: bool, both: bool) -> None:
    x, *_ = arrays(1)
    cells = [
        nn.OptimizedLSTMCell(H, recurrent_kernel_init=nn.initializers.normal()) for _ in range(2)
    ]
    forward, backward = (RNN(cell, mask_outputs=mask, return_carry=True) for cell in cells)
    rnn = Bidirectional(forward, backward) if both else backward.clone(reverse=True)
    variables = drawn(jax.eval_shape(rnn.init, jax.random.key(0), x))

    def apply(x: Any, lengths: Any) -> Any:
        return rnn.apply(variables, x, seq_lengths=lengths)

    again = exported(apply, f"b, t, {I}", "b")
    assert "jax_persistent.forward" in again.mlir_module()
    close(jax.jit(again.call)(x, LENGTHS), jax.jit(apply)(x, LENGTHS))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_for_other_platforms(platform: str) -> None:
    _, *weights = arrays(3)
    run = partial(gradients, jp.gru)
    again = exported(
        lambda x, lengths: run(x, *weights, lengths=lengths), f"b, t, {I}", "b", platform=platform
    )
    assert again.platforms == (platform,)


def test_serialising_asks_for_trust_in_the_kernels() -> None:
    """What the README says: without it jax refuses to serialise, and names the call."""
    x, *weights = arrays(4)
    program = export.export(jax.jit(lambda x: jp.lstm(x, *weights)[0]))
    with pytest.raises(ValueError, match=r"custom_call.*jax_persistent\.forward"):
        program(ShapeDtypeStruct(x.shape, x.dtype))
