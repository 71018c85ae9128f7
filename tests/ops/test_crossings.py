# SPDX-License-Identifier: Apache-2.0
"""Random crossings of everything that a call can be asked for, kernel against reference.

Each seed is a crossing, and its name says what was drawn. JAX_PERSISTENT_CROSSINGS=200 tries that
many instead of the few of every run.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import mesh_of, put

from jax_persistent.cells import CELLS
from jax_persistent.ops import functions
from jax_persistent.problem import DIRECTIONS, Arrays

FEW = 24
COUNT = int(os.environ.get("JAX_PERSISTENT_CROSSINGS", FEW))
WEIGHTS = ("input_kernel", "recurrent_kernel", "bias", "recurrent_bias")
TRANSFORMS = ("none", "vmap data", "vmap weights", "vmap both", "checkpoint", "mesh", "scan")
# Rounding, and in bfloat16 the rounding of h at each step, of values of about 1.
TOLERANCE = {"float32": 3e-5, "bfloat16": 0.06}


@dataclass(frozen=True)
class Crossing:
    seed: int
    cell: str
    dtype: str
    sizes: tuple[int, int, int, int]  # T, B, I, H
    directions: str
    flags: tuple[str, ...]
    differentiated: tuple[str, ...]
    transform: str
    weights: str  # as in Problem

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.sizes))
        parts = (self.cell, self.dtype, sizes, self.directions, *self.flags)
        gradients = "d:" + "+".join(self.differentiated)
        return f"{self.seed}: {' '.join(parts)} {gradients}; {self.transform}; {self.weights}"

    @property
    def of_each(self) -> tuple[int, ...]:
        """The axis that all but x and the lengths have of two directions."""
        return (2,) if self.directions == "both" else ()


def drawn(seed: int) -> Crossing:
    draw = random.Random(seed)
    cell = draw.choice(["lstm", "gru", "elman_tanh"])
    transform = draw.choice(TRANSFORMS)
    batch = 8 if transform == "mesh" else draw.choice([1, 2, 3, 5, 9])
    sizes = draw.choice([1, 2, 4, 7]), batch, draw.choice([1, 3, 6]), draw.choice([1, 5, 8, 17, 33])
    directions = draw.choice(list(DIRECTIONS))
    flags = ["lengths", "resets", "reset_state", "time_major", "bias", "initial_state"]
    flags += ["recurrent_bias"] if cell == "gru" else []
    given = [flag for flag in flags if draw.random() < 0.5]
    if "resets" not in given:
        given = [flag for flag in given if flag != "reset_state"]
    arrays = ["x", "input_kernel", "recurrent_kernel"]
    arrays += [f for f in given if f in ("bias", "recurrent_bias", "initial_state", "reset_state")]
    some = [name for name in arrays if draw.random() < 0.5] or [draw.choice(arrays)]
    dtype = draw.choice(["float32", "float32", "bfloat16"])
    weights = draw.choice(["one", "per_direction", "per_gate", "per_gate"])
    given, some = tuple(given), tuple(some)
    return Crossing(seed, cell, dtype, sizes, directions, given, some, transform, weights)


def cut(c: Crossing, name: str, array: jax.Array) -> tuple[jax.Array, ...]:
    """A weight, or its gradient, in the arrays that the crossing has of it."""
    ways = [array]
    if c.of_each:
        axis = -3 if name.endswith("kernel") else -2
        ways = [jnp.take(array, way, axis) for way in range(2)]
    gates = CELLS[c.cell].gates if c.weights == "per_gate" else 1
    return tuple(part for way in ways for part in jnp.split(way, gates, -1))


def moving(c: Crossing, name: str, array: Any) -> Any:
    """Of what is differentiated: of a weight that is several arrays, some of those."""
    if not isinstance(array, tuple) or name not in WEIGHTS:
        return array
    draw = random.Random(f"{c.seed} {name}")
    return {n: a for n, a in enumerate(array) if n == len(array) - 1 or draw.random() < 0.5}


def moved(given: Any, part: Any) -> Any:
    """All arrays, those in `part` in place of the given ones."""
    found = dict(given)
    for name, some in part.items():
        if isinstance(some, dict):
            found[name] = tuple(some.get(n, a) for n, a in enumerate(given[name]))
        else:
            found[name] = some
    return found


def operands(c: Crossing) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays that can be differentiated, and options."""
    (steps, batch, inputs, hidden), draw = c.sizes, np.random.default_rng(c.seed)
    columns = CELLS[c.cell].gates * hidden

    def normal(*shape: int, scale: float = 0.6) -> jax.Array:
        return jnp.asarray(scale * draw.standard_normal(shape), c.dtype)

    def states() -> Any:
        return tuple(normal(*c.of_each, batch, hidden) for _ in CELLS[c.cell].states)

    sequence = (steps, batch) if "time_major" in c.flags else (batch, steps)
    arrays = {
        "x": normal(*sequence, inputs),
        "input_kernel": normal(*c.of_each, inputs, columns, scale=inputs**-0.5),
        "recurrent_kernel": normal(*c.of_each, hidden, columns, scale=hidden**-0.5),
    }
    for name in ("bias", "recurrent_bias"):
        if name in c.flags:
            arrays[name] = normal(*c.of_each, columns)
    for name in ("initial_state", "reset_state"):
        if name in c.flags:
            arrays[name] = states()
    options: dict[str, Any] = {}
    if "lengths" in c.flags:
        options["lengths"] = jnp.asarray(draw.integers(0, steps + 1, batch), jnp.int32)
    if "resets" in c.flags:
        options["resets"] = jnp.asarray(draw.random((*c.of_each, *sequence)) < 0.4)
    return arrays, options


