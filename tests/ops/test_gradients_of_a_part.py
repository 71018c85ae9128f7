# SPDX-License-Identifier: Apache-2.0
"""Gradients of some of the arguments, the others constant, against the reference's.

A frozen layer above a trainable one, a saliency map, a learned initial state, a gradient penalty:
each asks for a part of what the backward kernel can return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close, mesh_of, put
from jax import Array

import jax_persistent as jp
from jax_persistent.pipeline import wavefront

B, T, I, DEVICES = 3, 6, 5, 3  # noqa: E741
Arrays = dict[str, Array]
DATA = ("x", "h0", "c0")
CELLS: dict[str, tuple[Callable[..., Any], int]] = {
    "lstm": (jp.lstm, 4),
    "gru": (jp.gru, 3),
    "elman": (jp.elman, 1),
    "relu": (partial(jp.elman, activation="relu"), 1),
}


def arrays(cell: str, hidden: int, *, rows: int = B, dtype: Any = np.float32) -> Arrays:
    """Everything that a gradient can be asked for, by name."""
    columns = CELLS[cell][1] * hidden
    shapes = {
        "x": (rows, T, I),
        "input_kernel": (I, columns),
        "recurrent_kernel": (hidden, columns),
        "bias": (columns,),
        "h0": (rows, hidden),
    }
    if cell == "gru":
        shapes["recurrent_bias"] = (columns,)
    if cell == "lstm":
        shapes["c0"] = (rows, hidden)
    draw = np.random.default_rng(hidden)
    return {k: (0.5 * draw.standard_normal(s)).astype(dtype) for k, s in shapes.items()}


def run(cell: str, backend: str | None, given: Arrays, **options: Any) -> list[Array]:
    """The outputs and the final states."""
    operands = {k: v for k, v in given.items() if k not in ("h0", "c0")}
    state: Any = (given["h0"], given["c0"]) if cell == "lstm" else given["h0"]
    found = CELLS[cell][0](**operands, initial_state=state, backend=backend, **options)
    return jax.tree.leaves(found)


def loss(cell: str, backend: str | None, given: Arrays, **options: Any) -> Array:
    """A scalar that depends on every result, curved in each and differently in each entry."""
    total = jnp.float32(0)
    for n, result in enumerate(run(cell, backend, given, **options)):
        weights = jnp.cos(jnp.arange(result.size) + n).reshape(result.shape)
        total += jnp.sum(jnp.sin(result.astype(jnp.float32)) * weights)
    return total


def gradients(names: tuple[str, ...], function: Callable[[Arrays], Any], given: Arrays) -> Arrays:
    """Those of the named arrays alone."""
    constant = {k: v for k, v in given.items() if k not in names}
    return jax.grad(lambda part: function(constant | part))({k: given[k] for k in names})


def subsets(names: Any) -> Iterator[tuple[str, ...]]:
    every = sorted(names)
    for size in range(1, len(every) + 1):
        yield from combinations(every, size)


def check_every_subset(cell: str, given: Arrays, compile: Callable[..., Any], **options: Any):
    """All subsets in one program, so that it is compiled once."""

    def of_each(given: Arrays, options: Any) -> list[Arrays]:
        function = partial(loss, cell, "native", **options)
        return [gradients(names, function, given) for names in subsets(given)]

    found = compile(of_each)(given, options)
    whole = partial(loss, cell, "reference")
    wanted = jax.jit(jax.grad(lambda given, options: whole(given, **options)))(given, options)
    assert len(found) == 2 ** len(given) - 1
    for names, part in zip(subsets(given), found, strict=True):
        assert tuple(part) == names
        close(part, {k: wanted[k] for k in names}, 3e-5)


every_cell = pytest.mark.parametrize(
    ("cell", "hidden"), [("lstm", 8), ("gru", 9), ("elman", 9), ("relu", 8)]
)


@every_cell
def test_every_subset(cell: str, hidden: int) -> None:
    check_every_subset(cell, arrays(cell, hidden), jax.jit)


@pytest.mark.parametrize(("cell", "hidden"), [("lstm", 8), ("elman", 9)])
def test_every_subset_without_jit(cell: str, hidden: int) -> None:
    lengths = jnp.array([4, 0, T])
    check_every_subset(cell, arrays(cell, hidden), lambda function: function, lengths=lengths)


@pytest.mark.parametrize(
    ("cell", "hidden", "explicit"),
    [("lstm", 8, False), ("gru", 9, True), ("elman", 9, True)],
)
def test_every_subset_on_a_mesh(cell: str, hidden: int, explicit: bool) -> None:
    mesh = mesh_of(rows=DEVICES, explicit=explicit)
    given = arrays(cell, hidden, rows=2 * DEVICES)
    split = {k: put(mesh, v, *(["rows"] if k in DATA else [])) for k, v in given.items()}
    check_every_subset(cell, split, jax.jit)


def same(transform: Callable[..., Any], cell: str, *arguments: Any, tolerance: float = 3e-5):
    """`transform` of the loss on the kernels and on the reference, each as one program."""
    found, wanted = (
        jax.jit(transform(partial(loss, cell, backend)))(*arguments)
        for backend in ("native", "reference")
    )
    close(found, wanted, tolerance)


@pytest.mark.parametrize("names", [("x",), ("h0",), ("h0", "x")], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_part_is_two_kernel_calls(cell: str, names: tuple[str, ...]) -> None:
    """One forward and one back, and no loop: constant weights are no reason for the reference."""
    function = partial(gradients, names, partial(loss, cell, None))
    text = jax.jit(function).lower(arrays(cell, 9)).as_text()
    assert text.count("custom_call @jax_persistent.") == 2
    assert "stablehlo.while" not in text


@pytest.mark.parametrize("names", [("x",), ("c0", "h0")], ids=str)
def test_lengths_reverse_and_time_major(names: tuple[str, ...]) -> None:
    given = arrays("lstm", 9)
    flags = {"lengths": np.array([4, 0, T], np.int32), "reverse": True, "time_major": True}

    def transform(loss: Callable[..., Any]) -> Any:
        return lambda q: gradients(names, partial(loss, **flags), q)

    same(transform, "lstm", given | {"x": np.swapaxes(given["x"], 0, 1)})


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_bfloat16(cell: str) -> None:
    given = arrays(cell, 9, dtype=jnp.bfloat16)
    for names in (("x",), ("h0",)):
        same(lambda loss, n=names: partial(gradients, n, loss), cell, given, tolerance=0.04)


@pytest.mark.parametrize("cell", ["lstm", "gru", "relu"])
def test_checkpoint(cell: str) -> None:
    same(lambda loss: partial(gradients, ("x",), jax.checkpoint(loss)), cell, arrays(cell, 8))


@pytest.mark.parametrize("names", [("x",), ("h0",), ("h0", "x")], ids=str)
def test_layers_of_a_scan_with_constant_weights(names: tuple[str, ...]) -> None:
    given = arrays("gru", 9)
    widened = given | {"x": 0.3 * np.tile(given["x"], 2)[..., :9]}
    columns = given["input_kernel"].shape[1]
    stacked = {
        k: np.stack([v * s for s in (0.5, 1.0)])
        for k, v in (widened | {"input_kernel": 0.1 * np.ones((9, columns), np.float32)}).items()
        if k not in DATA
    }

    def through_layers(backend: str, part: Arrays) -> Array:
        def layer(x: Array, weights: Arrays) -> tuple[Array, Array]:
            return tuple(run("gru", backend, {**weights, "x": x, "h0": part["h0"]}))

        outputs, finals = jax.lax.scan(layer, part["x"], stacked)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(jnp.cos(finals))

    part = {k: widened[k] for k in ("x", "h0")}
    found, wanted = (
        jax.jit(partial(gradients, names, partial(through_layers, backend)))(part)
        for backend in ("native", "reference")
    )
    close(found, wanted, 3e-5)


@pytest.mark.parametrize(
    ("cell", "order"), [("lstm", "jvp of grad"), ("gru", "grad of grad"), ("gru", "grad of jvp")]
)
def test_second_derivatives_in_x(cell: str, order: str) -> None:
    given = arrays(cell, 9)
    along = np.cos(given["x"])

    def transform(loss: Callable[..., Any]) -> Any:
        def product(given: Arrays) -> Array:
            def of_x(x: Array) -> Array:
                return loss(given | {"x": x})

            if order == "jvp of grad":
                return jax.jvp(jax.grad(of_x), (given["x"],), (along,))[1]
            if order == "grad of grad":
                return jax.grad(lambda x: jnp.sum(jax.grad(of_x)(x) * along))(given["x"])
            return jax.grad(lambda x: jax.jvp(of_x, (x,), (along,))[1])(given["x"])

        return product

    same(transform, cell, given, tolerance=1e-4)


def test_a_gradient_penalty() -> None:
    """The weights' gradients of a function of the gradient in x."""

    def transform(loss: Callable[..., Any]) -> Any:
        def penalty(given: Arrays) -> Array:
            return jnp.sum(gradients(("x",), loss, given)["x"] ** 2)

        return partial(gradients, ("bias", "recurrent_kernel"), penalty)

    same(transform, "lstm", arrays("lstm", 9), tolerance=1e-4)


