# SPDX-License-Identifier: Apache-2.0
"""Packed kernels in place of kernels: the same bits under every transform, or an error."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal

import jax_persistent as jp

from .problems import Case, call, problem, some_lengths

CELLS = ("lstm", "gru", "elman-tanh", "elman-relu")
KERNELS = ("input_kernel", "recurrent_kernel")
# T, B, I, H: a decoder's step of one row and of several, with odd sizes and several panels.
SIZES = ((5, 3, 4, 6), (1, 1, 9, 70), (2, 7, 11, 130))
WAYS = (
    {"reverse": True},
    {"time_major": True, "resets": True, "reset_state": True},
    {"bias": False, "initial_state": False, "recurrent_bias": False},
)


def arrays(case: Case) -> dict:
    return {name: jnp.asarray(value) for name, value in problem(case).params.items()}


def packed(cell: str, params: dict) -> dict:
    """The same parameters with both kernels packed."""
    return params | jp.pack(cell.partition("-")[0], {name: params[name] for name in KERNELS})


def assert_same(got: object, want: object) -> None:
    jax.tree.map(assert_array_equal, got, want)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits(cell: str, dtype: str, sizes: tuple[int, int, int, int]) -> None:
    for n, way in enumerate(WAYS):
        lengths = some_lengths(*sizes[:2]) if n != 1 else None
        case = Case(cell, dtype, sizes, lengths, **way)
        params, given = arrays(case), problem(case)
        run = jax.jit(
            partial(
                call,
                cell,
                lengths=given.lengths,
                resets=given.resets,
                reverse=case.reverse,
                time_major=case.time_major,
                backend="native",
            )
        )
        assert_same(run(packed(cell, params)), run(params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_reference_unpacks(cell: str, dtype: str) -> None:
    for sizes in SIZES:
        params = arrays(Case(cell, dtype, sizes))
        run = partial(call, cell, backend="reference")
        assert_same(run(packed(cell, params)), run(params))


def test_it_has_the_shape_and_dtype_of_the_kernel() -> None:
    w, (r,) = jp.pack("gru", (jnp.ones((5, 21), jnp.bfloat16), [np.ones((7, 21), np.float32)]))
    assert isinstance(w, jp.PackedKernel)
    assert (w.shape, w.dtype, r.shape, r.dtype) == ((5, 21), jnp.bfloat16, (7, 21), jnp.float32)
    assert w.panels.size >= 6 * 21
    assert len(jax.tree.leaves((w, r))) == 2


def test_an_ensemble() -> None:
    """vmap over packed kernels, over pack itself, and over rows that share them."""
    rows, members = 3, 4
    case = Case("lstm", sizes=(2, rows, 5, 18))
    params = arrays(case)
    several = {n: jnp.stack([(1 + m) / 4 * params[n] for m in range(members)]) for n in KERNELS}
    panels = jax.vmap(partial(jp.pack, "lstm"))(several)
    assert_same(jax.jit(jax.vmap(partial(jp.pack, "lstm")))(several), panels)
    run = partial(call, "lstm", backend="native")
    of_each = jax.jit(jax.vmap(lambda kernels: run(params | kernels)))
    assert_same(of_each(panels), of_each(several))
    x = jnp.stack([params["x"], 2 * params["x"]])
    of_rows = jax.jit(jax.vmap(lambda x, kernels: run(params | kernels | {"x": x}), (0, None)))
    one = jax.tree.map(lambda a: a[1], (panels, several))
    assert_same(of_rows(x, one[0]), of_rows(x, one[1]))


def test_a_loop_of_single_steps() -> None:
    """Packed in the program that loops, and carried and donated as any state."""
    case = Case("gru", sizes=(6, 2, 5, 33))
    params = arrays(case)
    w, r = (params[name] for name in KERNELS)

    def steps(pack: bool, x: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        kernels = jp.pack("gru", (w, r)) if pack else (w, r)

        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            outputs, h = jp.gru(x[:, None], *kernels, params["bias"], None, h, backend="native")
            return h, outputs[:, 0]

        return jax.lax.scan(step, h, jnp.swapaxes(x, 0, 1))

    run = jax.jit(steps, static_argnums=0)
    assert_same(run(True, params["x"], params["h0"]), run(False, params["x"], params["h0"]))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(kernels: tuple, h: jax.Array, x: jax.Array) -> tuple:
        return kernels, jp.gru(x[:, None], *kernels, params["bias"], None, h, backend="native")[1]

    kernels, h = jp.pack("gru", (w, r)), params["h0"] + 0.0
    for t in range(3):
        given = kernels
        kernels, h = step(kernels, h, params["x"][:, t])
        assert given[0].panels.is_deleted()
    assert_same(h, run(True, params["x"][:, :3], params["h0"])[0])


def test_sizes_may_be_symbolic() -> None:
    case = Case("lstm", sizes=(2, 5, 4, 19))
    params = packed("lstm", arrays(case))
    (b,) = export.symbolic_shape("b")

    def shape(name: str, array: object) -> object:
        sizes = (b, *array.shape[1:]) if name in ("x", "h0", "c0") else array.shape
        return jax.ShapeDtypeStruct(sizes, array.dtype)

    names = [n for n in params if n not in KERNELS]
    run = jax.jit(lambda given: call("lstm", given | {n: params[n] for n in KERNELS}))
    targets = [export.DisabledSafetyCheck.custom_call("jax_persistent.forward")]
    exported = export.export(run, disabled_checks=targets)({n: shape(n, params[n]) for n in names})
    assert_same(exported.call({n: params[n] for n in names}), run({n: params[n] for n in names}))


def test_a_batch_over_devices() -> None:
    params = arrays(Case("lstm", sizes=(3, 4, 5, 20)))
    mesh = Mesh(np.array(jax.devices()[:2]), "b")
    batched = {"x", "h0", "c0"}
    place = {n: PartitionSpec("b" if n in batched else None) for n in params}
    placed = {n: jax.device_put(params[n], NamedSharding(mesh, place[n])) for n in params}
    run = jax.jit(lambda params: call("lstm", packed("lstm", params), backend="native"))
    found = run(placed)
    assert not found["outputs"].sharding.is_fully_replicated
    assert_same(found, run(params))


def test_other_gradients_are_those_of_the_kernels() -> None:
    params = arrays(Case("gru", sizes=(3, 2, 5, 21), lengths=(3, 1)))
    others = {n: a for n, a in params.items() if n not in KERNELS}
    kernels = {n: params[n] for n in KERNELS}

    def loss(others: dict, kernels: dict) -> jax.Array:
        results = call("gru", others | kernels, lengths=(3, 1), backend="native")
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(results))

    gradient = jax.jit(jax.grad(loss))
    assert_same(gradient(others, jp.pack("gru", kernels)), gradient(others, kernels))


def test_gradients_of_the_kernels_raise() -> None:
    params = arrays(Case("elman-tanh", sizes=(2, 3, 4, 6)))
    kernels = {n: params[n] for n in KERNELS}

    def loss(kernels: dict) -> jax.Array:
        return call("elman-tanh", params | kernels)["outputs"].sum()

    panels = jp.pack("elman", kernels)
    says = "packed kernels: expected no gradient with respect to them.*Train with the kernels"
    for attempt in (
        lambda: jax.grad(loss)(panels),
        lambda: jax.jit(jax.grad(loss))(panels),
        lambda: jax.jvp(loss, (panels,), (panels,)),
        lambda: jax.grad(lambda kernels: loss(jp.pack("elman", kernels)))(kernels),
        lambda: jax.grad(lambda kernels: jax.jit(loss)(jp.pack("elman", kernels)))(kernels),
        lambda: jax.grad(lambda r: loss(panels | {"recurrent_kernel": r}))(
            panels["recurrent_kernel"]
        ),
    ):
        with pytest.raises(ValueError, match=says):
            attempt()


@pytest.mark.parametrize(
    ("cell", "kernel", "says"),
    [
        ("peephole", jnp.ones((3, 8)), "cell: expected one of .* got 'peephole'"),
        ("lstm", jnp.ones((3, 9)), r"kernels\['w'\]: expected \[K, 4\*H\].* got shape \(3, 9\)"),
        ("gru", jnp.ones((2, 3, 9)), r"got shape \(2, 3, 9\). Use jax.vmap over further axes"),
        ("gru", jnp.ones((0, 9)), r"got shape \(0, 9\)"),
        ("gru", jnp.ones((2, 9), jnp.float16), "expected dtype float32 or bfloat16.* got float16"),
        ("gru", "a kernel", r"kernels\['w'\]: expected an array; got str"),
    ],
)
def test_what_can_not_be_packed(cell: str, kernel: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        jp.pack(cell, {"w": kernel})


def changed(params: dict, **changes: object) -> dict:
    return params | changes


@pytest.mark.parametrize("jit", [False, True])
def test_wrong_kernels(jit: bool) -> None:
    plain = arrays(Case("lstm"))
    good = packed("lstm", plain)
    w, r = (good[name] for name in KERNELS)

    lstm = partial(call, "lstm")

    def rejects(says: str, function: object = lstm, **changes: object) -> None:
        run = jax.jit(function) if jit else function
        with pytest.raises(ValueError, match=re.escape(says)):
            run(changed(good, **changes))

    rejects(
        "recurrent_kernel: expected a packed kernel, as input_kernel is; got an array. Pack both",
        recurrent_kernel=plain["recurrent_kernel"],
    )
    rejects("input_kernel: expected a packed kernel", input_kernel=plain["input_kernel"])
    rejects(
        "the dtype of x; got a kernel packed as float32",
        **{n: a.astype(jnp.bfloat16) for n, a in plain.items() if n not in KERNELS},
    )
    rejects("input_kernel: expected [I, 4*H] = (3, 24)", x=plain["x"][..., :3])
    (other,) = jp.pack("gru", [jnp.ones((6, 18))])
    rejects("recurrent_kernel: expected [H, 4*H] = (6, 24)", recurrent_kernel=other)
    several = replace(r, panels=r.panels[None])
    rejects("recurrent_kernel: expected rank 2", recurrent_kernel=several)
    rejects(
        "recurrent_kernel: expected panels", recurrent_kernel=replace(r, panels=r.panels[:, 1:])
    )
    rejects("bias: expected an array; got a packed kernel", bias=w)
    rejects(
        "as PeepholeLSTM is no cell that reads packed kernels",
        lambda p: jp.lstm(p["x"], w, r, peephole=jnp.ones(18)),
    )
    gru = packed("gru", arrays(Case("gru")))
    with pytest.raises(ValueError, match="as ResetBeforeGRU is no cell that reads packed kernels"):
        jp.gru(gru["x"], gru["input_kernel"], gru["recurrent_kernel"], reset_after=False)


def of_another_machine(kernel: jp.PackedKernel) -> jp.PackedKernel:
    other = replace(kernel, lanes=2 * kernel.lanes)
    return replace(other, panels=jnp.ones(other.panels_shape, kernel.dtype))


def test_another_machines_kernels() -> None:
    good = packed("lstm", arrays(Case("lstm")))
    both = {name: of_another_machine(good[name]) for name in KERNELS}
    lanes = good["input_kernel"].lanes
    says = f"packed for vectors of {2 * lanes} units, and this machine's have {lanes}: .* Call "
    says += "jax_persistent.pack where they are used"
    for backend in (None, "native"):
        with pytest.raises(ValueError, match=says):
            call("lstm", good | both, backend=backend)
    one = {"recurrent_kernel": both["recurrent_kernel"]}
    with pytest.raises(ValueError, match=f"input_kernel was packed on, for vectors of {lanes}"):
        call("lstm", good | one)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_another_platform(platform: str) -> None:
    params = arrays(Case("gru"))
    kernels = {name: params[name] for name in KERNELS}

    def lower(function: object, *given: object) -> None:
        jax.jit(function).trace(*given).lower(lowering_platforms=(platform,))

    with pytest.raises(NotImplementedError, match="only a CPU's kernels read packed kernels; pass"):
        lower(partial(jp.pack, "gru"), kernels)
    with pytest.raises(ValueError, match="packed kernels: expected those of the machine that runs"):
        lower(partial(call, "gru"), packed("gru", params))
