# SPDX-License-Identifier: Apache-2.0
"""Scans of step functions on the software GPU: run by test_software_gpu.py, not by itself.

Values and all gradients are held to float64, within a few times what plain JAX is off by in the
same type. A step's features are in its kernel, steps, rows and groups are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import mesh_of, put
from jax import lax

import jax_persistent as jp
from jax_persistent import cells
from jax_persistent.backends import cuda
from jax_persistent.programs.pieces import BINARY, UNARY
from tests.cuda.software import GPU, SoftwareGpu

Tree = Any
I = 5  # noqa: E741


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftwareGpu]:
    assert GPU is not None, "run test_software_gpu.py"
    monkeypatch.setenv(cuda.EXCHANGE, "grid")
    GPU.counts()
    yield GPU
    jax.clear_caches()


def both(step: Callable[..., Any], backend: str, *given: Tree, **how: Any) -> Tree:
    """What a scan gives, and the gradients of a sum of it with weights."""

    def loss(*given: Tree) -> Any:
        weights, carry, xs, *noise = given
        run = partial(step, weights)
        results = jp.scan(run, carry, (xs, *noise) if noise else xs, backend=backend, **how)
        leaves = jax.tree.leaves(results)
        parts = [
            (r * jnp.cos(jnp.arange(r.size, dtype=r.dtype)).reshape(r.shape)).sum() for r in leaves
        ]
        return sum(p.astype(parts[0].dtype) for p in parts), results

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*given)


def check(step: Callable[..., Any], *given: Tree, **how: Any) -> None:
    """Within a few times plain JAX's error in the same type, against float64."""
    found, plain = (both(step, backend, *given, **how) for backend in ("native", "reference"))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), given)
        exact = both(step, "reference", *wide, **how)
    for a, b, e in zip(*map(jax.tree.leaves, (found, plain, exact)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b, e = (np.asarray(each, np.float64) for each in (a, b, e))
        scale = np.finfo(np.float32).eps * max(1, np.abs(e).max())
        assert np.abs(a - e).max() <= 4 * np.abs(b - e).max() + 8 * scale


def drawn(seed: int, *shapes: tuple[int, ...], dtype: str = "float32") -> list[jax.Array]:
    draw = np.random.default_rng(seed)
    return [jnp.asarray(0.5 * draw.standard_normal(shape), dtype) for shape in shapes]


def of_cell(cell: Any, steps: int, rows: int, hidden: int, dtype: str = "float32") -> list[Tree]:
    """Weights, a carry, and xs of a cell of the library."""
    (xs,) = drawn(steps, (steps, rows, I), dtype=dtype)
    leaves, tree = jax.tree.flatten(cell.init(jax.random.key(1), I, hidden))
    weights = [w.astype(dtype) for w in leaves]
    starts, carry_tree = jax.tree.flatten(cell.start(hidden, rows, dtype))
    carry = drawn(rows, *(a.shape for a in starts), dtype=dtype)
    return [jax.tree.unflatten(tree, weights), jax.tree.unflatten(carry_tree, carry), xs]


def masks(steps: int, rows: int) -> dict[str, Any]:
    draw = np.random.default_rng(steps)
    lengths = draw.integers(0, steps + 1, rows)
    return {"lengths": lengths, "resets": jnp.asarray(draw.random((steps, rows)) < 0.3)}


def gru(w: dict[str, jax.Array], h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reset after the product, of matrices apart: backward, three vectors are multiplied."""
    r, z = (jax.nn.sigmoid(x @ w["W" + n] + h @ w["R" + n]) for n in "rz")
    n = jnp.tanh(x @ w["Wn"] + r * (h @ w["Rn"]))
    h = (1 - z) * n + z * h
    return h, h


def gru_arguments(steps: int, rows: int, hidden: int, dtype: str = "float32") -> list[Tree]:
    matrices = drawn(3, *[(I, hidden)] * 3, *[(hidden, hidden)] * 3, dtype=dtype)
    weights = dict(zip(("Wr", "Wz", "Wn", "Rr", "Rz", "Rn"), matrices, strict=True))
    return [weights, *drawn(4, (rows, hidden), (steps, rows, I), dtype=dtype)]


@pytest.mark.parametrize("reverse", [False, True])
def test_peepholes_clipped_of_rows_that_end_and_are_reset(gpu: SoftwareGpu, reverse: bool) -> None:
    """One launch a pass, whichever way it runs; what is sent is what is left of a reset."""
    cell = cells.PeepholeLSTM(clip=0.4)
    check(cell, *of_cell(cell, 7, 3, 20), reverse=reverse, **masks(7, 3))
    assert gpu.counts().launches == 2


@pytest.mark.parametrize("exchange", ["grid", "grid-barrier", "cluster"])
def test_every_exchange_in_bfloat16(gpu: SoftwareGpu, monkeypatch: Any, exchange: str) -> None:
    """An odd number of units, and rows of two tiles."""
    monkeypatch.setenv(cuda.EXCHANGE, exchange)
    cell = cells.CoupledLSTM()
    check(cell, *of_cell(cell, 4, 11, 21, "bfloat16"))
    assert gpu.counts().launches == 2


@pytest.mark.parametrize(("steps", "rows"), [(1, 9), (6, 1)])
def test_a_message_that_is_computed(gpu: SoftwareGpu, steps: int, rows: int) -> None:
    """Rates, not what is carried: backward and forward both have a part before the product."""
    cell = cells.RateNetwork("relu", leak=0.25)
    check(cell, *of_cell(cell, steps, rows, 13))
    assert gpu.counts().launches == 2


def test_heads(gpu: SoftwareGpu) -> None:
    """Blocks on the diagonal; four values are carried, one of them a stabiliser."""
    cell = cells.SLSTM(heads=2)
    weights, (h, c, n, m), xs = of_cell(cell, 4, 5, 12)
    check(cell, weights, (h, c, 1 + jnp.abs(n), m), xs)
    assert gpu.counts().launches == 2


def test_matrices_apart(gpu: SoftwareGpu) -> None:
    check(gru, *gru_arguments(5, 9, 12))
    assert gpu.counts().launches == 2


def test_vmap_over_weights_is_one_launch(gpu: SoftwareGpu) -> None:
    """Of groups with matrices of their own."""
    several = [gru_arguments(4, rows, 12) for rows in (3, 3)]
    given = jax.tree.map(lambda *a: jnp.stack([a[0], 2 * a[1]]), *several)
    run = lambda backend: jax.vmap(partial(both, gru, backend))(*given)  # noqa: E731
    found = jax.block_until_ready(run("native"))
    assert gpu.counts().launches == 2
    for a, b in zip(*map(jax.tree.leaves, (found, run("reference"))), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))


def test_a_batch_split_over_devices(gpu: SoftwareGpu) -> None:
    mesh = mesh_of(batch=4)
    weights, h, xs = gru_arguments(5, 8, 12)
    given = put(mesh, weights), put(mesh, h, "batch"), put(mesh, xs, None, "batch")
    check(gru, *given)
    assert gpu.counts().launches == 2 * 4


def test_nothing_is_loaded_twice(gpu: SoftwareGpu) -> None:
    weights, h, xs = gru_arguments(3, 4, 12)
    run = jax.jit(partial(jp.scan, partial(gru, weights), backend="native"))
    jax.block_until_ready(run(h, xs))
    gpu.counts()
    for _ in range(3):
        jax.block_until_ready(run(h, xs))
    counts = gpu.counts()
    assert (counts.launches, counts.modules, counts.queries, counts.contexts) == (3, 0, 0, 0)


def test_a_workspace_that_is_too_small_is_refused(gpu: SoftwareGpu, monkeypatch: Any) -> None:
    weights, h, xs = gru_arguments(3, 4, 12)
    plan = cuda._plan_program
    monkeypatch.setattr(cuda, "_plan_program", lambda *a: plan(*a) | {"workspace_bytes": 64})
    says = "jax_persistent.program: workspace: expected at least [0-9]+ bytes; got 64"
    with pytest.raises(Exception, match=says):
        jax.block_until_ready(jp.scan(partial(gru, weights), h, xs, backend="native"))


def test_a_failure_on_the_device_names_the_scan(gpu: SoftwareGpu, monkeypatch: Any) -> None:
    """One block alone waits for the others for ever: the launch ends, and says where."""
    monkeypatch.setenv(cuda.EXCHANGE, "grid")
    weights, h, xs = gru_arguments(3, 4, 12)
    nowhere = np.zeros(8, np.uint8)
    gpu.library.SoftwareGpuAllowMemory(nowhere.ctypes.data, 8)
    try:
        says = "INTERNAL: .*jax_persistent.program: .*CUDA_ERROR_ILLEGAL_ADDRESS"
        with pytest.raises(Exception, match=says):
            jax.block_until_ready(jp.scan(partial(gru, weights), h, xs, backend="native"))
        assert "scan_3_float32_grid_1_" in gpu.last_error()
    finally:
        gpu.library.SoftwareGpuAllowAllMemory()
        gpu.library.SoftwareGpuForgive()


def everything(h: jax.Array, given: Any) -> tuple[jax.Array, list[jax.Array]]:
    """All operations of programs, each on x and the carry."""
    x, one_for_all = given
    others = {
        "rint": jnp.round,
        "round": lambda a: lax.round(a, lax.RoundingMethod.AWAY_FROM_ZERO),
        "not": lambda a: jnp.logical_not(a > 0.5),
    }
    functions = {name: others.get(name) or getattr(lax, name) for name in (*UNARY, *BINARY)}
    y = h + x
    found = [functions[name](y) for name in UNARY] + [functions[name](h, x) for name in BINARY]
    found += [jnp.where(h > x, h, x), h * one_for_all]
    return jnp.tanh(h @ jnp.eye(6, dtype=h.dtype)), found


def test_every_operation(gpu: SoftwareGpu) -> None:
    """Compiled into one kernel, and near what XLA makes of it; NaNs and infinities, too."""
    edges = [0.0, 0.3, 1.0, 2.5, 90.0, jnp.nan]
    h = jnp.array([edges, edges[::-1], [jnp.inf, 0.5, 3e38, 1e-3, 0.7, 1.5]])
    xs = jnp.stack([h, h[::-1], jnp.full_like(h, 0.4)])
    xs = xs, jnp.arange(9, dtype=h.dtype).reshape(3, 3, 1)
    found, plain = (jp.scan(everything, h, xs, backend=b)[1] for b in ("native", "reference"))
    assert gpu.counts().launches == 1
    for name, a, b in zip((*UNARY, *BINARY, "select", "splat"), found, plain, strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), 2e-6, 1e-6, err_msg=name
        )
