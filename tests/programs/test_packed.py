# SPDX-License-Identifier: Apache-2.0
"""Packed matrices in a step: the bits of plain ones under every transform, or an error."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, export, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal
from programs.steps import CASES, Case, arguments, lstm, peephole

import jax_persistent as jp
from jax_persistent import cells
from jax_persistent.ffi import call

KERNEL = partial(jp.scan, backend="native")
# Those of `steps.py` that multiply with plain matrices.
MULTIPLIES = [name for name in CASES if name != "by_heads"]
# I, H: a product with one panel, and with several that the gates cut in their middles.
# T, B: matrices that are packed and that are read where they lie, in columns and rows in one part
# and in several.
SIZES = {
    (4, 6): (11, 3),
    (10, 70): (2, 1),
    (33, 40): (1, 17),
    (4, 36): (1, 41),
    (6, 600): (2, 8),
}


def packed(weights: dict[str, Array]) -> dict[str, Any]:
    """The same with every matrix packed."""
    matrices = {n: w for n, w in weights.items() if w.ndim == 2}
    return weights | jp.pack("scan", matrices)


def scanned(scan: Any, step: Any, weights: Any, carry: Any, xs: Any, **how: Any) -> Any:
    return scan(partial(step, weights), carry, xs, **how)


def compiled(scan: Any, step: Any, **how: Any) -> Any:
    return jax.jit(partial(scanned, scan, step, **how))


def assert_same(got: Any, want: Any) -> None:
    jax.tree.map(assert_array_equal, got, want)


def wide(step: Any, inputs: int, units: int) -> Case:
    """An LSTM's step of other sizes."""
    shapes = {"W": (inputs, 4 * units), "R": (units, 4 * units)}
    return Case(step, shapes | {"b": (4 * units,)}, (units, units))


def of_sizes(case: Case, steps: int, rows: int, inputs: int, dtype: Any = np.float32) -> Any:
    weights, carry, _ = arguments(case, 7, 1, (rows,), dtype)
    draw = np.random.default_rng(8).normal(size=(steps, rows, inputs))
    return weights, carry, jnp.asarray(draw, dtype)


@pytest.mark.parametrize("name", ["PeepholeLSTM", "LayerNormGRU", "RecurrentHighway"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_library_cells_take_them(name: str, dtype: str) -> None:
    cell = getattr(cells, name)()
    weights = cell.init(jax.random.key(1), 6, 20, dtype)
    carry, xs = cell.start(20, 3, dtype), jnp.ones((4, 3, 6), dtype)
    run = compiled(KERNEL, cell)
    assert_same(run(packed(weights), carry, xs), run(weights, carry, xs))


@pytest.mark.parametrize("name", MULTIPLIES)
def test_the_same_bits(name: str) -> None:
    case = CASES[name]
    reverse = len(name) % 2 == 1
    weights, carry, xs = arguments(case, seed=4)
    run = compiled(KERNEL, case.step, reverse=reverse)
    assert_same(run(packed(weights), carry, xs), run(weights, carry, xs))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes: tuple[int, int], dtype: str) -> None:
    (inputs, units), (steps, rows) = sizes, SIZES[sizes]
    given = of_sizes(wide(lstm, inputs, units), steps, rows, inputs, dtype)
    run = compiled(KERNEL, lstm)
    assert_same(run(packed(given[0]), *given[1:]), run(*given))


def test_lengths_and_resets() -> None:
    weights, carry, xs = of_sizes(wide(lstm, 4, 36), 4, 3, 4)
    resets = jnp.zeros((4, 3), bool).at[2, 1].set(True)
    run = compiled(KERNEL, lstm, lengths=jnp.array([4, 3, 0]), resets=resets)
    assert_same(run(packed(weights), carry, xs), run(weights, carry, xs))


def test_some_are_packed() -> None:
    """Beside plain matrices that multiply the same vectors, and one packed for Elman."""

    def step(w: dict[str, Any], h: Array, x: Array) -> Any:
        h = jnp.tanh(x @ w["W"] + h @ w["R0"] + h @ w["R1"]) * jax.nn.sigmoid(h @ w["R2"])
        return h, h

    shapes = {"W": (4, 34), "R0": (34, 34), "R1": (34, 34), "R2": (34, 34)}
    weights, (h,), xs = of_sizes(Case(step, shapes, (34,)), 3, 2, 4)
    run = compiled(KERNEL, step)
    some = {"R1": jp.pack("scan", weights["R1"]), "W": jp.pack("elman", weights["W"])}
    found = run(weights | some, h, xs)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found, run(weights, h, xs))


