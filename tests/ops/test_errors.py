# SPDX-License-Identifier: Apache-2.0
"""Every wrong argument is a ValueError that names it, says what was expected and what was given."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jax_persistent as jp

from . import oracle
from .problems import Case, Problem, call, evaluate, problem

T, B, I, H = 5, 3, 4, 6  # noqa: E741
CELL_NAMES = oracle.CELLS


def given(cell: str, **changes) -> dict:
    return {**problem(Case(cell)).params, **changes}


def rejects(cell: str, params: dict, *mentions: str, **options) -> None:
    """Eager and traced, whatever the backend, with every mention in the message."""
    for backend in (None, "native", "reference"):
        with pytest.raises(ValueError, match=re.escape(mentions[0])) as caught:
            call(cell, params, backend=backend, **options)
        for mention in mentions[1:]:
            assert mention in str(caught.value), f"{mention!r} is not in {caught.value}"
    arrays = {k: v for k, v in params.items() if isinstance(v, (np.ndarray, jax.Array))}
    others = {k: v for k, v in params.items() if k not in arrays}
    with pytest.raises(ValueError, match=re.escape(mentions[0])):
        jax.eval_shape(lambda q: call(cell, {**q, **others}, **options), arrays)


def zeros(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("shape", [(T, I), (2, B, T, I)])
def test_rank_of_x(cell: str, shape: tuple[int, ...]) -> None:
    for time_major, layout in ((False, "[B, T, I]"), (True, "[T, B, I]")):
        whole = {**given(cell), "x": zeros(*shape)}
        turned = tuple(np.swapaxes(whole["x"], 0, 1).shape) if time_major else shape
        rejects(cell, whole, "x", layout, str(turned), time_major=time_major)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_arrays_of_pytorch(cell: str) -> None:
    whole = given(cell)
    turned = {name: whole[name].T for name in ("input_kernel", "recurrent_kernel")}
    rejects(cell, {**whole, **turned}, "recurrent_kernel", "weights.from_pytorch")


def test_a_state_in_the_place_of_a_bias() -> None:
    rejects("gru", given("gru", bias=zeros(1, B, H)), "bias", "passed as initial_state")


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_no_features(cell: str) -> None:
    kernel = zeros(0, oracle.GATES[cell] * H)
    params = given(cell, x=zeros(B, T, 0), input_kernel=kernel)
    rejects(cell, params, "x", "I", str((B, T, 0)))


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_no_units(cell: str) -> None:
    params = {"x": zeros(B, T, I), "input_kernel": zeros(I, 0), "recurrent_kernel": zeros(0, 0)}
    rejects(cell, params, "H", "(0, 0)")


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_features_of_the_input_kernel(cell: str) -> None:
    columns = oracle.GATES[cell] * H
    params = given(cell, input_kernel=zeros(I + 1, columns))
    rejects(cell, params, "input_kernel", str((I, columns)), str((I + 1, columns)))


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_columns_of_the_kernels(cell: str) -> None:
    columns = oracle.GATES[cell] * H
    wrong = columns + 1
    rejects(
        cell,
        given(cell, input_kernel=zeros(I, wrong)),
        "input_kernel",
        str((I, columns)),
        str((I, wrong)),
    )
    rejects(
        cell,
        given(cell, recurrent_kernel=zeros(H, wrong)),
        "recurrent_kernel",
        str((H, columns)),
        str((H, wrong)),
    )


def test_another_cells_gates() -> None:
    for cell, other in (("lstm", "gru"), ("gru", "lstm"), ("elman-tanh", "lstm")):
        params = given(other)
        params = {k: params[k] for k in ("x", "input_kernel", "recurrent_kernel")}
        want = (H, oracle.GATES[cell] * H)
        rejects(cell, params, "recurrent_kernel", str(want), str((H, oracle.GATES[other] * H)))


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("name", ["input_kernel", "recurrent_kernel"])
def test_rank_of_the_kernels(cell: str, name: str) -> None:
    params = given(cell)
    shape = (2, *params[name].shape)
    rejects(cell, {**params, name: zeros(*shape)}, name, str(shape))


@pytest.mark.parametrize(
    ("cell", "name"),
    [*((cell, "bias") for cell in CELL_NAMES), ("gru", "recurrent_bias")],
)
def test_shape_of_the_biases(cell: str, name: str) -> None:
    columns = oracle.GATES[cell] * H
    for shape in ((columns + 1,), (1, columns), ()):
        rejects(cell, given(cell, **{name: zeros(*shape)}), name, str((columns,)), str(shape))


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_one_dtype_for_all(cell: str) -> None:
    for name in set(given(cell)) - {"x"}:
        params = given(cell)
        params[name] = params[name].astype(ml_dtypes.bfloat16)
        label = "initial_state" if name in ("h0", "c0") else name
        rejects(cell, params, label, "float32", "bfloat16")


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.complex64, np.uint8])
def test_dtypes_without_a_meaning(cell: str, dtype) -> None:
    params = {k: v.astype(dtype) for k, v in given(cell).items()}
    rejects(cell, params, "x", "float32", np.dtype(dtype).name)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("name", ["x", "input_kernel", "recurrent_kernel", "bias"])
def test_not_an_array(cell: str, name: str) -> None:
    missing = () if name == "bias" else (None,)
    for value in ("weights", object(), {"kernel": zeros(I, H)}, *missing):
        params = given(cell, **{name: value})
        if name == "x":
            function = jp.lstm if cell == "lstm" else jp.gru if cell == "gru" else jp.elman
            with pytest.raises(ValueError, match="x"):
                function(value, params["input_kernel"], params["recurrent_kernel"])
        else:
            rejects(cell, params, name)


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_shape_of_lengths(cell: str) -> None:
    for shape in ((), (B + 1,), (B, 1), (1,)):
        lengths = np.ones(shape, np.int32)
        rejects(cell, given(cell), "lengths", str((B,)), str(shape), lengths=lengths)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_dtype_of_lengths(cell: str, dtype) -> None:
    lengths = np.ones(B, dtype)
    rejects(cell, given(cell), "lengths", "int32", np.dtype(dtype).name, lengths=lengths)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("bad", [-1, T + 1, -(2**31), 2**31 - 1])
def test_lengths_out_of_range(cell: str, bad: int) -> None:
    lengths = np.array([T, 0, bad], np.int32)
    for whole in (lengths, jnp.asarray(lengths)):
        rejects(cell, given(cell), "lengths", f"{T}", str(bad), lengths=whole)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_other_integer_lengths_mean_the_same(dtype) -> None:
    for values in ((3, 5, 0), (0, 1, 2)):
        wide, other = np.array(values, np.int32), np.array(values, dtype)
        want = call("gru", given("gru"), lengths=wide, backend="reference")
        got = call("gru", given("gru"), lengths=other, backend="reference")
        np.testing.assert_array_equal(got["outputs"], want["outputs"])


def test_known_lengths_are_checked_inside_jit() -> None:
    """A constant is known, traced or not what surrounds it."""
    with pytest.raises(ValueError, match="lengths"):
        jax.jit(lambda q: call("lstm", q, lengths=np.array([1, 2, 9], np.int32)))(given("lstm"))


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("name", ["h0", "c0"])
def test_shape_of_the_initial_state(cell: str, name: str) -> None:
    params = given(cell)
    if name not in params:
        assert name == "c0"
        return
    for shape in ((B, H + 1), (B + 1, H), (H,), (1, B, H), (1, H)):
        rejects(cell, {**params, name: zeros(*shape)}, "initial_state", str((B, H)), str(shape))


def test_kind_of_the_initial_state() -> None:
    p = given("lstm")
    operands = p["x"], p["input_kernel"], p["recurrent_kernel"]
    h = p["h0"]
    for state in (h, (h,), (h, h, h), {"h": h, "c": h}, (h, None), (h, "c")):
        with pytest.raises(ValueError, match="initial_state") as caught:
            jp.lstm(*operands, initial_state=state)
        assert "h0" in str(caught.value) or "c0" in str(caught.value)
    for cell, function in (("gru", jp.gru), ("elman-tanh", jp.elman)):
        p = given(cell)
        operands = p["x"], p["input_kernel"], p["recurrent_kernel"]
        for state in ((h, h), (h,), [h], "state"):
            with pytest.raises(ValueError, match="initial_state"):
                function(*operands, initial_state=state)


@pytest.mark.parametrize("activation", ["sigmoid", "", None, 3, jnp.tanh])
def test_unknown_activation(activation) -> None:
    p = given("elman-tanh")
    with pytest.raises(ValueError, match="activation") as caught:
        jp.elman(p["x"], p["input_kernel"], p["recurrent_kernel"], activation=activation)
    for mention in ("tanh", "relu", repr(activation)):
        assert mention in str(caught.value)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("backend", ["cuda", "", 1, "Native", ["native"]])
def test_unknown_backend(cell: str, backend) -> None:
    with pytest.raises(ValueError, match="backend") as caught:
        call(cell, given(cell), backend=backend)
    for mention in ("native", "reference", repr(backend)):
        assert mention in str(caught.value)


@pytest.mark.parametrize("name", ["reverse", "time_major"])
def test_flags_are_bools(name: str) -> None:
    p = given("gru")
    for value in ("yes", 1, None, np.ones(2, bool)):
        with pytest.raises(ValueError, match=name):
            jp.gru(p["x"], p["input_kernel"], p["recurrent_kernel"], **{name: value})


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_errors_come_through_transforms(cell: str) -> None:
    params = given(cell, input_kernel=zeros(I + 1, oracle.GATES[cell] * H))
    with pytest.raises(ValueError, match="input_kernel"):
        jax.grad(lambda q: call(cell, q)["h"].sum())(params)
    with pytest.raises(ValueError, match="input_kernel"):
        jax.vmap(lambda x: call(cell, {**params, "x": x})["h"])(zeros(2, B, T, I))


@pytest.mark.parametrize(
    "arguments",
    [
        ("transformer", 128, 4, "float32"),
        ("", 128, 4, "float32"),
        (None, 128, 4, "float32"),
    ],
)
def test_plan_of_an_unknown_cell(arguments) -> None:
    with pytest.raises(ValueError, match="cell") as caught:
        jp.plan(*arguments)
    for mention in ("lstm", "gru", "elman", repr(arguments[0])):
        assert mention in str(caught.value)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "many", None])
def test_plan_of_wrong_sizes(bad) -> None:
    with pytest.raises(ValueError, match="hidden") as caught:
        jp.plan("lstm", bad, 4, "float32")
    assert repr(bad) in str(caught.value)
    with pytest.raises(ValueError, match="batch") as caught:
        jp.plan("lstm", 128, bad, "float32")
    assert repr(bad) in str(caught.value)
    with pytest.raises(ValueError, match="steps") as caught:
        jp.plan("lstm", 128, 4, "float32", steps=bad)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("dtype", ["int32", "float8", np.complex64, "weights", None])
def test_plan_of_a_wrong_dtype(dtype) -> None:
    with pytest.raises(ValueError, match="dtype") as caught:
        jp.plan("lstm", 128, 4, dtype)
    assert "float32" in str(caught.value)


def test_clean_arguments_after_all() -> None:
    """The problem that the tests above spoil is itself accepted."""
    for cell in CELL_NAMES:
        p = problem(Case(cell))
        results, _ = evaluate(Case(cell), None, Problem(p.params, p.cotangents, p.lengths))
        assert np.isfinite(results["outputs"]).all()
