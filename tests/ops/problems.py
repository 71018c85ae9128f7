# SPDX-License-Identifier: Apache-2.0
"""Random problems, the package called through one signature, and the error budget."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from compiling import AS_SHIPPED

import jax_persistent as jp

from . import baseline, oracle

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
SMALL = (5, 3, 4, 6)  # T, B, I, H
LARGE = (20, 9, 11, 130)
COMPLEX_STEP_LIMIT = 2000  # above this many entries the gradient's truth is a float64 scan
RELU_MARGIN = 0.02  # keeps low precision from deciding which side of the kink a unit is on


FLAGS = (
    "reverse",
    "time_major",
    "initial_state",
    "bias",
    "recurrent_bias",
    "resets",
    "reset_state",
)


@dataclass(frozen=True)
class Case:
    """One problem, hashable, so that its truth is computed once for all backends."""

    cell: str
    dtype: str = "float32"
    sizes: tuple[int, int, int, int] = SMALL
    lengths: tuple[int, ...] | None = None
    reverse: bool = False
    time_major: bool = False
    initial_state: bool = True
    bias: bool = True
    recurrent_bias: bool = True
    resets: bool = False
    reset_state: bool = False  # with resets; zeros otherwise

    def __str__(self) -> str:
        flags = [n for n in FLAGS if getattr(self, n)]
        ragged = ["lengths"] if self.lengths is not None else []
        sizes = "x".join(map(str, self.sizes))
        return "-".join([self.cell, self.dtype, sizes, *ragged, *flags])


@dataclass(frozen=True)
class Problem:
    """A case's arrays, batch-major, already rounded to its dtype."""

    params: dict[str, np.ndarray]
    cotangents: dict[str, np.ndarray]
    lengths: np.ndarray | None
    resets: np.ndarray | None = None


def some_lengths(steps: int, batch: int) -> tuple[int, ...]:
    """Ragged, with a full row and an empty one as soon as there is room for them."""
    return tuple([max(steps - 2, 1), steps, 0, *range(1, steps), *[steps] * batch][:batch])


@contextlib.contextmanager
def precision(dtype: str):
    """float64 exists in JAX only while x64 is on."""
    with jax.enable_x64(dtype == "float64"):
        yield


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    t, b, i, h = case.sizes
    gates = oracle.GATES[case.cell] * h
    found: dict[str, tuple[int, ...]] = {
        "x": (b, t, i),
        "input_kernel": (i, gates),
        "recurrent_kernel": (h, gates),
    }
    if case.bias:
        found["bias"] = (gates,)
    if case.recurrent_bias and case.cell == "gru":
        found["recurrent_bias"] = (gates,)
    if case.initial_state:
        found["h0"] = (b, h)
    if case.initial_state and case.cell == "lstm":
        found["c0"] = (b, h)
    if case.reset_state:
        found["reset_h"] = (b, h)
    if case.reset_state and case.cell == "lstm":
        found["reset_c"] = (b, h)
    return found


def draw(case: Case, seed: int) -> dict[str, np.ndarray]:
    random = np.random.RandomState(seed)
    scales = {
        "x": 1.0,
        "input_kernel": case.sizes[2] ** -0.5,
        "recurrent_kernel": case.sizes[3] ** -0.5,
        "bias": 0.5,
        "recurrent_bias": 0.5,
        "h0": 0.7,
        "c0": 0.9,
        "reset_h": 0.6,
        "reset_c": 0.8,
    }
    return {
        name: (scales[name] * random.randn(*shape)).astype(DTYPES[case.dtype])
        for name, shape in shapes(case).items()
    }


def nearest_kink(case: Case, params: dict[str, np.ndarray]) -> float:
    """The smallest |pre-activation| of a relu problem."""
    seen: list[float] = []
    wide = {k: v.astype(np.float64) for k, v in params.items()}
    oracle.run(
        case.cell,
        wide,
        as_lengths(case),
        case.reverse,
        some_resets(case),
        watch=lambda a, recurrent: seen.append(float(np.abs(a + recurrent).min())),
    )
    return min(seen, default=np.inf)


