# SPDX-License-Identifier: Apache-2.0
"""The kernels on a real GPU, under every exchange, held against float64.

Elsewhere the same kernels run on the CPU (tests/cuda/*.cc). Here it is the hardware's memory, its
matrix units and its scheduling that are tested. On a machine without a GPU these tests are skipped;
where one must be there, JAX_PERSISTENT_REQUIRE_GPU=1 makes its absence a failure. With
JAX_PERSISTENT_REHEARSE=1 and `-p tests.cuda.software` they run on the software GPU, with few sizes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_persistent as jp
from jax_persistent.cells import CELLS as CELL_OF
from jax_persistent.ops import functions
from jax_persistent.problem import Arrays
from tests.ops import oracle
from tests.ops.problems import (
    Case,
    budget_of,
    call,
    check_within_budget,
    problem,
    run_and_pull,
    some_lengths,
    truth,
)

REHEARSAL = os.environ.get("JAX_PERSISTENT_REHEARSE") == "1"
REQUIRED = os.environ.get("JAX_PERSISTENT_REQUIRE_GPU") == "1"
HAS_GPU = jax.default_backend() == "gpu"
pytestmark = pytest.mark.skipif(
    not (HAS_GPU or REQUIRED or REHEARSAL), reason="no CUDA device (JAX's default is the CPU)"
)

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "JAX_PERSISTENT_CUDA_EXCHANGE"
EXCHANGES = ("grid", "grid-barrier", "cluster")
DTYPES = ("bfloat16", "float32") if REHEARSAL else ("bfloat16", "float16", "float32")
CELLS = oracle.CELLS[:1] if REHEARSAL else oracle.CELLS
# T, B, I, H: within a matrix unit's tile, past its edges, over several blocks and batch tiles.
SIZES = ((5, 3, 4, 6), (7, 9, 5, 37)) if REHEARSAL else ()
SIZES = SIZES or ((5, 3, 4, 6), (1, 2, 3, 5), (7, 9, 5, 37), (6, 17, 9, 130), (4, 70, 6, 264))
REPEATS = int(os.environ.get("JAX_PERSISTENT_REPEATS", 3 if REHEARSAL else 50))
# T, B, H of the runs that are looked at for races.
LONG = ((16, 3, 9),) if REHEARSAL else ((1024, 5, 96), (1024, 8, 1024), (257, 33, 520))


@contextlib.contextmanager
def exchange(name: str | None) -> Iterator[None]:
    """Forces it on the calls that are traced inside."""
    with pytest.MonkeyPatch.context() as patch:
        if name is None:
            patch.delenv(VARIABLE, raising=False)
        else:
            patch.setenv(VARIABLE, name)
        yield


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """For truths: a GPU's float32 products may be tf32, and its compiler takes longer."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield


def test_there_is_a_gpu() -> None:
    if not REHEARSAL:
        found = ", ".join(map(str, jax.devices()))
        assert HAS_GPU, f"JAX_PERSISTENT_REQUIRE_GPU is set, but jax.devices() is {found}"


def one_worker(shared: object) -> tuple[Any, ...]:
    """What has this in common is run by one of pytest-xdist's processes, and works it out once."""
    has_workers = importlib.util.find_spec("xdist") is not None
    return (pytest.mark.xdist_group(str(shared)),) if has_workers else ()


def cases() -> list[Any]:
    """Every cell and dtype at every size, the options in turn."""
    found: list[Any] = []
    for n, cell in enumerate(CELLS):
        for m, dtype in enumerate(DTYPES):
            for k, sizes in enumerate(SIZES):
                ragged, reverse, time_major = (n + k) % 3 > 0, (m + k) % 2 > 0, k % 2 > 0
                lengths = some_lengths(*sizes[:2]) if ragged else None
                state = (n + m + k) % 3 > 0
                case = Case(cell, dtype, sizes, lengths, reverse, time_major, state)
                found += [
                    pytest.param(case, name, id=f"{case}-{name}", marks=one_worker(case))
                    for name in EXCHANGES
                ]
    return found


