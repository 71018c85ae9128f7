# SPDX-License-Identifier: Apache-2.0
"""`backend=` of both flax's layers and lifted scans: what it makes them run, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax_problems import drawn

import jax_persistent as jp
from jax_persistent import linen
from jax_persistent import nnx as jp_nnx
from jax_persistent.pipeline import wavefront

B, T, I, H = 3, 5, 4, 6  # noqa: E741
X = np.sin(np.arange(B * T * I, dtype=np.float32)).reshape(B, T, I)
KEY = jax.random.key(0)

Call = Callable[[Any], Any]  # of inputs


def of_linen(kind: str, backend: Any) -> Call:
    cells = {"gru": nn.GRUCell, "mgu": nn.MGUCell}
    if kind == "conv":
        rnn: Any = linen.RNN(nn.ConvLSTMCell(features=3, kernel_size=(2,)), backend=backend)
    else:
        rnn = linen.RNN(cells[kind](H), backend=backend)

    def call(x: Any) -> Any:
        return rnn.apply(drawn(jax.eval_shape(rnn.init, KEY, x)), x)

    return call


def of_nnx(kind: str, backend: Any) -> Call:
    if kind == "gru":
        cell: Any = nnx.GRUCell(I, H, rngs=nnx.Rngs(0))
    elif kind == "mgu":
        cell = jp_nnx.PeepholeLSTMCell(I, H, rngs=nnx.Rngs(0))
    else:
        cell = Sorting()
    return jp_nnx.RNN(cell, backend=backend)


class Sorting(nnx.RNNCellBase):
    """A cell that only a `lax.scan` runs."""

    def __call__(self, carry: Any, inputs: Any) -> Any:
        return jnp.sort(carry, -1), carry

    def initialize_carry(self, shape: Any, rngs: Any = None, carry_init: Any = None) -> Any:
        return jnp.zeros((*shape[:-1], H))

    @property
    def num_feature_axes(self) -> int:
        return 1


LAYERS = {"linen": of_linen, "nnx": of_nnx}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@each_layer
@pytest.mark.parametrize("kind", ["gru", "mgu"])
def test_each_word_runs_what_it_says(layer: Any, kind: str) -> None:
    found = {word: layer(kind, word) for word in (None, "native", "reference")}
    explained = {word: jp.explain(call, X) for word, call in found.items()}
    assert {word: e.backend for word, e in explained.items()} == {
        None: "native",
        "native": "native",
        "reference": "reference",
    }
    if kind == "mgu":
        assert explained["reference"].recurrences[0].name == "lax.scan"
        assert explained["reference"].notices == ()
    if kind == "gru":
        ours, plain = (found[word](X) for word in ("native", "reference"))
        np.testing.assert_allclose(ours, plain, rtol=2e-5, atol=2e-5)


@each_layer
def test_native_is_a_kernel_or_the_reason(layer: Any) -> None:
    x = np.ones((2, T, 4, 2), np.float32) if layer is of_linen else X
    reason = "conv_general_dilated" if layer is of_linen else "sort"
    with pytest.raises(NotImplementedError, match=f"backend='native': {reason}.*Use backend=None"):
        layer("conv", "native")(x)
    assert jp.explain(layer("conv", None), x).backend == "reference"


def test_native_in_a_dtype_without_kernels() -> None:
    """The functions' own error, when the call is compiled; before, `explain` says the same."""
    half = X.astype(np.float16)
    cell = nn.GRUCell(H, dtype=jnp.float16, param_dtype=jnp.float16)
    rnn = linen.RNN(cell, backend="native")
    variables = drawn(jax.eval_shape(rnn.init, KEY, half))
    assert jp.explain(rnn, variables, half).reason.startswith("no cpu kernel for float16")
    with pytest.raises(NotImplementedError, match="backend='native': no cpu kernel for float16"):
        jax.jit(rnn.apply).lower(variables, half)


@each_layer
def test_other_words_are_refused(layer: Any) -> None:
    with pytest.raises(ValueError, match=r"backend: expected None .*; got 'cuda'"):
        layer("gru", "cuda")(X)


def linen_scan(cell: Any, backend: Any) -> Call:
    """A scan of a cell's module, and one of a function of a module."""
    of_all = {"variable_broadcast": "params", "split_rngs": {"params": False}, "in_axes": 1}

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            scanned = linen.scan(cell, **of_all, out_axes=1, backend=backend)
            _, y = scanned(H)(jnp.zeros((B, H)), x)

            @partial(linen.scan, **of_all, reverse=True, backend=backend)
            def back(module: nn.Module, carry: Any, x: Any) -> Any:
                carry = jnp.tanh(nn.Dense(H, name="dense")(x) + carry)
                return carry, None

            return y, back(self, jnp.ones((B, H)), y)[0]

    model = Both()
    return partial(model.apply, jax.jit(model.init)(KEY, X))


