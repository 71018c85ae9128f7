# SPDX-License-Identifier: Apache-2.0
"""Stacked layers as a wavefront over devices, against the same layers one after another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close, collectives, collectives_in_loops, kernel_results, mesh_of, put
from jax.sharding import PartitionSpec as P

import jax_persistent as jp
from jax_persistent.pipeline import wavefront

BATCH, STEPS, UNITS = 2, 7, 6  # B, T, H
RELU = partial(jp.elman, activation="relu")
OPS = {
    "lstm": (jp.lstm, 4, 2),
    "gru": (jp.gru, 3, 1),
    "elman": (jp.elman, 1, 1),
    "relu": (RELU, 1, 1),
}
LENGTHS = np.array([5, 0], np.int32)


@dataclass(frozen=True)
class Case:
    cell: str
    layers: int
    chunks: int
    lengths: bool = False
    initial: bool = False
    reverse: bool = False
    time_major: bool = False

    def __str__(self) -> str:
        flags = [name for name, value in vars(self).items() if value is True]
        return "-".join([self.cell, str(self.layers), str(self.chunks), *flags])

    @property
    def op(self) -> Any:
        return OPS[self.cell][0]

    def flags(self) -> dict[str, Any]:
        lengths = LENGTHS if self.lengths else None
        return {"lengths": lengths, "reverse": self.reverse, "time_major": self.time_major}

    def arrays(self, batch: int = BATCH) -> tuple[Any, Any, Any]:
        """x, the weights of all layers, and their initial states or None."""
        draw = np.random.default_rng(self.layers)
        _, gates, states = OPS[self.cell]
        shapes = {
            "input_kernel": (self.layers, UNITS, gates * UNITS),
            "recurrent_kernel": (self.layers, UNITS, gates * UNITS),
            "bias": (self.layers, gates * UNITS),
        }
        if self.cell == "gru":
            shapes["recurrent_bias"] = (self.layers, gates * UNITS)
        weights = {k: 0.4 * draw.standard_normal(s, np.float32) for k, s in shapes.items()}
        sequence = (STEPS, batch, UNITS) if self.time_major else (batch, STEPS, UNITS)
        x = draw.standard_normal(sequence, np.float32)
        initial = None
        if self.initial:
            drawn = tuple(draw.standard_normal((states, self.layers, batch, UNITS), np.float32))
            initial = drawn if states == 2 else drawn[0]
        return x, weights, initial


def one_after_another(op: Any, x: Any, weights: Any, initial: Any, **flags: Any) -> Any:
    finals = []
    for layer in range(weights["input_kernel"].shape[0]):
        own, state = jax.tree.map(lambda a, layer=layer: a[layer], (weights, initial))
        x, final = op(x, **own, initial_state=state, **flags)
        finals.append(final)
    return x, jax.tree.map(lambda *each: jnp.stack(each), *finals)


def graded(function: Any) -> Any:
    """The results of (x, weights, initial state), and the gradients of a weighted sum of them."""

    def loss(*arrays: Any) -> Any:
        results = function(*arrays)
        weighted = (
            jnp.sum(a * jnp.cos(jnp.arange(a.size) + n).reshape(a.shape).astype(a.dtype))
            for n, a in enumerate(jax.tree.leaves(results))
        )
        return sum(weighted), results

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


@pytest.mark.parametrize(
    "case",
    [
        Case("lstm", 4, 3),
        Case("lstm", 8, 7, lengths=True, initial=True, reverse=True, time_major=True),
        Case("gru", 4, 2, lengths=True, reverse=True),
        Case("gru", 8, 5, initial=True, time_major=True),
        Case("elman", 4, 1, lengths=True, initial=True),
        Case("relu", 4, 4, reverse=True),
    ],
    ids=str,
)
def test_equals_the_layers_one_after_another(case):
    mesh = mesh_of(layers=case.layers)
    x, weights, initial = case.arrays()
    options = {"mesh": mesh, "axis": "layers", "chunks": case.chunks, "backend": "native"}
    run = graded(partial(wavefront, case.op, **options, **case.flags()))
    split = put(mesh, weights, "layers")
    compiled = run.lower(x, split, initial).compile()
    # A layer's outputs go on to the next device only; the last one's and the loss's gradients are
    # what all devices need.
    assert set(collectives(compiled)) == {"collective-permute", "all-reduce"}
    assert set(collectives_in_loops(compiled)) == {"collective-permute"}
    assert len(kernel_results(compiled)) == 2
    expected = graded(partial(one_after_another, case.op, **case.flags()))
    close(compiled(x, split, initial), expected(x, weights, initial), 5e-5)


@pytest.mark.parametrize("explicit", [False, True])
def test_a_batch_is_split_over_another_axis(explicit):
    case = Case("gru", 4, 3, lengths=True, initial=True)
    mesh = mesh_of(data=2, layers=4, explicit=explicit)
    x, weights, initial = case.arrays()
    options = {"mesh": mesh, "axis": "layers", "chunks": case.chunks}
    run = graded(partial(wavefront, case.op, **options, **case.flags()))
    split = put(mesh, x, "data"), put(mesh, weights, "layers"), put(mesh, initial, "layers", "data")
    compiled = run.lower(*split).compile()
    steps = -(-STEPS // case.chunks)
    assert kernel_results(compiled)[0] == f"f32[1,{BATCH // 2},{steps},1,{UNITS}]"
    assert set(collectives(compiled)) == {"collective-permute", "all-reduce"}
    expected = graded(partial(one_after_another, case.op, **case.flags()))
    found = compiled(*split)
    close(found, expected(x, weights, initial), 5e-5)
    outputs, final = found[0][1]
    assert outputs.sharding.spec[0] == "data"
    assert final.sharding.spec[:2] == ("layers", "data")


def test_inside_shard_map_weights_gradients_are_summed_once():
    case = Case("lstm", 4, 3, lengths=True)
    mesh = mesh_of(data=2, layers=4)
    x, weights, _ = case.arrays()

    def local(x, weights, lengths):
        flags = case.flags() | {"lengths": lengths}
        outputs, (h, _) = wavefront(case.op, x, weights, axis="layers", chunks=3, **flags)
        return outputs, h

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def run(x, weights):
        everywhere = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P("data"), P("layers"), P("data")),
            out_specs=(P("data"), P("layers", "data")),
        )
        outputs, h = everywhere(x, weights, LENGTHS)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(jnp.cos(h))

    @partial(jax.grad, argnums=(0, 1))
    def expected(x, weights):
        outputs, (h, _) = one_after_another(case.op, x, weights, None, **case.flags())
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(jnp.cos(h))

    split = put(mesh, x, "data"), put(mesh, weights, "layers")
    compiled = run.lower(*split).compile()
    assert set(collectives_in_loops(compiled)) == {"collective-permute"}
    close(compiled(*split), jax.jit(expected)(x, weights), 5e-5)


def test_more_chunks_than_needed_and_no_jit():
    """T = 7 in 5 parts is 2 steps each, so that 4 are enough; called outside `jax.jit`."""
    case = Case("elman", 4, 5)
    x, weights, _ = case.arrays()
    with jax.set_mesh(mesh_of(layers=4)):
        outputs, final = wavefront(case.op, x, weights, axis="layers", chunks=5)
    expected = one_after_another(case.op, x, weights, None)
    close((outputs, final), expected)


def some_on(mesh, weights):
    return weights | {"bias": put(mesh, weights["bias"], "layers")}


def none_on(mesh, weights):
    return weights


@pytest.mark.parametrize(
    ("placed", "axes"),
    [
        (put, {"layers": 4}),
        (some_on, {"layers": 4}),
        (none_on, {"layers": 4}),
        (none_on, {"data": 2, "layers": 4}),
    ],
    ids=["copies", "some", "none", "none-2d"],
)
def test_weights_need_not_be_placed(placed, axes):
    """Also where the mesh's axes are part of types, as they are by default, and outside jit."""
    case = Case("elman", 4, 3, lengths=True, initial=True)
    x, weights, initial = case.arrays()
    mesh = mesh_of(**axes, explicit=True)
    options = {"mesh": mesh, "axis": "layers", "chunks": 3, **case.flags()}
    found = wavefront(case.op, x, placed(mesh, weights), initial, **options)
    expected = jax.jit(partial(one_after_another, case.op, **case.flags()))(x, weights, initial)
    close(found, expected, 5e-5)
    assert found[1].sharding.spec[0] == "layers"