def evaluated(c: Crossing, backend: str) -> Any:
    """The results, and the gradients of a weighted sum of them in the differentiated arrays.

    The reference takes weights of one array each, and its gradients are cut into several.
    """
    arrays, options = operands(c)
    apart = c.weights != "one"
    if apart and backend == "native":
        arrays = {n: cut(c, n, a) if n in WEIGHTS else a for n, a in arrays.items()}

    def run(given: Any, options: Any) -> Any:
        return functions.run(
            CELLS[c.cell],
            Arrays(given | options),
            directions=c.directions,
            time_major="time_major" in c.flags,
            backend=backend,
        )

    if c.transform == "checkpoint":
        run = jax.checkpoint(run)

    def loss(part: Any, given: Any, options: Any) -> Any:
        results = run(moved(given, part), options)
        total = jnp.float32(0)
        for n, result in enumerate(jax.tree.leaves(results)):
            weights = jnp.cos(jnp.arange(result.size) + n).reshape(result.shape)
            total += jnp.sum(jnp.sin(result.astype(jnp.float32)) * weights)
        return total, results

    def both(given: Any, options: Any) -> Any:
        part = {name: moving(c, name, given[name]) for name in c.differentiated}
        (_, results), found = jax.value_and_grad(loss, has_aux=True)(part, given, options)
        if apart and backend == "reference":
            several = {name: cut(c, name, found[name]) for name in found if name in WEIGHTS}
            found |= {name: moving(c, name, arrays) for name, arrays in several.items()}
        return results, found

    if c.transform == "scan":  # twice, on halved inputs the second time

        def body(scale: jax.Array, _: None) -> Any:
            halved = arrays | {"x": arrays["x"] * scale}
            return scale / 2, both(halved, options)

        return jax.jit(lambda one: jax.lax.scan(body, one, None, length=2)[1])(
            jnp.ones((), c.dtype)
        )
    if c.transform.startswith("vmap"):
        which = {"vmap data": False, "vmap weights": True}.get(c.transform)  # None: both
        mapped = [n for n in arrays if which is None or (n in WEIGHTS) == which]
        axes = {n: 0 if n in mapped else None for n in arrays}
        several = {n: jax.tree.map(two, a) if n in mapped else a for n, a in arrays.items()}
        return jax.jit(jax.vmap(both, (axes, None)))(several, options)
    if c.transform == "mesh":
        return jax.jit(both)(*split(c, arrays, options))
    return jax.jit(both)(arrays, options)


def two(array: jax.Array) -> jax.Array:
    return jnp.stack([array, array / 2])


def split(c: Crossing, arrays: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Any]:
    """Everything that has rows, over eight devices."""
    mesh = mesh_of(data=8)
    rows = (None, "data") if "time_major" in c.flags else ("data",)
    either = [None for _ in c.of_each]
    axes = {"x": rows, "lengths": ("data",), "resets": (*either, *rows)}

    def placed(name: str, array: Any) -> Any:
        return array if name in WEIGHTS else put(mesh, array, *axes.get(name, (*either, "data")))

    return tuple({name: placed(name, a) for name, a in each.items()} for each in (arrays, options))


@pytest.mark.parametrize("crossing", [drawn(seed) for seed in range(COUNT)], ids=str)
def test_kernel_and_reference_agree(crossing: Crossing) -> None:
    native, expected = (evaluated(crossing, backend) for backend in ("native", "reference"))
    tolerance = TOLERANCE[crossing.dtype]
    for got, want in zip(jax.tree.leaves(native), jax.tree.leaves(expected), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        got, want = (np.asarray(a, np.float64) for a in (got, want))
        size = max(1.0, float(np.abs(want).max(initial=0)))
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * size)
