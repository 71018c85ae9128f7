# SPDX-License-Identifier: Apache-2.0
"""The specification, as one body that every backend passes, held against float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from . import baseline, oracle
from .problems import (
    DTYPES,
    LARGE,
    SMALL,
    Case,
    Problem,
    call,
    check_within_budget,
    complete,
    evaluate,
    plain_scan,
    precision,
    problem,
    some_lengths,
    truth,
    worst,
)

BACKENDS = ("reference", "native")
RAGGED = (3, 5, 0)


def combinations(cell: str, dtype: str) -> list[Case]:
    """Every pair of options for each cell, and every five options among the four cells."""
    nth = oracle.CELLS.index(cell)
    flip_state, flip_bias = bool(nth & 1), bool(nth & 2)
    return [
        Case(
            cell,
            dtype,
            lengths=RAGGED if ragged else None,
            reverse=reverse,
            time_major=time_major,
            initial_state=ragged ^ reverse ^ flip_state,
            bias=ragged ^ time_major ^ flip_bias,
            recurrent_bias=reverse ^ time_major,
            resets=ragged ^ reverse ^ time_major,
            reset_state=(ragged ^ reverse ^ time_major) and ragged ^ flip_bias,
        )
        for ragged, reverse, time_major in product((False, True), repeat=3)
    ]


EDGES = (
    (1, 3, 4, 6),
    (2, 3, 4, 5),
    (5, 1, 4, 6),
    (5, 3, 1, 6),
    (5, 3, 4, 1),
    (5, 3, 6, 4),
    (6, 4, 5, 7),
    (4, 2, 3, 13),
    (5, 4, 3, 17),
    (3, 8, 2, 33),
    (4, 5, 3, 64),
    (3, 6, 2, 65),
    LARGE,
)


def at_the_edges(dtype: str, edges=EDGES) -> list[Case]:
    """Awkward sizes, directions and layouts alternating, row lengths from 0 to T."""
    cases = []
    for (nth, cell), (mth, sizes) in product(enumerate(oracle.CELLS), enumerate(edges)):
        lengths = some_lengths(*sizes[:2]) if (nth + mth) % 3 else None
        reverse, time_major = bool((nth + mth) % 2), bool(mth % 4 // 2)
        resets = (nth + mth) % 5 < 2
        case = Case(cell, dtype, sizes, lengths, reverse, time_major, resets=resets)
        cases.append(replace(case, reset_state=resets and bool(mth % 2)))
    return cases


def everything(dtype: str) -> list[Case]:
    return [case for cell in oracle.CELLS for case in combinations(cell, dtype)]


def some(dtype: str, first: int, stride: int) -> list[Case]:
    return everything(dtype)[first::stride]


# A scan takes a second to compile and has one code path; a kernel compiles at once and has many.
CASES = {
    "native": [
        *everything("float32"),
        *everything("bfloat16"),
        *at_the_edges("float32"),
        *at_the_edges("bfloat16", EDGES[::3]),
    ],
    "reference": [
        *everything("float64"),
        *some("float32", 0, 3),
        *some("bfloat16", 1, 3),
        *some("float16", 2, 6),
        *at_the_edges("float32", (EDGES[0], EDGES[2], EDGES[4], EDGES[7])),
    ],
}


@pytest.mark.parametrize(
    ("backend", "case"),
    [(backend, case) for backend, cases in CASES.items() for case in cases],
    ids=str,
)
def test_agrees_with_float64(backend: str, case: Case) -> None:
    check_within_budget(case, evaluate(case, backend))


@pytest.mark.parametrize("cell", oracle.CELLS)
def test_default_backend(cell: str) -> None:
    """As users' programs are compiled: the others here are compiled quickly."""
    for dtype in ("float32", "float64"):
        case = Case(cell, dtype, lengths=RAGGED)
        check_within_budget(case, evaluate(case, None, as_shipped=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_all_rows_empty(cell: str, backend: str) -> None:
    case = Case(cell, lengths=(0, 0, 0))
    results, grads = evaluate(case, backend)
    p = problem(case)
    assert_array_equal(results["outputs"], np.zeros_like(results["outputs"]))
    for state, initial in (("h", "h0"), ("c", "c0")):
        if state in results:
            assert_array_equal(results[state], p.params[initial])
            assert_array_equal(grads[initial], p.cotangents[state])
    for name in set(grads) - {"h0", "c0"}:
        assert_array_equal(grads[name], np.zeros_like(grads[name]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", ["bias", "recurrent_bias"])
def test_gru_with_one_bias(which: str, backend: str) -> None:
    case = Case("gru", bias=which == "bias", recurrent_bias=which == "recurrent_bias")
    check_within_budget(case, evaluate(case, backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_eager_call_with_known_lengths(cell: str, backend: str) -> None:
    case = Case(cell, lengths=RAGGED, reverse=True)
    p = problem(case)
    want, _ = truth(case)
    for lengths in (p.lengths, jnp.asarray(p.lengths)):
        got = call(cell, p.params, lengths=lengths, reverse=True, backend=backend)
        for name in want:
            assert worst(got[name], want[name]) < 2e-6, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_traced_lengths_are_clamped(cell: str, reverse: bool, backend: str) -> None:
    case = Case(cell, lengths=RAGGED, reverse=reverse)
    p = problem(case)
    outside = Problem(p.params, p.cotangents, np.array([3, 2**31 - 1, -7], np.int32))
    jax.tree.map(assert_array_equal, evaluate(case, backend, outside), evaluate(case, backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_padding_cannot_be_seen(cell: str, reverse: bool, backend: str) -> None:
    """NaN and Inf in padded inputs and padded cotangents change nothing."""
    case = Case(cell, lengths=RAGGED, reverse=reverse)
    p = problem(case)
    steps = np.arange(SMALL[0])[None, :, None]
    padded = np.broadcast_to(steps >= p.lengths[:, None, None], p.params["x"].shape)
    x, outputs = p.params["x"].copy(), p.cotangents["outputs"].copy()
    x[padded] = np.resize(np.array([np.nan, np.inf, -np.inf], np.float32), int(padded.sum()))
    outputs[padded[:, :, 0]] = np.nan
    poisoned = Problem(p.params | {"x": x}, p.cotangents | {"outputs": outputs}, p.lengths)
    got, clean = evaluate(case, backend, poisoned), evaluate(case, backend)
    assert_array_equal(got[1]["x"][padded], 0)
    assert_array_equal(got[0]["outputs"][padded[:, :, 0]], 0)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=2e-6, atol=1e-7), got, clean)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_nan_stays_in_its_row(cell: str, dtype: str, backend: str) -> None:
    case = Case(cell, dtype)
    p = problem(case)
    row, time = 1, 2
    payload = {"float32": np.uint32(0xFFFFFFFF), "bfloat16": np.uint16(0xFFFF)}[dtype]
    x = p.params["x"].copy()
    x[row, time, 3] = payload.view(DTYPES[dtype])
    assert np.isnan(x[row, time, 3])
    poisoned = Problem(p.params | {"x": x}, p.cotangents, p.lengths)
    (got, grads), (clean, clean_grads) = evaluate(case, backend, poisoned), evaluate(case, backend)

    assert np.isnan(got["outputs"][row, time:]).all()
    assert np.isnan(got["h"][row]).all()
    assert_array_equal(got["outputs"][row, :time], clean["outputs"][row, :time])
    others = [0, 2]
    for name in got:
        assert_array_equal(got[name][others], clean[name][others])
    for name in set(grads) & {"x", "h0", "c0"}:
        assert_array_equal(grads[name][others], clean_grads[name][others])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_nan_initial_state(cell: str, backend: str) -> None:
    case = Case(cell, lengths=(3, 5, 0))
    p = problem(case)
    h0 = p.params["h0"].copy()
    h0[[1, 2], 4] = np.nan
    poisoned = Problem(p.params | {"h0": h0}, p.cotangents, p.lengths)
    got, clean = evaluate(case, backend, poisoned)[0], evaluate(case, backend)[0]
    assert_array_equal(got["outputs"][[0, 2]], clean["outputs"][[0, 2]])
    assert np.isnan(got["outputs"][1]).all()
    assert np.isnan(got["h"][1]).all()
    assert_array_equal(got["h"][2], h0[2])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "elman-tanh"])
def test_saturates_without_nan(cell: str, dtype: str, backend: str) -> None:
    case = Case(cell, dtype)
    p = problem(case)
    far = Problem(p.params | {"x": (1e4 * np.sign(p.params["x"])).astype(DTYPES[dtype])}, *rest(p))
    results, grads = evaluate(case, backend, far)
    params = {k: v.astype(np.float64) for k, v in far.params.items()}
    want = oracle.run(cell, params, None, False)
    for name in want:
        assert worst(results[name], want[name]) < {"float32": 1e-5, "bfloat16": 0.04}[dtype], name
    assert all(np.isfinite(v).all() for v in grads.values())


def rest(p: Problem):
    return p.cotangents, p.lengths


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("cell", ["lstm", "gru", "elman-tanh"])
def test_infinite_gate_is_its_limit(cell: str, sign: int, backend: str) -> None:
    """A bias of infinity holds a gate at 0 or 1 (-1 or 1 for a tanh), with finite gradients."""
    case = Case(cell)
    p = problem(case)
    hidden = SMALL[3]
    gate = slice(hidden, 2 * hidden) if cell != "elman-tanh" else slice(0, hidden)
    infinite, large = p.params["bias"].copy(), p.params["bias"].copy()
    infinite[gate], large[gate] = sign * np.inf, sign * 1e3
    got = evaluate(case, backend, Problem(p.params | {"bias": infinite}, *rest(p)))
    want = evaluate(case, "reference", Problem(p.params | {"bias": large}, *rest(p)))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_operands_in_other_layouts(cell: str, backend: str) -> None:
    """Transposed, reversed, sliced and broadcast operands, and a transposed use of the result."""
    case = Case(cell)
    p = problem(case)

    def unwrap(q):
        whole = dict(q)
        whole["x"] = jnp.transpose(q["x"], (2, 0, 1))[:, :, ::-1]
        whole["recurrent_kernel"] = q["recurrent_kernel"].T
        whole["input_kernel"] = q["input_kernel"][1::2]
        whole["h0"] = jnp.broadcast_to(q["h0"], (SMALL[1], SMALL[3]))
        return whole

    def wrap(params):
        x, w = params["x"], params["input_kernel"]
        return params | {
            "x": np.ascontiguousarray(x[:, ::-1].transpose(1, 2, 0)),
            "recurrent_kernel": np.ascontiguousarray(params["recurrent_kernel"].T),
            "input_kernel": np.stack([w + 1, w], axis=1).reshape(-1, w.shape[1]),
            "h0": params["h0"][:1],
        }

    def loss(q, run):
        results = run(unwrap(q))
        turned = jnp.transpose(results["outputs"], (2, 1, 0))
        weights = jnp.asarray(p.cotangents["outputs"].transpose(2, 1, 0))
        return (turned * weights).sum() + (results["h"] * p.cotangents["h"]).sum(), turned

    def plain(q):
        return baseline.run(cell, *complete(case, q, None), False)

    def ours(q):
        return call(cell, q, backend=backend)

    given = wrap(p.params)
    got, want = (
        jax.jit(jax.value_and_grad(partial(loss, run=run), has_aux=True))(given)
        for run in (ours, plain)
    )
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, want)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_native_refuses_other_dtypes_on_cpu(cell: str, dtype: str) -> None:
    case = Case(cell, dtype)
    params = problem(case).params
    with (
        precision(dtype),
        jax.default_device(jax.devices("cpu")[0]),
        pytest.raises(NotImplementedError, match=dtype),
    ):
        call(cell, params, backend="native")


@pytest.mark.parametrize("cell", oracle.CELLS)
def test_baseline_in_float64_is_the_oracle(cell: str) -> None:
    """The truth of large gradients, held against the truth of small ones."""
    for case in combinations(cell, "float64"):
        for found, want in zip(plain_scan(case, "float64"), truth(case), strict=True):
            for name in want:
                assert worst(found[name], want[name]) < 1e-12, (name, case)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_reference_gradient_is_the_finite_difference(cell: str, reverse: bool) -> None:
    case = Case(cell, "float64", lengths=RAGGED, reverse=reverse, resets=True, reset_state=reverse)
    p = problem(case)
    _, grads = evaluate(case, "reference")
    for seed in range(3):
        random = np.random.RandomState(seed)
        direction = {k: random.randn(*v.shape) for k, v in p.params.items()}
        slope = oracle.slope(cell, p.params, p.lengths, reverse, p.resets, p.cotangents, direction)
        dot = sum((grads[k] * direction[k]).sum() for k in direction)
        assert_allclose(dot, slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("cell", oracle.CELLS)
def test_reference_curvature_is_the_finite_difference(cell: str) -> None:
    """A Hessian-vector product against the change of the oracle's gradient."""
    case = Case(cell, "float64", lengths=RAGGED)
    p = problem(case)
    random = np.random.RandomState(7)
    direction = {k: random.randn(*v.shape) for k, v in p.params.items()}

    def loss(params):
        results = call(cell, params, lengths=p.lengths, backend="reference")
        return sum((results[k] * p.cotangents[k]).sum() for k in results)

    with precision("float64"):
        got = jax.jit(lambda q, d: jax.jvp(jax.grad(loss), (q,), (d,))[1])(p.params, direction)
        got = jax.tree.map(np.asarray, got)
    step = 1e-5
    ahead, behind = (
        oracle.gradients(
            cell,
            {k: v + sign * step * direction[k] for k, v in p.params.items()},
            p.lengths,
            False,
            p.resets,
            p.cotangents,
        )
        for sign in (1, -1)
    )
    for name in got:
        want = (ahead[name] - behind[name]) / (2 * step)
        assert_allclose(got[name], want, rtol=1e-6, atol=1e-6, err_msg=name)