def test_weights_that_are_not_placed_under_jit():
    """Something has to say which devices the program is for: an argument, or the context."""
    case = Case("elman", 4, 3)
    x, weights, _ = case.arrays()
    mesh = mesh_of(layers=4, explicit=True)
    run = graded(partial(wavefront, case.op, mesh=mesh, axis="layers", chunks=3))
    expected = graded(partial(one_after_another, case.op))(x, weights, None)
    close(run(put(mesh, x), weights, None), expected, 5e-5)
    with jax.set_mesh(mesh):
        close(run(x, weights, None), expected, 5e-5)
    with pytest.raises(ValueError, match=r"enter your `jit` into a mesh context via `jax.set_mesh"):
        run(x, weights, None)


def test_bad_arguments():
    case = Case("lstm", 4, 3, initial=True)
    mesh = mesh_of(layers=4)
    x, weights, initial = case.arrays()

    def call(x=x, weights=weights, initial=None, mesh=mesh, axis="layers", chunks=3, **flags):
        wavefront(jp.lstm, x, weights, initial, mesh=mesh, axis=axis, chunks=chunks, **flags)

    with pytest.raises(NotImplementedError, match=r"bidirectional.* computes last.*one after ano"):
        call(bidirectional=True)
    for chunks in (0, STEPS + 1, 2.0):
        with pytest.raises(ValueError, match=rf"chunks: expected an integer in 1..T = 1..{STEPS}"):
            call(chunks=chunks)
    with pytest.raises(ValueError, match=r"axis: expected an axis of the mesh \('layers'\); got"):
        call(axis="data")
    with pytest.raises(ValueError, match=r"axis: .*none: pass mesh=, or call under jax.set_mesh"):
        call(mesh=None)
    with pytest.raises(ValueError, match=r"weights\['bias'\]: expected a leading axis L = 4, a la"):
        call(weights=weights | {"bias": weights["bias"][:3]})
    with pytest.raises(ValueError, match=r"x: expected rank 3, \[B, T, H\]; got shape"):
        call(x=x[0])
    narrow = x[..., :4], weights | {"input_kernel": weights["input_kernel"][:, :4]}
    with pytest.raises(ValueError, match=r"x: .*got x float32\[2, 7, 4\].*float32\[2, 7, 6\]. Pro"):
        call(*narrow)
    with pytest.raises(ValueError, match=r"initial_state: expected \[L, B, H\], \(\(4, 2, 6\)"):
        call(initial=initial[0])
    with pytest.raises(ValueError, match=r"initial_state: expected \[L, B, H\], \(\(4, 2, 6\)"):
        call(initial=tuple(s[:, :1] for s in initial))
    with pytest.raises(ValueError, match=r"lengths: expected values in 0..T = 0..7"):
        call(lengths=np.array([8, 1], np.int32))
    with pytest.raises(ValueError, match="this device's own layer of mesh axis 'layers'"):
        jax.shard_map(
            lambda x, w: wavefront(jp.lstm, x, w, axis="layers", chunks=3)[0],
            mesh=mesh,
            in_specs=(P(), P()),
            out_specs=P(),
        )(x, weights)