@pytest.mark.parametrize("scan", [lax.scan, partial(jp.scan, backend="reference")])
def test_a_lax_scan_unpacks(scan: Any) -> None:
    weights, carry, xs = arguments(CASES["peephole"], seed=2)
    run = compiled(scan, peephole)
    assert_same(run(packed(weights), carry, xs), run(weights, carry, xs))


def test_a_step_by_itself() -> None:
    """Outside of a scan, operation by operation; NumPy's vectors, too."""
    weights, carry, xs = arguments(CASES["lstm"], seed=3)
    assert_same(lstm(packed(weights), carry, xs[0]), lstm(weights, carry, xs[0]))
    r = packed(weights)["R"]
    assert_same(np.ones((2, 6), np.float32) @ r, jnp.ones((2, 6)) @ weights["R"])


def test_an_ensemble() -> None:
    """vmap over packed matrices outside of the scan and inside, over pack, and over rows."""
    case, members = CASES["peephole"], 3
    several = [arguments(case, seed) for seed in range(members)]
    weights, carry, xs = jax.tree.map(lambda *a: jnp.stack(a), *several)
    panels = jax.jit(jax.vmap(packed))(weights)

    def inside(weights: Any, carry: Any, xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            return jax.vmap(peephole)(weights, carry, x)

        return KERNEL(step, carry, jnp.swapaxes(xs, 0, 1))

    outside = jax.jit(jax.vmap(partial(scanned, KERNEL, peephole)))
    for run in (outside, jax.jit(inside)):
        assert_same(run(panels, carry, xs), run(weights, carry, xs))
    of_rows = jax.jit(jax.vmap(partial(scanned, KERNEL, peephole), (None, 0, 0)))
    one = jax.tree.map(lambda a: a[1], (panels, weights))
    assert_same(of_rows(one[0], carry, xs), of_rows(one[1], carry, xs))


def test_heads_are_unpacked() -> None:
    """Matrices side by side, one a head, in one packed array."""

    def step(matrices: Any, h: Array, x: Array) -> Any:
        h = jnp.tanh((h.reshape(3, 2, 1, 4) @ matrices).reshape(3, 8) + x)
        return h, h

    matrices, xs = jax.random.normal(jax.random.key(0), (2, 4, 4)), jnp.ones((5, 3, 8))
    run = compiled(KERNEL, step)
    panels = jax.vmap(partial(jp.pack, "scan"))(matrices)
    assert_same(run(panels, xs[0], xs), run(matrices, xs[0], xs))


def test_a_loop_of_single_steps() -> None:
    """Packed in the program that loops; and carried and donated as any state."""
    weights, carry, xs = arguments(CASES["lstm"], seed=5)

    def decode(pack: bool, weights: Any, carry: Any) -> Any:
        weights = packed(weights) if pack else weights

        def one(n: Any, state: Any) -> Any:
            weights, carry = state
            return weights, KERNEL(partial(lstm, weights), carry, xs[n][None])[0]

        return lax.fori_loop(0, len(xs), one, (weights, carry))[1]

    run = jax.jit(decode, static_argnums=0)
    expected = run(False, weights, carry)
    assert_same(run(True, weights, carry), expected)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(weights: Any, carry: Any, x: Array) -> Any:
        return weights, jp.scan(partial(lstm, weights), carry, x[None])[0]

    state = packed(weights), jax.tree.map(jnp.copy, carry)
    for x in xs:
        given, state = state[0], step(*state, x)
        assert given["R"].panels.is_deleted()
    assert_same(state[1], expected)


def targets(step: Any, weights: Any, carry: Any, xs: Any) -> list[str]:
    text = compiled(jp.scan, step).lower(weights, carry, xs).as_text()
    return [name for name in (call.TARGETS["program"], call.PRODUCT_TARGET) if name in text]


def test_a_large_single_step_of_one_row_is_a_kernel_if_it_is_packed() -> None:
    weights, carry, xs = of_sizes(wide(lstm, 4, 260), 1, 1, 4)
    assert targets(lstm, weights, carry, xs) == []
    assert targets(lstm, packed(weights), carry, xs) == [
        "jax_persistent.program",
        "jax_persistent.product",
    ]
    only_w = weights | {"W": jp.pack("scan", weights["W"])}
    assert targets(lstm, only_w, carry, xs) == []


def test_export() -> None:
    weights, carry, xs = of_sizes(wide(lstm, 4, 20), 1, 3, 4)
    names = (call.TARGETS["program"], call.PRODUCT_TARGET)
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in names]
    run = compiled(jp.scan, lstm)
    panels = packed(weights)
    exported = export.export(run, disabled_checks=checks)(panels, carry, xs)
    assert_same(exported.call(panels, carry, xs), run(panels, carry, xs))


