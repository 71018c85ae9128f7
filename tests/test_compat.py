# SPDX-License-Identifier: Apache-2.0
"""A jax, or a flax, without the private parts that we use: what runs then, and what is said."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close, kernel_results, mesh_of, put
from jax.extend.core import Primitive
from jax.sharding import PartitionSpec as P

import jax_persistent as jp
from jax_persistent import compat, jax_private, notices
from jax_persistent import linen as our_linen
from jax_persistent import nnx as our_nnx

B, T, I, H = 4, 3, 5, 6  # noqa: E741
DRAW = np.random.default_rng(0)
X, W, R = (DRAW.standard_normal(shape, np.float32) for shape in ((B, T, I), (I, 3 * H), (H, 3 * H)))
NOTHING = ModuleType("nothing")


@pytest.fixture
def said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[[], str]]:
    """The warnings so far. Features are probed anew, in this test and after it."""
    monkeypatch.setattr(notices, "_SAID", set())
    caplog.set_level(logging.WARNING, logger="jax_persistent")
    jax.clear_caches()
    jax_private.lacking.cache_clear()
    yield lambda: "\n".join(r.getMessage() for r in caplog.records if r.name == "jax_persistent")
    monkeypatch.undo()
    jax_private.lacking.cache_clear()
    jax.clear_caches()


def lose(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    for place in (jax_private, compat):
        monkeypatch.setattr(place, module, NOTHING)


def step(carry: Any, x: Any) -> tuple[Any, Any]:
    carry = jnp.tanh(x + carry @ R[:, :H])
    return carry, carry


def gru(x: Any, backend: str | None = None) -> Any:
    return jp.gru(x, W, R, backend=backend)[0]


def scan(x: Any, backend: str | None = None) -> Any:
    start = jnp.zeros((x.shape[0], H))
    return jp.scan(step, start, (x @ W[:, :H]).swapaxes(0, 1), backend=backend)[1]


def test_this_jax_has_everything() -> None:
    assert dict(compat.features()) == dict.fromkeys(dict(compat.features()), "yes")
    assert len(dict(compat.features())) == 5


def test_a_module_that_is_gone_is_empty() -> None:
    assert not [name for name in vars(jax_private._private("gone")) if not name.startswith("__")]


@pytest.mark.parametrize("run", [gru, scan])
@pytest.mark.parametrize("part", ["xla_client", "xla_bridge", "mlir", "sharding_rules"])
def test_without_a_partitioner_a_mesh_runs_the_plain_scan(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch, run: Any, part: str
) -> None:
    lose(monkeypatch, part)
    compat.register_partitioner("unused", lambda *_: ([], []), lambda *_: b"")  # at import
    mesh = mesh_of(data=2)
    split = put(mesh, X, "data")
    compiled = jax.jit(run).lower(split).compile()
    assert not kernel_results(compiled)
    close(compiled(split), run(X, "reference"))
    assert said().count("lacks what a kernel under jax.jit over a mesh needs") == 1
    assert "Under jax.shard_map it is a kernel" in said()
    with pytest.raises(NotImplementedError, match=r"backend='native': jax .* lacks what a kernel"):
        jax.jit(partial(run, backend="native")).lower(split)
    own = jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P(*_axes(run)))
    compiled = jax.jit(own).lower(split).compile()
    assert kernel_results(compiled)
    close(compiled(split), run(X, "reference"))


def _axes(run: Any) -> tuple[str | None, ...]:
    return ("data",) if run is gru else (None, "data")


def test_without_equations_a_scan_is_lax_scan(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> None:
        raise AttributeError("no get_bind_params")

    feature = jax_private._FEATURES["steps"]
    monkeypatch.setitem(jax_private._FEATURES, "steps", feature._replace(probe=gone))
    close(scan(X), scan(X, "reference"))
    scan(X)
    assert said().count("lacks what a kernel of any step function needs (AttributeError: no") == 1
    with pytest.raises(NotImplementedError, match=r"no get_bind_params\); jax_persistent.scan is"):
        scan(X, "native")


def test_without_varying_axes_shard_map_takes_no_check(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax_private, "core", NOTHING)
    mesh = mesh_of(data=2)
    own = jax.shard_map(gru, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    close(jax.jit(own)(put(mesh, X, "data")), gru(X, "reference"))
    assert said().count("pass check_vma=False to jax.shard_map") == 1


def test_without_dead_code_rules_results_are_kept(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax_private, "partial_eval", NOTHING)
    compat.leave_out_unread(Primitive("unread"), lambda used, equation: ([], None))
    assert "jax.checkpoint keeps what the first run saves" in said()


def test_without_source_lines_an_explanation_names_none(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sorts(carry: Any, x: Any) -> tuple[Any, Any]:
        return jnp.sort(carry @ R[:, :H], axis=-1) + x, x

    lose(monkeypatch, "source_info_util")
    given = jnp.zeros((B, H)), jnp.zeros((T, B, H))
    assert "its source" in str(jp.explain(sorts, *given))
    assert jp.explain(step, *given).backend != "reference"
    assert "explanations name none" in said()


@pytest.mark.parametrize(
    ("layers", "module", "name"),
    [
        (our_linen, "flax.core.axes_scan", "lax"),
        (our_linen, "flax.linen.recurrent", "transforms"),
        (our_nnx, "flax.nnx.transforms.iteration", "jax"),
        (our_nnx, "flax.nnx.nn.recurrent", "nnx"),
    ],
)
def test_another_flax_keeps_its_own_scan(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch, layers: Any, module: str, name: str
) -> None:
    monkeypatch.delattr(importlib.import_module(module), name)
    scans, rnns = layers._lifted()
    own = layers.nn if layers is our_linen else layers.nnx
    flax_rnn = getattr(layers, "_flax_rnn", own.RNN.__call__)
    assert [rnns[None], rnns["reference"], scans["reference"]] == [flax_rnn, flax_rnn, own.scan]
    assert (scans[None] is own.scan) == (not module.endswith("recurrent"))
    with pytest.raises(NotImplementedError, match=f"'native': this flax's scan .* has no {name}"):
        rnns["native"]()
    assert f"runs flax's own code: this flax's scan is another: {module} has no {name}" in said()