def evaluate(case: Case, name: str | None) -> tuple[dict, dict]:
    """Results and gradients under an exchange: traced anew, as the trace is what it is read by."""
    p = problem(case)

    @jax.jit
    def both(params, cotangents, lengths):
        options = {"lengths": lengths, "reverse": case.reverse, "time_major": case.time_major}
        return run_and_pull(
            lambda q: call(case.cell, q, backend="native", **options), params, cotangents
        )

    precision = "highest" if case.dtype == "float32" else None
    with exchange(name), jax.default_matmul_precision(precision):
        found = both(p.params, p.cotangents, p.lengths)
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize(("case", "name"), cases())
def test_against_float64(case: Case, name: str) -> None:
    with on_cpu():
        truth(case), budget_of(case)  # worked out here, and kept
    check_within_budget(case, evaluate(case, name))


@pytest.mark.parametrize("cell", CELLS)
def test_the_planners_choice(cell: str) -> None:
    case = Case(cell, "bfloat16", (6, 5, 4, 40), lengths=(6, 0, 3, 1, 5))
    with on_cpu():
        truth(case), budget_of(case)
    check_within_budget(case, evaluate(case, None))


def leaky(w: tuple[jax.Array, jax.Array], h: jax.Array, x: jax.Array) -> tuple[Any, Any]:
    """A network of rates with a gate: its message is computed from what it carries."""
    rates = jax.nn.relu(h)
    gate = jax.nn.sigmoid(rates @ w[0] + x)
    h = h + gate * (jnp.tanh(rates @ w[1] - x) - h)
    return h, rates


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("sizes", [(7, 9, 37)] if REHEARSAL else [(7, 9, 37), (129, 20, 264)])
def test_a_step_function(sizes: tuple[int, int, int], name: str) -> None:
    """Written out and compiled, with its gradient: within a few times plain JAX's error."""
    steps, batch, hidden = sizes
    random = np.random.default_rng(hidden)
    normal = lambda *shape: random.standard_normal(shape) * shape[0] ** -0.5  # noqa: E731
    given = ((normal(hidden, hidden), normal(hidden, hidden)), normal(batch, hidden))
    given = (*given, normal(steps, batch, hidden))

    def both(backend: str, dtype: str) -> list[Any]:
        def loss(w: Any, h: Any, xs: Any) -> Any:
            found = jp.scan(partial(leaky, w), h, xs, backend=backend)
            return sum(jnp.sum(jnp.sin(each)) for each in found), found

        operands = jax.tree.map(lambda a: jnp.asarray(a, dtype), given)
        with jax.default_matmul_precision("highest"):
            found = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*operands)
        return [np.asarray(each, np.float64) for each in jax.tree.leaves(found)]

    with exchange(name):
        found = both("native", "float32")
    with on_cpu(), jax.enable_x64(True):
        exact = both("reference", "float64")
    with on_cpu():
        plain = both("reference", "float32")
    for a, b, e in zip(found, plain, exact, strict=True):
        scale = np.finfo(np.float32).eps * max(1, np.abs(e).max())
        assert np.abs(a - e).max() <= 4 * np.abs(b - e).max() + 8 * scale


@lru_cache
def drawn(cell: str, sizes: tuple[int, int, int], dtype: str) -> tuple[Any, ...]:
    """x [T,B,H], both kernels and the outputs' cotangent, on the device."""
    steps, batch, hidden = sizes
    width = oracle.GATES[cell] * hidden
    random = np.random.default_rng(7)

    def normal(*shape: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * random.standard_normal(shape, np.float32), dtype)

    kernels = (normal(hidden, width, scale=hidden**-0.5) for _ in range(2))
    x, cotangent = normal(steps, batch, hidden), normal(steps, batch, hidden)
    return x, *kernels, cotangent


def pulled(cell: str, backend: str) -> Callable[..., Any]:
    """(x, both kernels, cotangent) -> outputs and all gradients."""

    def both(x, kernel, recurrent, cotangent):
        def outputs(*operands):
            names = ("x", "input_kernel", "recurrent_kernel")
            params = dict(zip(names, operands, strict=True))
            params["x"] = jnp.swapaxes(params["x"], 0, 1)
            found = call(cell, params, time_major=True, backend=backend)["outputs"]
            return jnp.swapaxes(found, 0, 1)

        value, pull = jax.vjp(outputs, x, kernel, recurrent)
        return value, *pull(cotangent)

    return jax.jit(both)


