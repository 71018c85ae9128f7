# SPDX-License-Identifier: Apache-2.0
"""Kernels over a mesh: what the compiled program communicates, and that results stay the same."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close, collectives, kernel_results, mesh_of, put
from jax.export import DisabledSafetyCheck
from jax.sharding import PartitionSpec as P

import jax_persistent as jp
from jax_persistent.backends import registry
from jax_persistent.cells.lstm import LSTM
from jax_persistent.ffi.registration import native_module
from jax_persistent.ops import functions
from jax_persistent.problem import Arrays

STEPS, ROWS, FEATURES, UNITS = 5, 16, 3, 6  # T, B, I, H
OPS = {"lstm": (jp.lstm, 4), "gru": (jp.gru, 3), "elman": (jp.elman, 1)}
LENGTHS = np.array([n % (STEPS + 1) for n in range(ROWS)], np.int32)
BUILT = [p for p in registry.platforms() if p != "cuda" or not native_module().missing("CUDA")]


def arrays(cell: str, *, rows: tuple[int, ...] = (ROWS,), time_major: bool = False) -> tuple:
    """x, W, R, b, and initial states [B, H]; leading axes beside the batch are members' own."""
    draw = np.random.default_rng(len(cell))
    *members, batch = rows
    gates = OPS[cell][1] * UNITS
    sequence = (STEPS, batch) if time_major else (batch, STEPS)
    sizes = ((*sequence, FEATURES), (FEATURES, gates), (UNITS, gates), (gates,))
    x, w, r, b = (0.4 * draw.standard_normal((*members, *s), np.float32) for s in sizes)
    states = draw.standard_normal((2, *members, batch, UNITS), np.float32)
    return x, w, r, b, tuple(states) if cell == "lstm" else states[0]


def call(cell: str, x, w, r, b, states, lengths, **flags: Any) -> Any:
    kwargs = {"initial_state": states, "lengths": lengths, "backend": "native"}
    return OPS[cell][0](x, w, r, b, **kwargs, **flags)


def gradients_of(function: Any) -> Any:
    """The gradients of a sum over all that `function` returns, in all operands but the lengths."""

    def loss(*operands):
        outputs, final = function(*operands)
        finals = sum(jnp.sum(jnp.cos(s)) for s in jax.tree.leaves(final))
        return jnp.sum(jnp.sin(outputs)) + finals, (outputs, final)

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True)


def assert_only_sums(compiled: Any, sums: int) -> None:
    """At most one all-reduce for each of so many sums (XLA may combine them), nothing else."""
    found = collectives(compiled)
    assert set(found) == {"all-reduce"}
    assert len(found) <= sums


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("cell", OPS)
@pytest.mark.parametrize("flags", [{}, {"time_major": True, "reverse": True}])
def test_a_batch_is_split_without_a_gather(cell, flags, explicit):
    mesh = mesh_of(data=8, explicit=explicit)
    x, *weights, states = arrays(cell, time_major=bool(flags))
    rows = (None, "data") if flags else ("data",)
    gradient = jax.jit(gradients_of(partial(call, cell, **flags)))
    split = put(mesh, x, *rows), *weights, *put(mesh, (states, LENGTHS), "data")
    with jax.set_mesh(mesh) if flags else contextlib.nullcontext():
        compiled = gradient.lower(*split).compile()
    assert len(kernel_results(compiled)) == 2
    assert_only_sums(compiled, 4)  # the loss, and the gradients of W, R and b
    found = compiled(*split)
    close(found, gradient(x, *weights, states, LENGTHS))
    (_, (outputs, final)), (of_x, *of_weights, of_states) = found
    for like_x in (outputs, of_x):
        assert like_x.sharding.is_equivalent_to(split[0].sharding, 3)
    if explicit:  # types say it, not only XLA's choice
        for state in jax.tree.leaves((final, of_states)):
            assert jax.typeof(state).sharding.spec == P("data", None)
        for weight in of_weights:
            assert set(jax.typeof(weight).sharding.spec) == {None}