def keeps_off_kinks(case: Case) -> bool:
    """Whether the problem is smooth, or small enough to be drawn with every unit off its kink."""
    t, b, _, h = case.sizes
    return case.cell != "elman-relu" or t * b * h <= 200


def as_lengths(case: Case) -> np.ndarray | None:
    return None if case.lengths is None else np.array(case.lengths, np.int32)


def some_resets(case: Case) -> np.ndarray | None:
    """A third of all steps, of every row another third: first steps, last ones, and padding too."""
    t, b, _, _ = case.sizes
    return (np.arange(b)[:, None] + np.arange(t)[None, :]) % 3 == 0 if case.resets else None


@lru_cache(maxsize=64)
def problem(case: Case) -> Problem:
    t, b, _, h = case.sizes
    # Layout does not change the problem, so both layouts draw the same numbers.
    seed = zlib.crc32(str(replace(case, time_major=False)).encode())
    params = draw(case, seed)
    if case.cell == "elman-relu" and keeps_off_kinks(case):
        while nearest_kink(case, params) < RELU_MARGIN:
            seed = (seed + 1) % 2**32
            params = draw(case, seed)
    random = np.random.RandomState(seed ^ 1)
    result_shapes = {"outputs": (b, t, h), "h": (b, h), "c": (b, h)}
    names = result_shapes if case.cell == "lstm" else ("outputs", "h")
    cotangents = {n: random.randn(*result_shapes[n]).astype(DTYPES[case.dtype]) for n in names}
    return Problem(params, cotangents, as_lengths(case), some_resets(case))


def complete(case: Case, params: dict, lengths) -> tuple[dict, jax.Array, jax.Array]:
    """Absent operands as the zeros, the full lengths and the missing resets they stand for."""
    t, b, _, _ = case.sizes
    full = shapes(replace(case, initial_state=True, bias=True))
    full |= {"recurrent_bias": full["bias"]} | dict.fromkeys(
        ("c0", "reset_h", "reset_c"), full["h0"]
    )
    dtype = params["x"].dtype
    filled = {n: params.get(n, np.zeros(s, dtype)) for n, s in full.items()}
    resets = some_resets(replace(case, resets=True)) & case.resets
    lengths = jnp.full((b,), t, jnp.int32) if lengths is None else jnp.asarray(lengths)
    return filled, lengths, jnp.asarray(resets)


def plain_scan(case: Case, dtype: str) -> tuple[dict, dict]:
    """The baseline's results and gradients, computed in `dtype`."""
    p = problem(case)
    with precision(dtype):
        wide = {k: v.astype(DTYPES[dtype]) for k, v in p.params.items()}
        cotangents = {k: v.astype(DTYPES[dtype]) for k, v in p.cotangents.items()}
        operands = complete(case, wide, p.lengths)
        found = baseline.run_and_pull(case.cell, *operands, case.reverse, cotangents)
        results, grads = jax.tree.map(np.asarray, found)
    return results, {name: grads[name] for name in p.params}


@lru_cache(maxsize=64)
def truth(case: Case) -> tuple[dict, dict]:
    """float64 results and gradients of the problem."""
    p = problem(case)
    params = {k: v.astype(np.float64) for k, v in p.params.items()}
    cotangents = {k: v.astype(np.float64) for k, v in p.cotangents.items()}
    results = oracle.run(case.cell, params, p.lengths, case.reverse, p.resets)
    if sum(v.size for v in params.values()) > COMPLEX_STEP_LIMIT:
        return results, plain_scan(case, "float64")[1]
    grads = oracle.gradients(case.cell, params, p.lengths, case.reverse, p.resets, cotangents)
    return results, grads