def relative(got: Any, want: Any) -> float:
    got, want = (np.asarray(a, np.float64) for a in (got, want))
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def long_cases() -> list[Any]:
    return [
        pytest.param(cell, name, sizes, marks=one_worker((cell, sizes)))
        for cell in CELLS
        if cell != "elman-relu"
        for sizes in LONG
        for name in EXCHANGES
    ]


@pytest.mark.parametrize(("cell", "name", "sizes"), long_cases())
def test_long_sequences_are_the_same_every_time(
    cell: str, name: str, sizes: tuple[int, int, int]
) -> None:
    """What a race would change: the same bits every time, and near the reference's in float32."""
    operands = drawn(cell, sizes, "bfloat16")
    expected = reference(cell, sizes)
    with exchange(name):
        try:
            program = pulled(cell, "native").lower(*operands).compile()
        except NotImplementedError:  # a cluster can't hold the larger ones
            if name != "cluster":
                raise
            return
    first = [np.asarray(a).view(np.uint16) for a in program(*operands)]
    for array, want in zip(first, expected, strict=True):
        assert relative(array.view(jnp.bfloat16).astype(np.float32), want) < 0.01
    for repeat in range(REPEATS):
        again = program(*operands)
        for n, (array, bits) in enumerate(zip(again, first, strict=True)):
            differing = int((np.asarray(array).view(np.uint16) != bits).sum())
            assert differing == 0, f"run {repeat}, array {n}: {differing} of {bits.size} differ"


@lru_cache
def reference(cell: str, sizes: tuple[int, int, int]) -> list[np.ndarray]:
    """Of the same operands, in float32."""
    wide = [a.astype(jnp.float32) for a in drawn(cell, sizes, "bfloat16")]
    with jax.default_matmul_precision("highest"):
        return [np.asarray(a) for a in pulled(cell, "reference")(*wide)]


VMAPPED = Case("gru", "float32", (6, 3, 4, 21), lengths=(6, 0, 4))


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("over", ["inputs", "weights", "both"])
def test_vmap(over: str, name: str) -> None:
    p = problem(VMAPPED)
    batched = {"x"} if over == "inputs" else {"recurrent_kernel", "input_kernel"}
    batched |= {"x"} if over == "both" else set()
    random = np.random.default_rng(3)
    stacked = {
        key: np.stack([value, value + 0.1 * random.standard_normal(value.shape, np.float32)])
        if key in batched
        else value
        for key, value in p.params.items()
    }

    axes = ({key: 0 if key in batched else None for key in stacked},)
    with exchange(name), jax.default_matmul_precision("highest"):
        got = jax.jit(jax.vmap(gru_on("native", p.lengths), in_axes=axes))(stacked)
    for n in range(2):
        alone = {key: v[n] if key in batched else v for key, v in stacked.items()}
        with jax.default_matmul_precision("highest"):
            want = reference_gru()(alone)
        np.testing.assert_allclose(np.asarray(got[n]), np.asarray(want), atol=2e-5)


def gru_on(backend: str, lengths: Any) -> Callable[[dict], jax.Array]:
    return lambda params: call("gru", params, lengths=lengths, backend=backend)["outputs"]


@lru_cache
def reference_gru() -> Callable[[dict], jax.Array]:
    """One program for all of test_vmap's."""
    return jax.jit(gru_on("reference", VMAPPED.lengths))


@pytest.mark.parametrize("directions", ["forward", "both"])
@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("cell", ["lstm", "gru", "elman_tanh"][: 1 if REHEARSAL else 3])
def test_resets(cell: str, name: str, directions: str) -> None:
    """Outputs and every gradient, that of the reset state among them, as the reference has them."""
    with exchange(name):
        got = with_resets(cell, directions, "native")
    want = reference_with_resets(cell, directions)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-4, rtol=2e-4)


@lru_cache
def reference_with_resets(cell: str, directions: str) -> Any:
    with on_cpu():
        return with_resets(cell, directions, "reference")


