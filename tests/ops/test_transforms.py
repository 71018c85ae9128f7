# SPDX-License-Identifier: Apache-2.0
"""Every JAX transform of a recurrence is the same transform of a plain lax.scan."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose, assert_array_equal

from . import baseline, oracle
from .problems import SMALL, Case, call, complete, problem, some_resets

BACKENDS = ["reference", "native"]
CELL_NAMES = oracle.CELLS
CASE = Case("lstm", lengths=(3, 5, 0))
Run = Callable[[dict, np.ndarray], dict]

backends = pytest.mark.parametrize("backend", BACKENDS)
# The reference is one scan whatever the cell, and seconds to compile: one cell stands for all.
cells = pytest.mark.parametrize(
    ("cell", "backend"), [*((cell, "native") for cell in CELL_NAMES), ("gru", "reference")]
)
two_cells = pytest.mark.parametrize(
    ("cell", "backend"), [("lstm", "native"), ("gru", "native"), ("gru", "reference")]
)


def plain(case: Case, params: dict, lengths) -> dict:
    return baseline.run(case.cell, *complete(case, params, lengths), case.reverse)


def ours(case: Case, backend: str | None, params: dict, lengths) -> dict:
    return call(
        case.cell,
        params,
        lengths=lengths,
        resets=some_resets(case),
        reverse=case.reverse,
        backend=backend,
    )


def weighted(run: Run, case: Case, params: dict, lengths) -> jax.Array:
    """A scalar that depends on every result, curved in each."""
    results, weights = run(params, lengths), problem(case).cotangents
    return sum((jnp.sin(results[k]) * weights[k]).sum() for k in weights)


def same(
    transform: Callable, case: Case, backend: str, *arguments, tolerance: float = 2e-5
) -> None:
    """`transform(run)` on the package and on the plain scan, compared array by array."""
    got = jax.jit(transform(partial(ours, case, backend)))(*arguments)
    want = jax.jit(transform(partial(plain, case)))(*arguments)
    close(got, want, tolerance)


def close(got, want, tolerance: float = 2e-5) -> None:
    def check(a, b):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        size = max(float(np.abs(b).max(initial=0.0)), 1.0)
        assert_allclose(a, b, rtol=tolerance, atol=tolerance * size)

    jax.tree.map(check, got, want)


def several(params: dict, names: tuple[str, ...], size: int, axis: int = 0) -> dict:
    """`size` different versions of the named arrays along a new axis."""
    scale = np.linspace(0.5, 1.5, size, dtype=np.float32)
    return {
        k: np.stack([v * s for s in scale], axis=axis) if k in names else v
        for k, v in params.items()
    }


DATA = ("x", "h0", "c0")
WEIGHTS = ("input_kernel", "recurrent_kernel", "bias", "recurrent_bias")


@cells
def test_value_and_grad(cell: str, backend: str) -> None:
    case = Case(cell, lengths=(3, 5, 0), reverse=True, resets=True, reset_state=True)
    p = problem(case)
    same(
        lambda run: jax.value_and_grad(partial(weighted, run, case)),
        case,
        backend,
        p.params,
        p.lengths,
    )


@backends
def test_without_jit(backend: str) -> None:
    p = problem(CASE)
    run = partial(ours, CASE, backend)
    close(run(p.params, p.lengths), jax.jit(partial(plain, CASE))(p.params, p.lengths))
    got = jax.grad(partial(weighted, run, CASE))(p.params, p.lengths)
    close(
        got, jax.jit(jax.grad(partial(weighted, partial(plain, CASE), CASE)))(p.params, p.lengths)
    )


@two_cells
@pytest.mark.parametrize("mapped", [DATA, WEIGHTS, DATA + WEIGHTS, ("recurrent_kernel",), ("h0",)])
def test_vmap_of_the_gradient(mapped: tuple[str, ...], cell: str, backend: str) -> None:
    """Mapped over sequences, over weights, over both, over one operand; results come along."""
    case = Case(cell, lengths=(3, 5, 0), reverse=len(mapped) % 2 == 0, resets=True)
    p = problem(case)
    axes = {k: 0 if k in mapped else None for k in p.params}

    def transform(run):
        def both(params, lengths):
            return run(params, lengths), jax.grad(partial(weighted, run, case))(params, lengths)

        return jax.vmap(both, (axes, None))

    same(transform, case, backend, several(p.params, mapped, 2), p.lengths)


@backends
def test_vmap_over_lengths(backend: str) -> None:
    p = problem(CASE)
    lengths = np.array([[3, 5, 0], [1, 2, 4]], np.int32)
    same(lambda run: jax.vmap(run, (None, 0)), CASE, backend, p.params, lengths)
    turned = np.ascontiguousarray(lengths.T)
    same(lambda run: jax.vmap(run, (None, 1)), CASE, backend, p.params, turned)


@pytest.mark.parametrize("backend", ["native"])
@pytest.mark.parametrize("axis", [1, -1])
def test_vmap_over_other_axes(axis: int, backend: str) -> None:
    p = problem(CASE)
    names = ("x", "h0", "c0", "recurrent_kernel")
    axes = {k: axis if k in names else None for k in p.params}
    same(
        lambda run: jax.vmap(run, (axes, None), out_axes=axis),
        CASE,
        backend,
        several(p.params, names, 2, axis),
        p.lengths,
    )


@pytest.mark.parametrize("backend", ["native"])
@pytest.mark.parametrize("outer", [DATA, WEIGHTS])
@pytest.mark.parametrize("inner", [DATA, WEIGHTS])
def test_nested_vmap(inner: tuple[str, ...], outer: tuple[str, ...], backend: str) -> None:
    case = Case("gru", lengths=(3, 5, 0))
    p = problem(case)
    stacked = several(several(p.params, inner, 2), outer, 7)
    axes = [{k: 0 if k in names else None for k in p.params} for names in (outer, inner)]

    def transform(run):
        grad = jax.grad(partial(weighted, run, case))
        return jax.vmap(jax.vmap(grad, (axes[1], None)), (axes[0], None))

    same(transform, case, backend, stacked, p.lengths, tolerance=5e-5)


@backends
def test_vmap_time_major_and_grouped_gradient(backend: str) -> None:
    """The gradient of a vmap, in the other layout: an ensemble trained at once."""
    case = Case("lstm")
    p = problem(case)
    stacked = several(p.params, WEIGHTS, 2)
    axes = {k: 0 if k in WEIGHTS else None for k in p.params}

    def loss(run, params):
        return jax.vmap(lambda q: weighted(run, case, q, None), (axes,))(params).sum()

    def time_major(params, lengths):
        return call("lstm", params, time_major=True, backend=backend)

    got = jax.jit(jax.grad(partial(loss, time_major)))(stacked)
    close(got, jax.jit(jax.grad(partial(loss, partial(plain, case))))(stacked))


@backends
@pytest.mark.parametrize("policy", ["nothing_saveable", "everything_saveable"])
def test_checkpoint(policy: str, backend: str) -> None:
    p = problem(CASE)

    def transform(run):
        kept = jax.checkpoint(run, policy=getattr(jax.checkpoint_policies, policy))
        return jax.grad(partial(weighted, kept, CASE))

    same(transform, CASE, backend, p.params, p.lengths)


@backends
@pytest.mark.parametrize("remat", [False, True])
def test_scan_over_layers(remat: bool, backend: str) -> None:
    """Three layers of one shape as one scanned body, differentiated through."""
    case = Case("gru", sizes=(5, 3, 6, 6))
    p = problem(case)
    weights = {k: p.params[k] for k in WEIGHTS}
    stacked = several(weights, WEIGHTS, 3)

    def transform(run):
        def layer(x, layer_weights):
            return run({"x": x, **layer_weights}, None)["outputs"], None

        def stack(params, x):
            body = jax.checkpoint(layer) if remat else layer
            return (jax.lax.scan(body, x, params)[0] * p.cotangents["outputs"]).sum()

        return jax.value_and_grad(stack, (0, 1))

    same(transform, case, backend, stacked, p.params["x"])


@backends
def test_inside_control_flow(backend: str) -> None:
    p = problem(CASE)

    def transform(run):
        def loss(params, lengths):
            return jax.lax.cond(
                lengths[0] > 1,
                lambda q: weighted(run, CASE, q, lengths),
                lambda q: q["x"].sum(),
                params,
            )

        return jax.grad(loss)

    same(transform, CASE, backend, p.params, p.lengths)


@cells
def test_jvp(cell: str, backend: str) -> None:
    case = Case(cell, lengths=(3, 5, 0), reverse=True, resets=True, reset_state=True)
    p = problem(case)
    direction = jax.tree.map(np.cos, p.params)

    def transform(run):
        return lambda q, d, n: jax.jvp(lambda q: run(q, n), (q,), (d,))

    same(transform, case, backend, p.params, direction, p.lengths)


@pytest.mark.parametrize(
    ("cell", "backend", "order"),
    [
        ("lstm", "native", "grad of grad"),
        ("gru", "native", "grad of grad"),
        ("elman-tanh", "native", "grad of grad"),
        ("elman-relu", "native", "grad of grad"),
        ("gru", "native", "grad of jvp"),
        ("lstm", "native", "jvp of grad"),
        ("gru", "reference", "jvp of grad"),
    ],
)
def test_second_order(cell: str, backend: str, order: str) -> None:
    """A Hessian-vector product by each of its three roads."""
    case = Case(cell, lengths=(3, 5, 0), resets=True, reset_state=cell == "lstm")
    p = problem(case)
    direction = jax.tree.map(np.cos, p.params)

    def transform(run):
        def product(params, along, lengths):
            def loss(q):
                return weighted(run, case, q, lengths)

            def slope(q):
                if order == "grad of jvp":
                    return jax.jvp(loss, (q,), (along,))[1]
                parts = jax.tree.map(lambda a, b: (a * b).sum(), jax.grad(loss)(q), along)
                return sum(jax.tree.leaves(parts))

            if order == "jvp of grad":
                return jax.jvp(jax.grad(loss), (params,), (along,))[1]
            return jax.grad(slope)(params)

        return product

    same(transform, case, backend, p.params, direction, p.lengths, tolerance=1e-4)


@pytest.mark.parametrize("backend", ["native"])
@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("name", ["h0", "recurrent_kernel"])
def test_jacobian(name: str, jacobian: Callable, backend: str) -> None:
    case = Case("gru", lengths=(3, 5, 0))
    p = problem(case)

    def transform(run):
        return jacobian(lambda value, params, lengths: run({**params, name: value}, lengths))

    same(transform, case, backend, p.params[name], p.params, p.lengths)


@backends
def test_linearize(backend: str) -> None:
    p = problem(CASE)
    direction = jax.tree.map(np.cos, p.params)

    def transform(run):
        def both(params, along, lengths):
            results, linear = jax.linearize(lambda q: run(q, lengths), params)
            return results, linear(along), jax.linear_transpose(linear, params)(results)

        return both

    same(transform, CASE, backend, p.params, direction, p.lengths)


# --- across devices

DEVICES = 8
WIDE = Case("lstm", sizes=(5, 16, 4, 6), lengths=(3, 5, 0, 1) * 4)


def on_mesh() -> jax.sharding.Mesh:
    devices = np.array(jax.devices()[:DEVICES])
    assert devices.size == DEVICES
    return jax.sharding.Mesh(devices, ("rows",))


def specs(params: dict) -> dict:
    return {k: P("rows") if k in DATA else P() for k in params}


@backends
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma: bool, backend: str) -> None:
    """Rows over eight devices: results, and gradients of the whole program."""
    p = problem(WIDE)

    def sharded(params, lengths):
        return jax.shard_map(
            partial(ours, WIDE, backend),
            mesh=on_mesh(),
            in_specs=(specs(p.params), P("rows")),
            out_specs=P("rows"),
            check_vma=check_vma,
        )(params, lengths)

    def both(run):
        grad = jax.grad(partial(weighted, run, WIDE))
        return jax.jit(lambda q, n: (run(q, n), grad(q, n)))

    close(both(sharded)(p.params, p.lengths), both(partial(plain, WIDE))(p.params, p.lengths))


@backends
@pytest.mark.parametrize("check_vma", [True, False])
def test_gradient_inside_shard_map(check_vma: bool, backend: str) -> None:
    """Each device differentiates its own rows; the weights' gradients are summed once."""
    p = problem(WIDE)
    weights = p.cotangents

    def local(params, lengths, cotangents):
        def loss(q):
            results = ours(WIDE, backend, q, lengths)
            return sum((jnp.sin(results[k]) * cotangents[k]).sum() for k in results)

        grads = jax.grad(loss)(params)
        if check_vma:  # replicated weights already have the sum of all devices' gradients
            return grads
        return {k: g if k in DATA else jax.lax.psum(g, "rows") for k, g in grads.items()}

    got = jax.jit(
        jax.shard_map(
            local,
            mesh=on_mesh(),
            in_specs=(specs(p.params), P("rows"), P("rows")),
            out_specs=specs(p.params),
            check_vma=check_vma,
        )
    )(p.params, p.lengths, weights)
    want = jax.jit(jax.grad(partial(weighted, partial(plain, WIDE), WIDE)))(p.params, p.lengths)
    close(got, want)


