# SPDX-License-Identifier: Apache-2.0
"""What `explain` says of layers, functions and steps, and the names of kernels in profiles."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import mesh_of, put
from flax import linen as nn
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P

import jax_persistent as jp
import jax_persistent.linen as linen
import jax_persistent.nnx as jp_nnx

B, T, I, H = 3, 5, 4, 6  # noqa: E741
X = np.sin(np.arange(B * T * I, dtype=np.float32)).reshape(B, T, I)
KEY = jax.random.key(0)


def kernels(gates: int) -> tuple[Any, Any]:
    return jnp.ones((I, gates * H)), jnp.ones((H, gates * H))


def names(found: jp.Explanation) -> list[str]:
    return [each.name for each in found.recurrences]


def test_a_linen_layer_by_its_variables_or_a_key() -> None:
    rnn = linen.RNN(nn.OptimizedLSTMCell(H))
    for first in (KEY, jax.eval_shape(rnn.init, KEY, X)):
        found = jp.explain(rnn, first, X)
        (one,) = found.recurrences
        assert (one.name, one.on_kernel) == ("lstm 6 forward", True)
        assert one.sizes == {"T": T, "B": B, "I": I, "H": H}
        assert (one.plan.backend, one.plan.workers) == ("native", 1)
        assert found.backend == "native"
    assert repr(found).startswith(
        "native on cpu: 1 recurrence, 1 on a kernel\n\nlstm 6 forward: kernel. T = 5"
    )
    with pytest.raises(TypeError, match="variables, or a key to make some with"):
        jp.explain(rnn)


def test_an_nnx_layer_and_its_training_step() -> None:
    rnn = jp_nnx.RNN(nnx.GRUCell(I, H, rngs=nnx.Rngs(0)))
    assert names(jp.explain(rnn, X)) == ["gru 6 forward"]

    @nnx.jit
    def step(model: Any, x: Any) -> Any:
        return nnx.grad(lambda m: m(x).sum())(model)

    assert names(jp.explain(step, rnn, X)) == ["gru 6 forward", "gru 6 backward"]


def test_both_directions_of_a_layer() -> None:
    def layer(*cells: Any) -> Any:
        return linen.Bidirectional(*map(linen.RNN, cells))

    found = jp.explain(layer(nn.GRUCell(H), nn.GRUCell(H)), KEY, X)
    assert names(found) == ["gru 6 forward"]
    assert found.recurrences[0].sizes["N"] == 2
    found = jp.explain(layer(nn.GRUCell(H), nn.MGUCell(H)), KEY, X)
    assert names(found) == ["gru 6 forward", "scan 6 forward"]
    (said,) = found.notices
    assert "is a jax_persistent.scan: MGUCell has no kernel" in said
    assert said in str(found)


@pytest.mark.parametrize("cell", [nn.OptimizedLSTMCell, nn.GRUCell])
def test_layers_on_another_device(cell: Any) -> None:
    """Their weights are several arrays, which the lowering joins for a GPU."""
    for layer in (linen.RNN(cell(H)), linen.Bidirectional(linen.RNN(cell(H)), linen.RNN(cell(H)))):
        assert jp.explain(layer, KEY, X, device="sm_90").on_kernels


def loss(w: Any, x: Any) -> Any:
    return jp.gru(x, *w)[0].sum()


def test_a_function_under_grad_vmap_and_checkpoint() -> None:
    found = jp.explain(jax.jit(jax.grad(jax.checkpoint(loss))), kernels(3), X)
    assert names(found) == ["gru 6 forward", "gru 6 backward"]
    several = jax.tree.map(lambda a: jnp.stack([a, a]), kernels(3))
    found = jp.explain(jax.vmap(jax.grad(loss), (0, None)), several, X)
    assert names(found) == ["gru 6 forward", "gru 6 backward"]
    assert all(each.sizes["N"] == 2 for each in found.recurrences)
    assert all("test_explain.py" in (each.line or "") for each in found.recurrences)
    tangent = jp.explain(lambda w, x: jax.jvp(loss, (w, x), (w, x)), kernels(3), X)
    assert [(each.name, each.on_kernel) for each in tangent.recurrences] == [
        ("gru 6 forward", True),
        ("gru 6 tangent", False),
    ]
    assert "forward mode" in tangent.reason
    assert tangent.backend == "mixed"


def test_loops_and_repeats() -> None:
    def layers(w: Any, x: Any) -> Any:
        return lax.scan(lambda h, _: (jp.elman(h, *w)[0], None), x, length=7)[0]

    square = (jnp.ones((H, H)), jnp.ones((H, H)))
    (one,) = jp.explain(layers, square, jnp.ones((B, T, H))).recurrences
    assert (one.name, one.inside) == ("elman_tanh 6 forward", ("a loop of 7 steps",))
    twice = lambda w, x: sum(jp.elman(x, *w)[0] for _ in range(2))  # noqa: E731
    (both,) = jp.explain(twice, square, jnp.ones((B, T, H))).recurrences
    assert both.count == 2
    assert ", 2 times" in str(both)


def test_what_is_refused_and_why() -> None:
    half = jax.tree.map(lambda a: a.astype(jnp.float16), (kernels(3), X))
    found = jp.explain(loss, *half)
    assert (found.backend, found.as_scans) == ("reference", found.recurrences)
    assert found.reason.startswith("no cpu kernel for float16")
    asked = jp.explain(lambda x: jp.gru(x, *kernels(3), backend="reference"), X)
    assert asked.reason == "backend='reference' asks for it"
    elsewhere = jp.explain(loss, kernels(3), X, device="tpu")
    assert elsewhere.reason == "no kernel for platform 'tpu'; there are for cpu, cuda"
    assert jp.explain(loss, kernels(3), X, device="sm_90").recurrences[0].on_kernel
    with pytest.raises(ValueError, match="device: expected a"):
        jp.explain(loss, kernels(3), X, device=3)


def step(h: Any, x: Any) -> tuple[Any, Any]:
    h = jnp.tanh(h @ jnp.eye(H) + x)
    return h, h


def sorting(h: Any, x: Any) -> tuple[Any, Any]:
    return jnp.sort(h @ jnp.eye(H) + x), h


def test_steps_and_scans() -> None:
    h, xs = jnp.ones((B, H)), jnp.ones((T, B, H))
    found = jp.explain(step, h, xs)
    (one,) = found.recurrences
    assert (one.name, one.on_kernel) == ("scan 6 forward", True)
    assert one.sizes == {"T": T, "B": B, "H": H}
    assert "stage 1: [6] x [6, 1*6]" in found.reason
    assert names(jp.explain(jp.scan, step, h, xs)) == ["scan 6 forward"]
    (refused,) = jp.explain(jp.scan, sorting, h, xs).recurrences
    assert (refused.name, refused.on_kernel) == ("lax.scan", False)
    assert re.search(r"sort is not known .*test_explain\.py:\d+", refused.plan.reason)
    plain = jp.explain(lax.scan, step, h, xs)
    assert (plain.backend, plain.recurrences[0].plan.backend) == ("reference", "native")
    assert "jax_persistent.scan in its place would be a kernel" in str(plain)
    for single in (jp.explain(jp.scan, step, h, xs[:1]), jp.explain(step, h, xs[:1])):
        assert single.reason.startswith("1 KiB of weights over 1 worker, read where they lie")
        assert names(single) == ["scan 6 forward"]
        assert single.on_kernels


@pytest.mark.parametrize("zero", [0, np.int32(0), jnp.int32(0)], ids=["int", "numpy", "jax"])
def test_a_carry_with_a_counter(zero: Any) -> None:
    def counting(carry: Any, x: Any) -> Any:
        h, y = step(carry[1], x)
        return (carry[0] + 1, h), y

    init, xs = (zero, jnp.ones((B, H))), jnp.ones((T, B, H))
    (one,) = jp.explain(counting, init, xs).recurrences
    assert (one.name, one.on_kernel, one.dtype) == ("scan 6 forward", True, "float32")
    assert one.sizes == {"T": T, "B": B, "H": H}
    assert one.name in names(jp.explain(jp.scan, counting, init, xs))


def test_a_single_step() -> None:
    """It is a lax.scan where that is the faster one: of one row, or for a gradient."""
    R = jnp.eye(384)

    def run(R: Any, h: Any, xs: Any) -> Any:
        return jp.scan(lambda h, x: (jnp.tanh(x + h @ R), None), h, xs)[0].sum()

    def found(run: Any, R: Any, rows: int, steps: int) -> list[str]:
        h, xs = jnp.zeros((rows, 384)), jnp.ones((steps, rows, 384))
        return [r.plan.reason for r in jp.explain(run, R, h, xs).recurrences]

    (single,) = found(run, R, 1, 1)
    h, xs = jnp.zeros((1, 384)), jnp.ones((1, 1, 384))
    assert jp.explain(lambda h, x: (jnp.tanh(x + h @ R), None), h, xs).reason == single
    assert single.startswith("T = 1, B = 1: XLA reads 576 KiB of matrices faster")
    for other in (found(run, R, 2, 1), found(run, R, 1, 2)):
        assert "stage 1: [384] x [384, 1*384]" in other[0]
    for steps in (1, 2):
        reasons = found(jax.grad(run), R, 2, steps)
        assert ["stage 1" in r for r in reasons] == [steps > 1] * len(reasons)
    assert "stage 1" in found(run, jp.pack("scan", R), 1, 1)[0]


def test_a_function_that_looks_like_a_step_is_none() -> None:
    """It returns what it was given first; it has a recurrence when it is called with one x."""
    rnn = linen.RNN(nn.SimpleCell(H))
    variables = rnn.init(KEY, X)

    def train(variables: Any, x: Any) -> Any:
        return variables, rnn.apply(variables, x).sum()

    (one,) = jp.explain(train, variables, X).recurrences
    assert (one.name, one.sizes["T"]) == ("elman_tanh 6 forward", T)


def test_a_call_without_recurrences_and_one_that_fails() -> None:
    found = jp.explain(jnp.sin, X)
    assert (found.recurrences, found.backend) == ((), "reference")
    assert str(found) == "reference on cpu: no recurrence in this call"
    with pytest.raises(ValueError, match="recurrent_kernel") as error:
        jp.explain(lambda w, x: jp.gru(x, w, w), kernels(3)[0], X)
    assert any("it is no step of jp.scan either" in note for note in error.value.__notes__)


def test_a_mesh() -> None:
    mesh = mesh_of(data=2)
    x = put(mesh, jnp.ones((4, T, I)), "data")
    found = jp.explain(jax.jit(loss), kernels(3), x)
    assert found.devices == 2
    assert "The arguments are on 2 devices" in str(found)
    assert found.recurrences[0].sizes["B"] == 4
    local = jax.shard_map(
        lambda x: jp.gru(x, *kernels(3))[0], mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    (one,) = jp.explain(local, x).recurrences
    assert (one.sizes["B"], one.inside) == (2, ("each of 2 devices",))


# --- names in profiles


def named(function: Callable[..., Any], *args: Any) -> list[str]:
    """The last scopes of the kernels' calls in a compiled program."""
    text = jax.jit(function).lower(*args).compile().as_text()
    calls = re.findall(r'_target="jax_persistent\.(\w+)".*op_name="([^"]*)"', text)
    return [name.split("/")[-2] for target, name in calls if target != "product"]


def test_kernels_have_names_in_profiles() -> None:
    assert named(jax.grad(loss), kernels(3), X) == ["gru 6 forward", "gru 6 backward"]

    def scanned(h: Any, xs: Any) -> Any:
        return jp.scan(step, h, xs)[1].sum()

    assert named(jax.grad(scanned), jnp.ones((B, H)), jnp.ones((T, B, H))) == [
        "scan 6 forward",
        "scan 6 backward",
    ]
    mesh = mesh_of(data=2)
    x = put(mesh, jnp.ones((4, T, I)), "data")
    assert named(partial(loss, kernels(3)), x) == ["gru 6 forward"]