def with_resets(cell: str, directions: str, backend: str) -> Any:
    """A loss of a recurrence with resets, and all its gradients."""
    steps, batch, inputs, hidden = 7, 9, 5, 37
    width = CELL_OF[cell].gates * hidden
    ways = (2,) if directions == "both" else ()
    random = np.random.default_rng(11)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return scale * random.standard_normal(shape, np.float32)

    resets = jnp.asarray(random.random((*ways, batch, steps)) < 0.3)
    lengths = jnp.array([7, 0, 3, 7, 1, 5, 7, 2, 6], jnp.int32)
    operands = {
        "x": normal(batch, steps, inputs),
        "input_kernel": normal(*ways, inputs, width, scale=0.4),
        "recurrent_kernel": normal(*ways, hidden, width, scale=0.2),
    }
    for state in ("initial_state", "reset_state"):
        operands[state] = tuple(normal(*ways, batch, hidden) for _ in CELL_OF[cell].states)

    def loss(operands: Any) -> jax.Array:
        given = Arrays(operands | {"resets": resets, "lengths": lengths})
        outputs, final = functions.run(
            CELL_OF[cell], given, directions=directions, time_major=False, backend=backend
        )
        return jnp.sum(jnp.sin(outputs)) + sum(jnp.sum(s**2) for s in jax.tree.leaves(final))

    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.value_and_grad(loss))(operands)


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_nan_passes_through(name: str) -> None:
    """It spreads where the network spreads it, and the call ends as ever."""
    case = Case("lstm", "bfloat16", (6, 3, 4, 40), initial_state=False)
    params = dict(problem(case).params)
    params["x"] = params["x"].copy()
    params["x"][1, 2] = np.nan
    with exchange(name):
        outputs = jax.jit(lambda q: call("lstm", q, backend="native")["outputs"])(params)
    is_nan = np.isnan(np.asarray(outputs, np.float32))
    assert not is_nan[[0, 2]].any()
    assert not is_nan[1, :2].any()
    assert is_nan[1, 2:].all()


@pytest.mark.parametrize("name", EXCHANGES)
def test_tf32_where_jax_asks_for_it(name: str) -> None:
    operands = drawn("lstm", (6, 5, 40) if REHEARSAL else (24, 5, 96), "float32")
    found = {}
    for precision in ("tensorfloat32", "highest"):
        with exchange(name), jax.default_matmul_precision(precision):
            found[precision] = np.asarray(pulled("lstm", "native")(*operands)[0])
    error = relative(found["tensorfloat32"], found["highest"])
    assert 1e-6 < error < 5e-3


@pytest.mark.skipif(REHEARSAL, reason="a cluster is all of the software GPU")
def test_what_a_cluster_cannot_hold_is_refused() -> None:
    x = jnp.zeros((2, 3, 8), jnp.bfloat16)
    kernel, recurrent = (jnp.zeros((n, 4 * 2048), jnp.bfloat16) for n in (8, 2048))
    with exchange("cluster"), pytest.raises(NotImplementedError, match="cluster"):
        jax.jit(lambda *a: jp.lstm(*a, backend="native")).lower(x, kernel, recurrent)


def test_plan_names_the_residency() -> None:
    hidden = 64 if REHEARSAL else 1024
    found = jp.plan("lstm", hidden, 4, jnp.bfloat16, jax.devices()[0])
    assert found.backend == "native", str(found)
    assert str(found.residency).startswith(("grid", "cluster"))


CAPTURED = ("FUSION,CUBLAS",) if REHEARSAL else ("FUSION,CUBLAS", "FUSION,CUBLAS,CUSTOM_CALL")


@pytest.mark.parametrize("captured", CAPTURED)
def test_inside_command_buffers(captured: str) -> None:
    """Whether XLA captures the calls or leaves them out, the results are the same."""
    flags = f"--xla_gpu_enable_command_buffer={captured} --xla_gpu_graph_min_graph_size=1"
    environment = os.environ | ({} if REHEARSAL else {"XLA_FLAGS": flags})
    command = [sys.executable, "-m", "tests.cuda.small_calls", "--cells", "lstm", "--repeats", "5"]
    if REHEARSAL:
        command[2:2] = ["tests.cuda.software"]
        command += ["--sizes", "3,2,5", "--dtypes", "float32"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_longest_case_is_not_all_zeros() -> None:
    """A guard of the tests above: what they compare has values in it."""
    case = replace(Case("lstm"), sizes=SIZES[-1])
    assert np.abs(problem(case).params["x"]).max() > 1