@pytest.mark.parametrize("mapped", [("recurrent_kernel",), ("h0", "x")], ids=str)
@pytest.mark.parametrize("names", [("x",), ("h0",)], ids=str)
def test_groups_and_batches(names: tuple[str, ...], mapped: tuple[str, ...]) -> None:
    """`jax.vmap` of the gradient, over weights and over sequences."""
    given = arrays("gru", 9)
    several = {k: np.stack([v, v * 0.5]) if k in mapped else v for k, v in given.items()}
    axes = {k: 0 if k in mapped else None for k in given}
    same(lambda loss: jax.vmap(partial(gradients, names, loss), (axes,)), "gru", several)


@pytest.mark.parametrize("names", [("x",), ("h0",)], ids=str)
def test_inside_shard_map(names: tuple[str, ...]) -> None:
    mesh, P = mesh_of(rows=DEVICES), jax.sharding.PartitionSpec
    given = arrays("gru", 9, rows=2 * DEVICES)
    specs = {k: P("rows") if k in DATA else P() for k in given}

    def transform(loss: Callable[..., Any]) -> Any:
        return jax.shard_map(
            partial(gradients, names, loss),
            mesh=mesh,
            in_specs=(specs,),
            out_specs={k: specs[k] for k in names},
        )

    same(transform, "gru", given)