@pytest.mark.parametrize("cell", OPS)
def test_shard_map_adds_nothing_but_the_sums(cell):
    x, *weights, states = arrays(cell)
    own_rows = jax.shard_map(
        partial(call, cell),
        mesh=(mesh := mesh_of(data=8)),
        in_specs=(P("data"), P(), P(), P(), P("data"), P("data")),
        out_specs=P("data"),
    )
    split = put(mesh, x, "data"), *weights, *put(mesh, (states, LENGTHS), "data")
    compiled = jax.jit(gradients_of(own_rows)).lower(*split).compile()
    assert_only_sums(compiled, 4)
    expected = jax.jit(gradients_of(partial(call, cell)))
    close(compiled(*split), expected(x, *weights, states, LENGTHS))


# A mesh; how x, the weights and the lengths are split over it; and in how many pieces the batch is.
PLACES = {
    "one axis of two": ({"model": 2, "data": 4}, ("data",), (), ("data",), 4),
    "both axes": ({"model": 2, "data": 4}, (("data", "model"),), (), (("data", "model"),), 8),
    "only x": ({"data": 8}, ("data",), (), (), 8),
    "only lengths": ({"data": 8}, (), (), ("data",), 8),
}
GATHERED = {
    "hidden": ({"model": 2, "data": 4}, ("data",), (None, "model"), ("data",), 4),
    "features of x": ({"model": 3, "data": 2}, ("data", None, "model"), (), ("data",), 2),
    "time": ({"time": 5}, (None, "time"), (), (), 1),
    "in two ways": ({"model": 2, "data": 4}, ("data",), (), ("model",), None),
}


@pytest.mark.parametrize("place", [*PLACES, *GATHERED])
def test_wherever_operands_are_results_are_right(place):
    """What a recurrence needs whole is brought together first; what it doesn't stays split."""
    axes, of_x, of_weights, of_lengths, pieces = (PLACES | GATHERED)[place]
    mesh = mesh_of(**axes)
    x, w, r, b, states = arrays("lstm")
    gradient = jax.jit(gradients_of(partial(call, "lstm")))
    matrices = put(mesh, (w, r), *of_weights)
    split = put(mesh, x, *of_x), *matrices, b, states, put(mesh, LENGTHS, *of_lengths)
    compiled = gradient.lower(*split).compile()
    if place in PLACES:
        assert_only_sums(compiled, 4)
    if pieces is not None:
        local = f"f32[1,{ROWS // pieces},{STEPS}"
        assert set(kernel_results(compiled)) == {f"{local},1,{UNITS}]", f"{local},{FEATURES}]"}
    close(compiled(*split), gradient(x, w, r, b, states, LENGTHS))


def test_a_kernel_is_chosen_for_the_rows_that_a_device_has():
    """Two steps of 21 rows on each of eight devices don't repay packing; 168 rows on one do."""
    hidden = 384
    x = np.ones((168, 2, FEATURES), np.float32)
    sizes = (FEATURES, 4 * hidden), (hidden, 4 * hidden)
    w, r = (np.full(size, 0.01, np.float32) for size in sizes)
    run = jax.jit(lambda x: jp.lstm(x, w, r)[0])
    alone = run.lower(x).compile()
    split = run.lower(put(mesh_of(data=8), x, "data")).compile()
    assert len(kernel_results(alone)) == 1
    assert kernel_results(split) == []
    assert collectives(split) == []
    close(split(put(mesh_of(data=8), x, "data")), alone(x))