@lru_cache(maxsize=256)
def budget_of(case: Case) -> tuple[dict, dict]:
    """How far plain low-precision JAX lands from the truth, array by array, relative to its size.

    Other sizes answer to the small problem's errors, which saves compiling a scan for each, unless
    rounding may put a unit on the other side of its kink.
    """
    if case.sizes not in (SMALL, LARGE) and keeps_off_kinks(case):
        case = replace(case, sizes=SMALL, lengths=case.lengths and some_lengths(*SMALL[:2]))
    low, exact = plain_scan(case, case.dtype), truth(case)
    results, grads = (
        {name: worst(a[name], b[name]) / size_of(b[name]) for name in b}
        for a, b in zip(low, exact, strict=True)
    )
    return results, grads


def size_of(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0)) or 1.0


def worst(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(np.asarray(got, np.float64) - want).max(initial=0.0))


def call(cell: str, params: dict, *, time_major: bool = False, **options) -> dict:
    """The package's own function for `cell` on batch-major params -> batch-major results."""
    x, w, r = (params[name] for name in ("x", "input_kernel", "recurrent_kernel"))
    x = jnp.swapaxes(x, 0, 1) if time_major else x
    bias, h0 = params.get("bias"), params.get("h0")
    options["time_major"] = time_major
    if time_major and options.get("resets") is not None:
        options["resets"] = options["resets"].T
    if "reset_h" in params:
        both = params["reset_h"], params.get("reset_c")
        options["reset_state"] = both if cell == "lstm" else both[0]
    if cell == "lstm":
        state = None if h0 is None else (h0, params["c0"])
        outputs, (h, c) = jp.lstm(x, w, r, bias, state, **options)
        results = {"outputs": outputs, "h": h, "c": c}
    elif cell == "gru":
        outputs, h = jp.gru(x, w, r, bias, params.get("recurrent_bias"), h0, **options)
        results = {"outputs": outputs, "h": h}
    else:
        activation = cell.removeprefix("elman-")
        outputs, h = jp.elman(x, w, r, bias, h0, activation=activation, **options)
        results = {"outputs": outputs, "h": h}
    if time_major:
        results["outputs"] = jnp.swapaxes(results["outputs"], 0, 1)
    return results


def run_and_pull(function: Callable[[dict], dict], params: dict, cotangents: dict):
    results, pull = jax.vjp(function, params)
    return results, pull(cotangents)[0]


@lru_cache(maxsize=256)
def compiled(cell: str, reverse: bool, time_major: bool, backend: str | None, as_shipped: bool):
    """One jitted function per set of static options; other operands and sizes retrace it."""

    @partial(jax.jit, compiler_options=AS_SHIPPED if as_shipped else None)
    def both(params, cotangents, lengths, resets):
        def function(q):
            return call(
                cell,
                q,
                lengths=lengths,
                resets=resets,
                reverse=reverse,
                time_major=time_major,
                backend=backend,
            )

        return run_and_pull(function, params, cotangents)

    return both


def evaluate(
    case: Case, backend: str | None, given: Problem | None = None, as_shipped: bool = False
) -> tuple[dict, dict]:
    """Results and gradients of the package, in numpy; lengths are traced."""
    p = given or problem(case)
    both = compiled(case.cell, case.reverse, case.time_major, backend, as_shipped)
    with precision(case.dtype):
        return jax.tree.map(np.asarray, both(p.params, p.cotangents, p.lengths, p.resets))


def check_within_budget(case: Case, got: tuple[dict, dict]) -> None:
    """Each array's error is at most four times plain JAX's, above a floor of a few roundings.

    The floor counts roundings of the terms, which a sum may have cancelled, so it looks at the
    other arrays' sizes too.
    """
    dtype = DTYPES[case.dtype]
    unit = float(jnp.finfo(dtype).eps)
    floor = max(unit, min(16 * unit, 16 * 2.0**-23))
    for found, exact, budget in zip(got, truth(case), budget_of(case), strict=True):
        assert set(found) == set(exact)
        largest = max(map(size_of, exact.values()))
        for name, want in exact.items():
            assert found[name].dtype == dtype, name
            assert found[name].shape == want.shape, name
            size = size_of(want)
            allowed = 4 * budget[name] * size + floor * max(size, largest / 4)
            error = worst(found[name], want)
            assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g} in {case}"