# --- export, and other platforms


def custom_calls(text: str) -> set[str]:
    """Our own call targets in a lowered module, whatever they are called."""
    found = re.findall(r"custom_call\s+@\"?([\w.$]+)|call_target_name\s*=\s*\"([^\"]+)\"", text)
    names = {a or b for a, b in found}
    return {name for name in names if "jax_persistent" in name}


def step(backend: str | None) -> Callable:
    run = partial(ours, CASE, backend)
    return jax.jit(jax.value_and_grad(partial(weighted, run, CASE)))


def structs() -> tuple:
    p = problem(CASE)
    given = (p.params, p.lengths)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)


def trusting(*names: str) -> list[jax.export.DisabledSafetyCheck]:
    return [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]


def on_cpu() -> set[str]:
    return custom_calls(
        step("native").trace(*structs()).lower(lowering_platforms=("cpu",)).as_text()
    )


def test_native_is_two_calls() -> None:
    """One kernel forward and one back, not a loop around calls."""
    text = step("native").trace(*structs()).lower(lowering_platforms=("cpu",)).as_text()
    assert len(on_cpu()) == 2
    assert "stablehlo.while" not in text


def test_reference_makes_no_call() -> None:
    text = step("reference").trace(*structs()).lower(lowering_platforms=("cpu",)).as_text()
    assert not custom_calls(text)


