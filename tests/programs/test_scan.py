# SPDX-License-Identifier: Apache-2.0
"""`jp.scan` against `jax.lax.scan`: values and gradients, of cells that people write."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from programs.steps import CASES, B, Case, T, arguments

import jax_persistent as jp

Tree = Any
KERNEL = partial(jp.scan, backend="native")


def scanned(scan: Any, case: Case, w: Tree, carry: Tree, xs: Tree, **how: Any) -> Tree:
    return scan(partial(case.step, w), carry, xs, **how)


def gradients(scan: Callable[..., Tree], case: Case, *given: Tree, **how: Any) -> Tree:
    """Of a sum with weights of every float result, with respect to all three."""

    def loss(*given: Tree) -> Any:
        results = jax.tree.leaves(scanned(scan, case, *given, **how))
        floats = [r for r in results if jnp.issubdtype(r.dtype, jnp.floating)]
        weights = [jnp.cos(jnp.arange(r.size, dtype=r.dtype)).reshape(r.shape) for r in floats]
        return sum((r * w).sum().astype(jnp.float32) for r, w in zip(floats, weights, strict=True))

    return jax.grad(loss, (0, 1, 2))(*given)


def both(scan: Callable[..., Tree], case: Case, *given: Tree, **how: Any) -> Tree:
    return scanned(scan, case, *given, **how), gradients(scan, case, *given, **how)


def assert_close(found: Tree, expected: Tree, tolerance: float = 2e-5) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), tolerance, tolerance
        )


@pytest.mark.parametrize("name", CASES)
def test_it_is_lax_scan(name: str) -> None:
    """In either direction: every other step backwards, and some of them in both below."""
    case, reverse = CASES[name], list(CASES).index(name) % 2 == 1
    given = arguments(case, seed=len(name))
    found = jax.jit(partial(both, KERNEL, case, reverse=reverse))(*given)
    assert_close(found, jax.jit(partial(both, lax.scan, case, reverse=reverse))(*given))
    plan = jp.explain(partial(case.step, given[0]), *given[1:])
    assert plan.backend == "native", plan


SOME = ("gru_reset_before", "normalised", "by_heads", "halting")


def lengths_and_resets(seed: int, steps: int = T, rows: int = B) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    lengths = draw.permutation([0, steps, *range(1, steps)])[:rows]
    return {"lengths": lengths, "resets": jnp.asarray(draw.random((steps, rows)) < 0.4)}


def masked(
    case: Case, w: Tree, carry: Tree, xs: Tree, *, lengths: Any, resets: Any, **how: Any
) -> Tree:
    """The same spelled out, by `lax.scan`."""

    def step(carry: Tree, given: Tree) -> Tree:
        x, t, reset = given
        start = jax.tree.map(lambda c: jnp.where(reset[:, None], 0, c), carry)
        after, y = case.step(w, start, x)
        runs = t < lengths

        def chosen(a: Any, b: Any) -> Any:
            return jnp.where(runs.reshape(-1, *[1] * (a.ndim - 1)), a, b)

        kept = jax.tree.map(chosen, after, carry)
        return kept, jax.tree.map(lambda a: chosen(a, jnp.zeros_like(a)), y)

    return lax.scan(step, carry, (xs, jnp.arange(xs.shape[0]), resets), **how)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", SOME)
def test_lengths_and_resets(name: str, reverse: bool) -> None:
    case, given = CASES[name], arguments(CASES[name], seed=1)
    how = lengths_and_resets(seed=2) | {"reverse": reverse}

    def plainly(f: Any, carry: Tree, xs: Tree, **how: Any) -> Tree:
        return masked(case, f.args[0], carry, xs, **how)

    found = jax.jit(partial(both, KERNEL, case, **how))(*given)
    assert_close(found, jax.jit(partial(both, plainly, case, **how))(*given))


@pytest.mark.parametrize("axes", [(None, None, 1), (None, 0, None), (0, None, None), (0, 0, 1)])
@pytest.mark.parametrize("name", SOME)
def test_vmap(name: str, axes: tuple[Any, ...]) -> None:
    """Over data, over weights, over both; of the gradient, too."""
    case, size = CASES[name], 2
    several = [arguments(case, seed) for seed in range(size)]
    given = []
    for parts, axis in zip(zip(*several, strict=True), axes, strict=True):
        stack = partial(lambda axis, *a: jnp.stack(a, axis), axis)
        given.append(parts[0] if axis is None else jax.tree.map(stack, *parts))
    found = jax.jit(jax.vmap(partial(both, KERNEL, case), axes))(*given)
    assert_close(found, jax.jit(jax.vmap(partial(both, lax.scan, case), axes))(*given))


def test_vmap_twice() -> None:
    case = CASES["peephole"]
    several = [[arguments(case, 3 * i + j) for j in range(3)] for i in range(2)]
    inner = [jax.tree.map(lambda *a: jnp.stack(a), *row) for row in several]
    given = jax.tree.map(lambda *a: jnp.stack(a), *inner)

    def run(scan: Any) -> Tree:
        return jax.jit(jax.vmap(jax.vmap(partial(both, scan, case))))(*given)

    assert_close(run(KERNEL), run(lax.scan))


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
@pytest.mark.parametrize("name", ["lstm", "over_concatenated", "normalised"])
def test_axes_of_rows(name: str, batch: tuple[int, ...]) -> None:
    """Each step function and each batch with a single step, and with several."""
    case, steps = CASES[name], 4 if (len(name) + len(batch)) % 2 else 1
    if not batch:  # a step of one row has no axis for a bias to be broadcast along

        def unbatched(w: Tree, carry: Tree, x: Any) -> Tree:
            rows = jax.tree.map(lambda a: a[None], (carry, x))
            return jax.tree.map(lambda a: a[0], CASES[name].step(w, *rows))

        case = case._replace(step=unbatched)
    if len(batch) == 2:

        def mapped(w: Tree, carry: Tree, x: Any) -> Tree:
            return jax.vmap(CASES[name].step, (None, 0, 0))(w, carry, x)

        case = case._replace(step=mapped)
    given = arguments(case, 4, steps, batch)
    found = jax.jit(partial(both, KERNEL, case))(*given)
    assert_close(found, jax.jit(partial(both, lax.scan, case))(*given))


@pytest.mark.parametrize("name", ["lstm", "normalised", "peephole"])
def test_bfloat16_is_as_near_as_jax(name: str) -> None:
    case = CASES[name]
    exact = arguments(case, 5)
    given = jax.tree.map(lambda a: a.astype(jnp.bfloat16), exact)
    exact = jax.tree.map(lambda a: a.astype(jnp.float32), given)
    truth = jax.jit(partial(both, lax.scan, case))(*exact)
    plain = jax.jit(partial(both, lax.scan, case))(*given)
    found = jax.jit(partial(both, KERNEL, case))(*given)

    def error(tree: Tree) -> list[float]:
        return [
            float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(truth), strict=True)
        ]

    assert [a.dtype for a in jax.tree.leaves(found)] == [a.dtype for a in jax.tree.leaves(plain)]
    for ours, theirs in zip(error(found), error(plain), strict=True):
        assert ours <= 1.5 * theirs + 1e-2


@pytest.mark.parametrize("name", ["gru_reset_before", "highway"])
def test_derivatives_of_any_order(name: str) -> None:
    case, given = CASES[name], arguments(CASES[name], 6)

    def derivatives(scan: Any) -> Any:
        def run(*given: Tree) -> Tree:
            values = partial(scanned, scan, case)
            _, tangents = jax.jvp(values, given, jax.tree.map(jnp.cos, given))

            def of_gradient(*given: Tree) -> Any:
                leaves = jax.tree.leaves(gradients(scan, case, *given))
                return sum(jnp.square(leaf).sum() for leaf in leaves)

            remat = jax.checkpoint(partial(gradients, scan, case))
            return tangents, jax.grad(of_gradient, (0, 1, 2))(*given), remat(*given)

        return jax.jit(run)(*given)

    assert_close(derivatives(jp.scan), derivatives(lax.scan), 2e-4)


def test_remat_keeps_nothing() -> None:
    case, given = CASES["lstm"], arguments(CASES["lstm"], 7)

    def loss(*given: Tree) -> Any:
        run = jax.checkpoint(partial(scanned, KERNEL, case))
        return sum(r.sum() for r in jax.tree.leaves(run(*given)))

    plain = lambda *given: sum(r.sum() for r in jax.tree.leaves(scanned(lax.scan, case, *given)))  # noqa: E731
    assert_close(jax.grad(loss, (0, 1, 2))(*given), jax.grad(plain, (0, 1, 2))(*given))


def test_inside_other_control_flow() -> None:
    case, (w, carry, xs) = CASES["rate"], arguments(CASES["rate"], 8)

    def run(scan: Any) -> Tree:
        def outer(carry: Tree, xs: Tree) -> Tree:
            inner = lambda c: scan(partial(case.step, w), c, xs)[0]  # noqa: E731
            carry = lax.cond(xs.sum() > -1e9, inner, lambda c: c, carry)
            return lax.fori_loop(0, 2, lambda _, c: inner(c), carry), carry

        return jax.jit(lambda xs: lax.scan(outer, carry, xs))(jnp.stack([xs, -xs]))

    assert_close(run(KERNEL), run(lax.scan))


def test_a_mesh() -> None:
    """Under a plain jit, where XLA splits the rows, and under shard_map, where we do."""
    case, (w, carry, xs) = CASES["normalised"], arguments(CASES["normalised"], 9, batch=(8,))
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    expected = both(lax.scan, case, w, carry, xs)
    split = jax.device_put(carry, jax.NamedSharding(mesh, spec("rows")))
    split_xs = jax.device_put(xs, jax.NamedSharding(mesh, spec(None, "rows")))
    by_xla = jax.jit(partial(both, KERNEL, case))
    assert_close(by_xla(w, split, split_xs), expected)
    compiled = by_xla.lower(w, split, split_xs).compile().as_text()
    assert "all-gather" not in compiled
    assert "jax_persistent.program" in compiled
    mapped = jax.shard_map(
        partial(scanned, KERNEL, case),
        mesh=mesh,
        in_specs=(spec(), spec("rows"), spec(None, "rows")),
        out_specs=(spec("rows"), spec(None, "rows")),
    )
    assert_close(jax.jit(mapped)(w, carry, xs), expected[0])


def test_export() -> None:
    case, given = CASES["coupled"], arguments(CASES["coupled"], 10)
    exported = jax.export.export(
        jax.jit(partial(scanned, KERNEL, case)),
        disabled_checks=[
            jax.export.DisabledSafetyCheck.custom_call(f"jax_persistent.{name}")
            for name in ("program", "product")
        ],
    )(*given)
    assert "jax_persistent.program" in exported.mlir_module()
    again = jax.export.deserialize(exported.serialize())
    assert_close(again.call(*given), scanned(lax.scan, case, *given))


@pytest.mark.parametrize("sizes", ["b, 5", "3, t", "b, t"])
def test_export_of_any_size_is_a_lax_scan(sizes: str) -> None:
    case, (w, carry, xs) = CASES["rate"], arguments(CASES["rate"], 14)
    rows, steps = jax.export.symbolic_shape(sizes)
    shapes = (
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), w),
        (jax.ShapeDtypeStruct((rows, *carry[0].shape[1:]), carry[0].dtype),),
        jax.ShapeDtypeStruct((steps, rows, *xs.shape[2:]), xs.dtype),
    )
    exported = jax.export.export(jax.jit(partial(scanned, jp.scan, case)))(*shapes)
    assert_close(exported.call(w, carry, xs), scanned(lax.scan, case, w, carry, xs))
    with pytest.raises(NotImplementedError, match="a size is a symbol"):
        jax.export.export(jax.jit(partial(scanned, KERNEL, case)))(*shapes)


def test_without_xs() -> None:
    _, (h,), _ = arguments(CASES["rate"], 11)
    R = arguments(CASES["rate"], 11)[0]["R"]

    def step(h: Any, x: None) -> Tree:
        del x
        h = jnp.tanh(h @ R)
        return h, h[:, :2]

    found = jax.jit(lambda h: KERNEL(step, h, length=7, reverse=True))(h)
    assert_close(found, lax.scan(step, h, length=7, reverse=True))


def test_what_does_not_wait_is_computed_before() -> None:
    """Results that no step waits for, a carry that never changes, ys of constants."""
    w, (h,), xs = arguments(CASES["rate"], 12)

    def step(carry: Tree, x: Any) -> Tree:
        h, kept = carry
        h = jnp.tanh(h @ kept + x @ w["W"])
        return (h, kept), {"h": h, "x": jnp.sin(x), "one": jnp.ones(3), "w": w["W"]}

    run = lambda scan: jax.jit(lambda h, R, xs: scan(step, (h, R), xs))  # noqa: E731
    assert_close(run(KERNEL)(h, w["R"], xs), run(lax.scan)(h, w["R"], xs))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("reverse", [False, True])
def test_counters_and_keys(reverse: bool, impl: str) -> None:
    """A carry of integers and keys that waits for itself alone, and what is drawn with it."""
    w, (h,), xs = arguments(CASES["rate"], 16)
    key = jax.random.key(5, impl=impl)

    def step(carry: Tree, x: Any) -> Tree:
        h, n, (drawing, odd) = carry
        drawing, one = jax.random.split(drawing)
        kept = jax.random.bernoulli(jax.random.fold_in(one, n), 0.7, h.shape)
        h = jnp.where(kept, jnp.tanh(h @ w["R"] + x @ w["W"]), h) + n.astype(h.dtype)
        return (h, n + 1 + odd, (drawing, 1 - odd)), {"h": h, "n": n}

    init = h, jnp.int32(3), (key, jnp.int32(0))
    run = lambda scan: jax.jit(lambda init, xs: scan(step, init, xs, reverse=reverse))(init, xs)  # noqa: E731
    found, expected = run(KERNEL), run(lax.scan)
    assert jnp.all(found[0][2][0] == expected[0][2][0])
    without = lambda r: ((*r[0][:2], r[0][2][1]), r[1])  # noqa: E731
    assert_close(without(found), without(expected))


def test_a_weakly_typed_carry_takes_the_dtype_of_the_step() -> None:
    for shape in ((), (B, 4)):
        xs, init = jnp.full((T, *shape), 0.5, jnp.bfloat16), jnp.full(shape, 1.0)
        found, expected = (scan(lambda h, x: (h * x, h), init, xs) for scan in (jp.scan, lax.scan))
        assert found[0].dtype == jnp.bfloat16
        assert_close(found, expected)


@pytest.mark.parametrize("refused", [False, True])
def test_a_step_is_traced_once(refused: bool) -> None:
    """As `lax.scan` does: flax counts what a step draws, and it would draw something else."""
    traces, h = [], jnp.ones((B, 4))

    def step(h: Any, x: Any) -> Tree:
        traces.append(x)
        return (jnp.sort(h, -1) if refused else jnp.tanh(h)), h

    jax.jit(lambda h: jp.scan(step, h, length=3))(h)
    assert len(traces) == 1


def test_only_what_is_asked_for_is_differentiated() -> None:
    case, given = CASES["peephole"], arguments(CASES["peephole"], 13)
    for asked in [(0,), (1,), (2,), (0, 2), (1, 2)]:
        loss = lambda scan, *g: sum(r.sum() for r in jax.tree.leaves(scanned(scan, case, *g)))  # noqa: E731
        found = jax.jit(jax.grad(partial(loss, KERNEL), asked))(*given)
        assert_close(found, jax.jit(jax.grad(partial(loss, lax.scan), asked))(*given))


@jax.custom_jvp
def sorted_slope(x: Any) -> Any:
    """tanh, with a derivative that no program has."""
    return jnp.tanh(x)


sorted_slope.defjvp(lambda x, dx: (sorted_slope(*x), dx[0] * jnp.sort(x[0], -1)))


@pytest.mark.parametrize("function", [sorted_slope, jax.nn.relu, lambda x: lax.lgamma(3 + x)])
def test_a_gradient_without_a_program_is_that_of_lax_scan(function: Any) -> None:
    """A function's own derivative counts; and digamma, lgamma's, is none of programs'."""
    w, (h,), xs = arguments(CASES["rate"], 14)

    def loss(scan: Any, R: Any, h: Any, xs: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = function(h @ R + x @ w["W"])
            return h, h

        return jnp.square(scan(step, h, xs)[1]).sum()

    found = jax.jit(jax.grad(partial(loss, jp.scan), (0, 1, 2)))(w["R"], h, xs)
    assert_close(found, jax.jit(jax.grad(partial(loss, lax.scan), (0, 1, 2)))(w["R"], h, xs), 1e-4)


# --- what can't be run, and wrong arguments


def test_a_float32_vector_is_not_rounded_for_a_bfloat16_matrix() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    R = (jax.random.normal(keys[0], (35, 35)) / 6).astype(jnp.bfloat16)
    h, xs = jnp.zeros((B, 35)), jax.random.normal(keys[1], (T, B, 35))
    how = (((1,), (0,)), ((), ()))

    def run(scan: Any, xs: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = jnp.tanh(x + lax.dot_general(h, R, how, preferred_element_type=jnp.float32))
            return h, h

        return scan(step, h, xs)

    assert_close(jax.jit(partial(run, KERNEL))(xs), jax.jit(partial(run, lax.scan))(xs))


def refusals() -> dict[str, tuple[Any, str]]:
    R = jnp.eye(4)

    def step(new: Callable[[Any], Any]) -> Any:
        return lambda h, x: (new(h), h)

    return {
        "sorts": (step(lambda h: jnp.sort(h, -1)), r"sort.*test_scan\.py:\d+"),
        "mixes rows": (step(lambda h: h - h.mean(0)[None]), r"reduce_sum.*test_scan\.py:\d+|row"),
        "both move": (step(lambda h: h @ h[:, :4].T @ h), r"dot_general.*test_scan\.py:\d+"),
        "branches": (
            step(lambda h: lax.cond(h[0, 0] > 0, lambda h: h @ R, lambda h: h, h)),
            r"cond.*test_scan\.py:\d+|slice",
        ),
    }


@pytest.mark.parametrize("name", refusals())
def test_what_has_no_program_is_a_lax_scan(name: str) -> None:
    step, message = refusals()[name]
    h = jnp.arange(12.0).reshape(3, 4) / 10
    with pytest.raises(NotImplementedError, match=message):
        KERNEL(step, h, length=5)
    assert_close(jp.scan(step, h, length=5), lax.scan(step, h, length=5))
    plan = jp.explain(step, h, length=5)
    assert plan.backend == "reference"
    assert "test_scan.py" in plan.reason


def test_errors_are_those_of_lax_scan() -> None:
    h, xs = jnp.ones((3, 4)), jnp.ones((5, 3, 4))
    wrong: list[tuple[Any, ...]] = [
        (lambda h, x: (h[:, :2], x), h, xs),
        (lambda h, x: ((h, h), x), h, xs),
        (lambda h, x: h, h, xs),
        (lambda h, x: (h + x, x), h, (xs, jnp.ones((4, 3)))),
        (lambda h, x: (h.astype(jnp.bfloat16), x), h, xs),
    ]
    for given in wrong:
        with pytest.raises((TypeError, ValueError)) as expected:
            lax.scan(*given)
        with pytest.raises(type(expected.value)) as found:
            jp.scan(*given)
        assert str(found.value).splitlines()[0] == str(expected.value).splitlines()[0]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"lengths": [1, 2]}, r"lengths: expected \(3,\) for its rows, .*; got \(2,\)"),
        ({"lengths": [1, 9, 2]}, "lengths: expected values in 0..T = 0..5; got"),
        ({"lengths": [1.0, 2.0, 3.0]}, "lengths: expected an integer dtype"),
        ({"resets": np.zeros((5, 3), np.int32)}, "resets: expected dtype bool; got int32"),
        ({"resets": np.zeros((4, 3), bool)}, "resets: expected .* with T = 5"),
        ({"backend": "cuda"}, "backend: expected None"),
    ],
)
def test_wrong_arguments(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jp.scan(lambda h, x: (h + x, h), jnp.ones((3, 4)), jnp.ones((5, 3, 4)), **how)


@pytest.mark.parametrize("norm_of_h", [True, False])
def test_norms_of_products(norm_of_h: bool) -> None:
    """That of x W is made in the step where that of h R is, else for all steps at once."""
    rng = np.random.default_rng(11)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    weights, xs, h = (draw(6, 9), draw(9, 9)), draw(5, 3, 6), jnp.zeros((3, 9))

    def norm(a: Any) -> Any:
        centred = a - a.mean(-1, keepdims=True)
        return centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)

    def step(weights: Any, h: Any, x: Any) -> Any:
        of_h = h @ weights[1]
        h = jnp.tanh(norm(x @ weights[0]) + (norm(of_h) if norm_of_h else of_h))
        return h, h

    said = str(jp.explain(partial(step, weights), h, xs))
    (before,) = re.findall(r"for all steps before, .*: (\d+) equations", said)
    assert (int(before) == 1) == norm_of_h  # the product alone

    def loss(scan: Any, weights: Any, xs: Any) -> Any:
        return jnp.square(scan(partial(step, weights), h, xs)[1]).sum()

    for argument in (0, 1):
        found, expected = (
            jax.grad(partial(loss, scan), argument)(weights, xs) for scan in (jp.scan, lax.scan)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)