def nnx_scan(cell: Any, backend: Any) -> Call:
    graph, state = nnx.split(cell(I, H, rngs=nnx.Rngs(0)))

    @jp_nnx.scan(in_axes=(None, nnx.Carry, 1), out_axes=(nnx.Carry, 1), backend=backend)
    def outputs(cell: Any, carry: Any, x: Any) -> Any:
        return cell(carry, x)

    return lambda x: outputs(nnx.merge(graph, state, copy=True), jnp.zeros((B, H)), x)


SCANS = {"linen": (linen_scan, nn.GRUCell), "nnx": (nnx_scan, nnx.GRUCell)}
each_scan = pytest.mark.parametrize(("scan", "cell"), SCANS.values(), ids=SCANS)


@each_scan
def test_each_word_of_a_lifted_scan(scan: Any, cell: Any) -> None:
    calls = {word: scan(cell, word) for word in (None, "native", "reference")}
    explained = {word: jp.explain(call, X) for word, call in calls.items()}
    assert {word: e.backend for word, e in explained.items()} == {
        None: "native",
        "native": "native",
        "reference": "reference",
    }
    assert explained["reference"].notices == ()
    ours, plain = (jax.tree.leaves(calls[word](X)) for word in ("native", "reference"))
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


class SortingModule(nn.Module):
    features: int

    @nn.compact
    def __call__(self, carry: Any, x: Any) -> Any:
        return jnp.sort(carry, -1), carry


class SortingCell(nnx.Module):
    def __init__(self, *sizes: int, rngs: Any) -> None: ...

    def __call__(self, carry: Any, x: Any) -> Any:
        return jnp.sort(carry, -1), carry


@pytest.mark.parametrize(
    ("scan", "cell"), [(linen_scan, SortingModule), (nnx_scan, SortingCell)], ids=SCANS
)
def test_a_native_scan_is_a_kernel_or_the_reason(scan: Any, cell: Any) -> None:
    assert jp.explain(scan(cell, None), X).as_scans
    with pytest.raises(NotImplementedError, match=r"backend='native': sort .*Use backend=None or"):
        scan(cell, "native")(X)


@each_scan
def test_other_words_of_a_lifted_scan_are_refused(scan: Any, cell: Any) -> None:
    with pytest.raises(ValueError, match=r"backend: expected None .*; got 'cuda'"):
        scan(cell, "cuda")


def test_both_directions_share_a_call_if_they_share_the_word() -> None:
    def rnns(*words: Any) -> list[Any]:
        return [linen.RNN(nn.GRUCell(H), backend=word) for word in words]

    both = jp.explain(linen.Bidirectional(*rnns("reference", "reference")), KEY, X)
    assert [(r.sizes["N"], r.plan.backend) for r in both.recurrences] == [(2, "reference")]
    apart = jp.explain(linen.Bidirectional(*rnns("native", "reference")), KEY, X)
    assert [r.plan.backend for r in apart.recurrences] == ["native", "reference"]
    layers = [jp_nnx.RNN(nnx.GRUCell(I, H, rngs=nnx.Rngs(n)), backend="reference") for n in (0, 1)]
    found = jp.explain(jp_nnx.Bidirectional(*layers, rngs=nnx.Rngs(0)), X)
    assert [(r.sizes["N"], r.plan.backend) for r in found.recurrences] == [(2, "reference")]


def test_resets_keep_the_word() -> None:
    resets = np.arange(B * T).reshape(B, T) % 4 == 1
    layers = [of_nnx("mgu", word) for word in ("native", "reference")]
    found = [jp.explain(layer, X, resets=resets).backend for layer in layers]
    assert found == ["native", "reference"]


def test_a_wavefront_passes_it_on() -> None:
    mesh = jax.make_mesh((2,), ("layers",), devices=jax.devices()[:2])
    weights = {name: jnp.ones((2, H, H)) for name in ("input_kernel", "recurrent_kernel")}
    for word in ("native", "reference"):
        run = partial(wavefront, jp.elman, axis="layers", chunks=2, mesh=mesh, backend=word)
        found = jp.explain(run, jnp.ones((B, T, H)), weights)
        assert {each.plan.backend for each in found.recurrences} == {word}
        assert found.recurrences[0].inside[0] == "each of 2 devices"