def test_linearize_and_its_transpose() -> None:
    given = arrays("lstm", 9)

    def transform(loss: Callable[..., Any]) -> Any:
        def both(given: Arrays, along: Array) -> Any:
            value, linear = jax.linearize(lambda x: loss(given | {"x": x}), given["x"])
            return value, linear(along), jax.linear_transpose(linear, along)(value)

        return both

    same(transform, "lstm", given, np.cos(given["x"]))


@pytest.mark.parametrize("name", ["x", "weights", "initial"])
def test_wavefront(name: str) -> None:
    """Stacked layers over devices, in one of its arguments."""
    layers, units = 2, 9
    each = [arrays("gru", units), arrays("gru", units)]
    stacked = {k: np.stack([a[k] for a in each]) for k in each[0] if k != "x"}
    columns = 3 * units
    initial = stacked.pop("h0")
    stacked["input_kernel"] = np.linspace(-0.3, 0.3, layers * units * columns, dtype=np.float32)
    stacked["input_kernel"] = stacked["input_kernel"].reshape(layers, units, columns)
    given = {
        "x": np.sin(np.arange(B * T * units, dtype=np.float32)).reshape(B, T, units),
        "weights": put(mesh_of(layers=layers), stacked, "layers"),
        "initial": initial,
    }

    def value(backend: str, given: Arrays) -> Array:
        options = {"mesh": mesh_of(layers=layers), "axis": "layers", "chunks": 2}
        outputs, final = wavefront(
            jp.gru, given["x"], given["weights"], given["initial"], backend=backend, **options
        )
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(jnp.cos(final))

    found, wanted = (
        jax.jit(partial(gradients, (name,), partial(value, backend)))(given)
        for backend in ("native", "reference")
    )
    close(found, wanted, 3e-5)