def test_a_batch_over_devices() -> None:
    weights, carry, xs = of_sizes(wide(lstm, 4, 20), 3, 4, 4)
    mesh = Mesh(np.array(jax.devices()[:2]), "b")

    def placed(tree: Any, *spec: Any) -> Any:
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*spec)))

    run = compiled(KERNEL, lstm)
    found = run(placed(packed(weights)), placed(carry, "b"), placed(xs, None, "b"))
    assert not found[1].sharding.is_fully_replicated
    expected = run(weights, carry, xs)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found, expected)


def test_other_gradients_are_those_of_plain_matrices() -> None:
    weights, carry, xs = arguments(CASES["peephole"], seed=6)

    def loss(others: Any, weights: Any) -> Array:
        p, carry, xs = others
        results = scanned(KERNEL, peephole, weights | {"p": p}, carry, xs)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(results))

    gradient = jax.jit(jax.grad(loss))
    others = weights["p"], carry, xs
    assert_same(gradient(others, packed(weights)), gradient(others, weights))


def test_gradients_of_packed_matrices_raise() -> None:
    weights, carry, xs = arguments(CASES["lstm"], seed=1)
    panels = packed(weights)

    def loss(scan: Any, weights: Any) -> Array:
        return scanned(scan, lstm, weights, carry, xs)[1].sum()

    kernel, plain = partial(loss, KERNEL), partial(loss, lax.scan)
    says = "packed kernels: expected no gradient with respect to them.*Train with the kernels"
    for attempt in (
        lambda: jax.grad(kernel)(panels),
        lambda: jax.jit(jax.grad(kernel))(panels),
        lambda: jax.grad(plain)(panels),
        lambda: jax.jvp(kernel, (panels,), (panels,)),
        lambda: jax.grad(lambda weights: kernel(packed(weights)))(weights),
    ):
        with pytest.raises(ValueError, match=says):
            attempt()


@pytest.mark.parametrize("jit", [False, True])
def test_wrong_operands(jit: bool) -> None:
    weights, carry, xs = arguments(CASES["lstm"], seed=1)
    r = jp.pack("scan", weights["R"])

    def rejects(says: str, r: Any, run: Any = lambda r: jnp.ones((2, 6)) @ r) -> None:
        with pytest.raises(ValueError, match=re.escape(says)):
            (jax.jit(run) if jit else run)(r)

    rejects(
        "expected vectors of its dtype float32; got bfloat16. Convert one of them: the kernel",
        r,
        lambda r: jnp.ones((2, 6), jnp.bfloat16) @ r,
    )
    rejects("got one for a cell of 4 gates. Pack it with", jp.pack("lstm", weights["R"]))
    rejects("expected panels", replace(r, panels=r.panels[..., 1:]))
    rejects("kernels: expected [K, N]; got shape (6,)", jnp.ones(6), partial(jp.pack, "scan"))
    lanes = r.lanes
    other = replace(r, lanes=2 * lanes)
    other = replace(other, panels=jnp.ones(other.panels_shape))

    def scan(r: Any, backend: str | None = None) -> Any:
        return scanned(jp.scan, lstm, weights | {"R": r}, carry, xs, backend=backend)

    says = f"packed for vectors of {2 * lanes} units, and this machine's have {lanes}: "
    rejects(says, other, scan)
    rejects(says, other, partial(scan, backend="native"))
    assert_same(jax.tree.leaves(scan(other, "reference"))[0].shape, (3, 6))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_another_platform_unpacks(platform: str) -> None:
    weights, carry, xs = arguments(CASES["lstm"], seed=1)
    traced = compiled(jp.scan, lstm).trace(packed(weights), carry, xs)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "tensor<6x24xf32>" in text
    assert call.PRODUCT_TARGET not in text


def test_explain() -> None:
    weights, carry, xs = of_sizes(wide(lstm, 5, 36), 2, 3, 5)

    def text(**packs: Any) -> str:
        return str(jp.explain(partial(lstm, weights | packs), carry, xs))

    both = packed(weights)
    assert "packed matrices" not in text()
    assert "products with packed matrices: 1\n" in text(R=both["R"])
    # An odd number of features of x.
    assert "products with packed matrices: 2, 1 of them unpacked first" in text(**both)

    def of_a_constant(h: Array, x: Array) -> Any:
        del x
        r = jp.pack("scan", weights["R"])
        return jnp.tanh((h @ r)[:, :36] + jnp.sum(jnp.eye(36) @ r) + h), None

    found = str(jp.explain(of_a_constant, carry[0], None, length=3))
    assert "products with packed matrices: 2, 1 of them unpacked first" in found