def test_the_older_partitioner_splits_as_well():
    """`jax_use_shardy_partitioner=False`, which jax is about to drop."""
    mesh = mesh_of(model=2, data=4)
    x, *weights, states = arrays("gru")
    split = put(mesh, x, "data"), *weights, *put(mesh, (states, LENGTHS), "data")
    expected = jax.jit(gradients_of(partial(call, "gru")))(x, *weights, states, LENGTHS)
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        compiled = jax.jit(gradients_of(partial(call, "gru"))).lower(*split).compile()
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    assert_only_sums(compiled, 4)
    assert kernel_results(compiled)[0] == f"f32[1,{ROWS // 4},{STEPS},1,{UNITS}]"
    close(compiled(*split), expected)


def test_a_batch_that_does_not_divide():
    """13 rows on 8 devices: the last ones run rows of padding, whatever is in them."""
    mesh = mesh_of(data=8)
    x, w, r, b, states = arrays("lstm")

    def some_rows(x, w, r, b, states, lengths):
        states = jax.tree.map(lambda s: s[:13], states)
        return gradients_of(partial(call, "lstm"))(
            x[:13] + 1, w, r, b, states, lengths[:13] * 2 - 3
        )

    split = put(mesh, x, "data"), w, r, b, *put(mesh, (states, LENGTHS), "data")
    compiled = jax.jit(some_rows).lower(*split).compile()
    assert kernel_results(compiled)[0] == f"f32[1,2,{STEPS},1,{UNITS}]"
    close(compiled(*split), jax.jit(some_rows)(x, w, r, b, states, LENGTHS))


def test_one_axis_is_manual_and_the_other_is_not():
    mesh = mesh_of(model=2, data=4)
    x, *weights, states = arrays("lstm")
    rows = P("model")
    half = jax.shard_map(
        partial(call, "lstm"),
        mesh=mesh,
        in_specs=(rows, P(), P(), P(), rows, rows),
        out_specs=rows,
        axis_names={"model"},
    )
    split = put(mesh, x, ("model", "data")), *weights, states, LENGTHS
    compiled = jax.jit(gradients_of(half)).lower(*split).compile()
    assert kernel_results(compiled)[0] == f"f32[1,{ROWS // 8},{STEPS},1,{UNITS}]"
    close(
        compiled(*split), jax.jit(gradients_of(partial(call, "lstm")))(x, *weights, states, LENGTHS)
    )


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("cell", OPS)
def test_an_ensemble_is_split_without_communication(cell, explicit):
    members = 4
    mesh = mesh_of(model=4, explicit=explicit)
    given = arrays(cell, rows=(members, 2))
    gradient = jax.jit(jax.vmap(gradients_of(partial(call, cell)), in_axes=(0, 0, 0, 0, 0, None)))
    split = put(mesh, given, "model")
    compiled = gradient.lower(*split, LENGTHS[3:5]).compile()
    assert len(kernel_results(compiled)) == 2
    assert kernel_results(compiled)[0] == f"f32[1,2,{STEPS},1,{UNITS}]"
    assert collectives(compiled) == []
    close(compiled(*split, LENGTHS[3:5]), gradient(*given, LENGTHS[3:5]))


def test_directions_stay_together():
    """Three bidirectional members on three devices: an odd number of layers, two groups on each."""
    mesh = mesh_of(model=3)
    draw = np.random.default_rng(2)
    gates = 4 * UNITS
    shapes = {
        "x": (3, 4, STEPS, FEATURES),
        "input_kernel": (3, 2, FEATURES, gates),
        "recurrent_kernel": (3, 2, UNITS, gates),
    }
    given = {name: 0.4 * draw.standard_normal(s, np.float32) for name, s in shapes.items()}

    def loss(given, backend):
        flags = {"directions": "both", "time_major": False, "backend": backend}
        return jnp.sum(jnp.sin(functions.run(LSTM, Arrays(given), **flags)[0]))

    native, plain = (
        jax.jit(jax.vmap(jax.grad(partial(loss, backend=backend))))
        for backend in ("native", "reference")
    )
    split = put(mesh, given, "model")
    compiled = native.lower(split).compile()
    assert kernel_results(compiled)[0] == f"f32[1,4,{STEPS},2,{UNITS}]"
    assert collectives(compiled) == []
    close(compiled(split), plain(given))