@pytest.mark.parametrize("backend", [*BACKENDS, None])
def test_export_round_trip(backend: str | None) -> None:
    p = problem(CASE)
    exported = jax.export.export(
        step(backend), platforms=["cpu"], disabled_checks=trusting(*on_cpu())
    )
    again = jax.export.deserialize(exported(*structs()).serialize())
    got = again.call(p.params, p.lengths)
    jax.tree.map(assert_array_equal, got, step(backend)(p.params, p.lengths))


@pytest.mark.parametrize("platform", ["tpu", "rocm"])
def test_other_platforms_take_the_reference(platform: str) -> None:
    text = jax.export.export(step(None), platforms=[platform])(*structs()).mlir_module()
    assert not custom_calls(text)
    assert "stablehlo.while" in text


@pytest.mark.parametrize("platform", ["tpu", "rocm"])
def test_native_on_other_platforms_is_an_error(platform: str) -> None:
    with pytest.raises(NotImplementedError, match="native"):
        jax.export.export(step("native"), platforms=[platform])(*structs())


def test_one_module_for_two_platforms() -> None:
    """The kernel where there is one, the reference elsewhere, chosen when it runs."""
    p = problem(CASE)
    exported = jax.export.export(
        step(None), platforms=["cpu", "tpu"], disabled_checks=trusting(*on_cpu())
    )(*structs())
    assert custom_calls(exported.mlir_module()) == on_cpu()
    close(exported.call(p.params, p.lengths), step("reference")(p.params, p.lengths))


def test_sizes_of_the_problem_differ() -> None:
    """Equal sizes would hide a transposition."""
    assert len(set(SMALL)) == len(SMALL)