def test_an_ensemble_over_one_axis_its_batch_over_another():
    mesh = mesh_of(model=2, data=4)
    x, *weights, states = arrays("gru", rows=(2, 8))
    gradient = jax.jit(jax.vmap(gradients_of(partial(call, "gru")), in_axes=(0, 0, 0, 0, 0, None)))
    lengths = LENGTHS[:8]
    split = (
        put(mesh, x, "model", "data"),
        *put(mesh, weights, "model"),
        *put(mesh, (states,), "model", "data"),
    )
    compiled = gradient.lower(*split, lengths).compile()
    assert kernel_results(compiled)[0] == f"f32[1,2,{STEPS},1,{UNITS}]"
    assert_only_sums(compiled, 4)
    close(compiled(*split, lengths), gradient(x, *weights, states, lengths))


def test_explicit_axes_outside_jit_and_for_the_reference():
    mesh = mesh_of(data=8, explicit=True)
    x, w, r, b, states = arrays("gru")
    operands = put(mesh, x, "data"), w, r, b, None, put(mesh, states, "data")
    expected = jp.gru(x, w, r, b, None, states)
    for backend in ("native", "reference"):
        outputs, final = jp.gru(*operands, backend=backend)
        close((outputs, final), expected)
        assert jax.typeof(final).sharding.spec == P("data", None)


def test_explicit_axes_that_a_recurrence_needs_whole_are_refused():
    mesh = mesh_of(model=2, data=4, explicit=True)
    x, w, r, _, (h, c) = arrays("lstm", rows=(8,))
    wide = np.ones((8, 4, FEATURES), np.float32)

    def refused(message, x, w, r, **kwargs):
        with pytest.raises(ValueError, match=message):
            jp.lstm(x, w, r, **kwargs)

    refused(
        r"x: expected \[B, T, I\] split .* no dimension but B.*got P\('data', 'model', None\)\. "
        r"Bring it together first: jax.sharding.reshard\(x, P\('data', None, None\)\)",
        put(mesh, wide, "data", "model"),
        w,
        r,
    )
    refused(
        r"recurrent_kernel: expected \[H, G\*H\] .* got P\(None, 'model'\)\..*, P\(None, None\)\)",
        x,
        w,
        put(mesh, r, None, "model"),
    )
    refused("input_kernel: expected", x, put(mesh, w, None, "model"), r)
    refused(
        r"the batch: expected one split .* x over 'data', initial_state\[1\] over 'model'\.",
        put(mesh, x, "data"),
        w,
        r,
        initial_state=(h, put(mesh, c, "model")),
    )


@pytest.mark.parametrize("platform", BUILT)
def test_an_exported_program_is_split_too(platform):
    """What it says of its kernels is enough to split it, for a platform that isn't here as well."""
    mesh = mesh_of(data=8)
    x, *weights, states = arrays("gru")
    split = put(mesh, x, "data"), *weights, *put(mesh, (states, LENGTHS), "data")
    gradient = jax.jit(gradients_of(partial(call, "gru")))
    targets = ("partitioned", "forward", "backward")
    trusted = [DisabledSafetyCheck.custom_call(f"jax_persistent.{name}") for name in targets]
    if platform != jax.default_backend():
        trusted.append(DisabledSafetyCheck.platform())
    exported = jax.export.export(gradient, platforms=[platform], disabled_checks=trusted)(*split)
    again = jax.export.deserialize(exported.serialize())
    compiled = jax.jit(again.call).lower(*split).compile()
    assert kernel_results(compiled)[0] == f"f32[1,{ROWS // 8},{STEPS},1,{UNITS}]"
    assert_only_sums(compiled, 4)
    if platform == jax.default_backend():
        close(compiled(*split), gradient(x, *weights, states, LENGTHS))
