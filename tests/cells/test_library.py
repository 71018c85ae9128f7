# SPDX-License-Identifier: Apache-2.0
"""The library's cells: against plain numpy, persistent, in both passes, as flax cells."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import library_oracle
from flax import linen as nn
from flax import nnx as flax_nnx

import jax_persistent as jp
from jax_persistent import cells, linen, nnx

Tree = Any
T, B, I, H = 5, 3, 4, 6  # noqa: E741

CELLS = {
    "slstm": cells.SLSTM(heads=2),
    "block_gru": cells.BlockGRU(heads=3),
    "coupled_lstm": cells.CoupledLSTM(),
    "dropout_lstm": cells.DropoutLSTM(rate=0.3),
    "indrnn": cells.IndRNN(),
    "layer_norm_gru": cells.LayerNormGRU(),
    "layer_norm_lstm": cells.LayerNormLSTM(),
    "minimal_gated_unit": cells.MinimalGatedUnit(),
    "multiplicative_lstm": cells.MultiplicativeLSTM(),
    "peephole_lstm": cells.PeepholeLSTM(),
    "peephole_lstm_clipped": cells.PeepholeLSTM(clip=0.2),
    "projected_lstm": cells.ProjectedLSTM(2, clip=0.3),
    "rate_network_tanh": cells.RateNetwork(sigma=0.4),
    "rate_network_relu": cells.RateNetwork("relu", leak=0.25),
    "recurrent_highway": cells.RecurrentHighway(depth=3),
    "reset_before_gru": cells.ResetBeforeGRU(),
    "stacked": cells.Stacked((cells.CoupledLSTM(), cells.ZoneoutLSTM(), cells.IndRNN()), True),
    "zoneout_lstm": cells.ZoneoutLSTM(cell_rate=0.4, hidden_rate=0.2),
}
each_cell = pytest.mark.parametrize("name", CELLS)


def numbers(draw: Any, tree: Tree, spread: float = 0.6) -> Tree:
    """Normal numbers in the shapes of a tree, around what is in it."""
    return jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a) + spread * draw.normal(size=a.shape), a.dtype), tree
    )


def arguments(cell: Any, seed: int = 0) -> tuple[Tree, Tree, jax.Array, Tree]:
    """Weights, a carry, xs [T, B, I] and noise."""
    draw = np.random.default_rng(seed)
    weights = numbers(draw, cell.init(jax.random.key(seed), I, H), 0.3)
    carry = numbers(draw, cell.start(H, B, jnp.float32))
    if isinstance(cell, cells.SLSTM):
        carry = (*carry[:2], 1 + jnp.abs(carry[2]), carry[3])
    xs = numbers(draw, jnp.zeros((T, B, I)))
    return weights, carry, xs, cell.draw(jax.random.key(seed + 1), (T, B), H)


def scanned(cell: Any, backend: str, w: Tree, carry: Tree, xs: Any, noise: Tree) -> Tree:
    step = lambda carry, given: cell(w, carry, *given)  # noqa: E731
    return jp.scan(step, carry, (xs, noise), backend=backend)


def with_gradients(cell: Any, backend: str, *given: Tree) -> Tree:
    """Results, and the gradients of a sum of them with weights."""

    def loss(w: Tree, carry: Tree, xs: Any) -> Any:
        results = scanned(cell, backend, w, carry, xs, given[3])
        leaves = jax.tree.leaves(results)
        weights = [jnp.cos(jnp.arange(r.size, dtype=r.dtype)).reshape(r.shape) for r in leaves]
        return sum((r * w).sum() for r, w in zip(leaves, weights, strict=True)), results

    gradients, results = jax.grad(loss, (0, 1, 2), has_aux=True)(*given[:3])
    return results, gradients


def assert_close(found: Tree, expected: Tree, tolerance: float = 2e-5) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, tolerance, tolerance)


def test_all_are_here() -> None:
    assert {type(cell).__name__ for cell in CELLS.values()} == set(library_oracle.STEPS)
    assert {*library_oracle.STEPS, "StepCell"} == set(cells.library.__all__)
    for module in (linen, nnx):
        assert {f"{name}Cell" for name in library_oracle.STEPS} <= set(dir(module))


@each_cell
def test_it_is_what_its_paper_says_and_runs_persistently(name: str) -> None:
    """Values are those of plain numpy, gradients those of the plain scan; with masks, too."""
    cell = CELLS[name]
    given = arguments(cell)
    w, carry, xs, noise = given
    plan = jp.explain(lambda carry, given: cell(w, carry, *given), carry, (xs, noise))
    assert plan.backend == "native", plan
    found, gradients = jax.jit(partial(with_gradients, cell, "native"))(*given)
    expected = jax.jit(partial(with_gradients, cell, "reference"))(*given)
    assert_close((found, gradients), expected, 5e-5)
    *exact, drawn = jax.tree.map(lambda a: np.asarray(a, np.float64), given)
    draws = bool(jax.tree.leaves(noise))
    by_hand = library_oracle.run(cell, *exact, drawn if draws else None)
    assert_close(found, by_hand)
    if draws:  # and off in evaluation
        without = library_oracle.run(cell, *exact)
        assert np.abs(without[1] - by_hand[1]).max() > 1e-3
        assert_close(jp.scan(partial(cell, w), carry, xs, backend="native"), without)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_what_is_no_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="rate: expected a probability, 0 to 1, and below 1; got"):
        cells.DropoutLSTM(rate)
    if rate != 1:
        with pytest.raises(ValueError, match="hidden_rate: expected a probability, 0 to 1; got"):
            cells.ZoneoutLSTM(hidden_rate=rate)


def test_masks_have_their_rates() -> None:
    for_c, for_h = cells.ZoneoutLSTM(0.4, 0.1).draw(jax.random.key(0), (50, 40), 10)
    assert abs(for_c.mean() - 0.4) < 0.02
    assert abs(for_h.mean() - 0.1) < 0.02
    dropout = cells.DropoutLSTM(0.25).draw(jax.random.key(0), (50, 40), 10)
    assert set(np.unique(dropout)) == {0, np.float32(1 / 0.75)}
    assert abs((dropout == 0).mean() - 0.25) < 0.02
    assert cells.RateNetwork(sigma=0.0).draw(jax.random.key(0), (5, 4), 3) is None


def test_masks_drawn_in_the_step() -> None:
    """From keys as xs: drawn before the recurrence, for all steps at once."""
    cell = CELLS["zoneout_lstm"]
    w, carry, xs, _ = arguments(cell)

    def step(carry: Tree, given: Tree) -> Tree:
        x, key = given
        return cell(w, carry, x, cell.draw(key, (B,), H))

    given = xs, jax.random.split(jax.random.key(3), T)
    found = jax.jit(lambda carry: jp.scan(step, carry, given, backend="native"))(carry)
    assert_close(found, jax.lax.scan(step, carry, given))


def test_the_first_step_of_an_slstm_needs_no_carry() -> None:
    """Gates of any size: exponentials that overflow or vanish without the stabiliser."""
    cell = CELLS["slstm"]
    w, _, xs, _ = arguments(cell)
    for shift in (-200.0, 200.0):
        bias = w["bias"].at[:H].add(shift)
        step = partial(cell, {**w, "bias": bias})
        for backend in ("native", "reference"):
            _, ys = jp.scan(step, cell.start(H, B, jnp.float32), xs, backend=backend)
            assert np.isfinite(ys).all()
            assert np.abs(ys[0]).min() > 1e-6


def test_narrow_types_are_widened_between_products() -> None:
    """A carry in float32 keeps what bfloat16 would lose."""
    cell = CELLS["rate_network_tanh"]
    exact = arguments(cell)
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), exact)
    w, carry, xs, noise = narrow
    carry = jax.tree.map(lambda a: a.astype(jnp.float32), carry)
    found = scanned(cell, "native", w, carry, xs, noise)
    assert [a.dtype for a in found] == [jnp.float32, jnp.bfloat16]
    truth = scanned(cell, "reference", *jax.tree.map(lambda a: a.astype(jnp.float32), narrow))
    np.testing.assert_allclose(found[0], truth[0], 1e-2, 1e-2)


def test_any_axes_of_rows() -> None:
    cell = CELLS["layer_norm_lstm"]
    w, carry, xs, _ = arguments(cell)
    after, y = cell(w, carry, xs[0])
    one = jax.tree.map(lambda a: a[1], (carry, xs[0]))
    assert_close(cell(w, *one), jax.tree.map(lambda a: a[1], (after, y)))
    two = jax.tree.map(lambda a: jnp.stack([a, -a]), (carry, xs[0]))
    assert_close(jax.tree.map(lambda a: a[0], cell(w, *two)), (after, y))


def test_initial_weights() -> None:
    w = cells.PeepholeLSTM().init(jax.random.key(0), I, H)
    gate = w["recurrent_kernel"][:, H : 2 * H]
    np.testing.assert_allclose(gate.T @ gate, np.eye(H), atol=1e-5)
    assert not w["bias"].any()
    narrow = cells.RecurrentHighway().init(jax.random.key(0), I, H, jnp.bfloat16)
    assert {a.dtype for a in narrow.values()} == {jnp.dtype(jnp.bfloat16)}
    assert narrow["bias_0"].tolist() == [0] * H + [-2] * H


def test_heads_divide_the_units() -> None:
    for cell in (cells.SLSTM(heads=4), cells.BlockGRU(heads=4)):
        with pytest.raises(ValueError, match=r"heads: expected a divisor of the 6 .*; got 4"):
            cell.init(jax.random.key(0), I, H)


def test_rate_networks_know_two_activations() -> None:
    with pytest.raises(ValueError, match=r"activation: expected one of 'tanh', 'relu'; got 'elu'"):
        cells.RateNetwork("elu")


def test_an_unknown_name_is_an_attribute_error() -> None:
    for name in ("PeepholeGRU", "peephole"):
        with pytest.raises(AttributeError, match=name):
            getattr(cells, name)


def test_importing_the_package_imports_no_library() -> None:
    code = (
        "import sys, jax_persistent; from jax_persistent import cells; "
        "assert not [m for m in sys.modules if m.startswith(('flax', 'jax_persistent.cells.li'))]; "
        "cells.SLSTM"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- as flax cells


@pytest.mark.parametrize("layer", [nn.RNN, linen.RNN])
@pytest.mark.parametrize("name", ["projected_lstm", "stacked", "reset_before_gru"])
def test_a_flax_cell(name: str, layer: Any) -> None:
    cell = CELLS[name]
    w, _, xs, _ = arguments(cell)
    x = jnp.swapaxes(xs, 0, 1)
    options = {field.name: getattr(cell, field.name) for field in fields(cell)}
    module = getattr(linen, f"{type(cell).__name__}Cell")(H, **options)
    rnn = layer(module, return_carry=True)
    variables = rnn.init(jax.random.key(0), x)
    initial = cell.init(jax.random.key(0), I, H)
    assert jax.tree.map(jnp.shape, variables["params"]["cell"]) == jax.tree.map(jnp.shape, initial)
    found, y = rnn.apply({"params": {"cell": w}}, x)
    start = cell.start(H, B, jnp.float32)
    carry, ys = scanned(cell, "reference", w, start, xs, None)
    assert_close((found, jnp.swapaxes(y, 0, 1)), (carry, ys))


def test_masks_of_a_flax_cell() -> None:
    _, _, xs, _ = arguments(CELLS["zoneout_lstm"])
    split = {"params": False, "dropout": True}
    training, evaluation = (
        nn.RNN(linen.ZoneoutLSTMCell(H, deterministic=off), time_major=True, split_rngs=split)
        for off in (False, True)
    )
    variables = evaluation.init(jax.random.key(0), xs)
    plain = evaluation.apply(variables, xs)
    assert_close(evaluation.apply(variables, xs, rngs={"dropout": jax.random.key(1)}), plain)
    one, again, other = (
        training.apply(variables, xs, rngs={"dropout": jax.random.key(n)}) for n in (1, 1, 2)
    )
    assert_close(one, again, 0)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - plain).max() > 1e-3


def test_dtypes_of_a_flax_cell() -> None:
    cell = linen.PeepholeLSTMCell(H, clip=0.5, dtype=jnp.bfloat16)
    _, _, xs, _ = arguments(CELLS["peephole_lstm"])
    rnn = nn.RNN(cell, time_major=True, return_carry=True)
    ((h, c), y), variables = rnn.init_with_output(jax.random.key(0), xs)
    assert (h.dtype, c.dtype, y.dtype) == (jnp.float32, jnp.float32, jnp.bfloat16)
    assert variables["params"]["cell"]["peephole"].dtype == jnp.float32


# --- as nnx cells


@pytest.mark.parametrize("layer", [flax_nnx.RNN, nnx.RNN])
@pytest.mark.parametrize("name", ["projected_lstm", "stacked", "reset_before_gru"])
def test_an_nnx_cell(name: str, layer: Any) -> None:
    cell = CELLS[name]
    w, _, xs, _ = arguments(cell)
    options = {field.name: getattr(cell, field.name) for field in fields(cell)}
    module = getattr(nnx, f"{type(cell).__name__}Cell")(I, H, **options, rngs=flax_nnx.Rngs(0))
    for parameter, value in w.items():
        assert getattr(module, parameter).shape == value.shape
        getattr(module, parameter)[...] = value
    found, y = layer(module, return_carry=True)(jnp.swapaxes(xs, 0, 1))
    carry, ys = scanned(cell, "reference", w, cell.start(H, B, jnp.float32), xs, None)
    assert_close((found, jnp.swapaxes(y, 0, 1)), (carry, ys))


def test_masks_of_an_nnx_cell() -> None:
    _, _, xs, _ = arguments(CELLS["zoneout_lstm"])

    def run(deterministic: bool, key: int) -> jax.Array:
        rngs = flax_nnx.Rngs(params=0, dropout=key)
        cell = nnx.ZoneoutLSTMCell(I, H, deterministic=deterministic, rngs=rngs)
        return nnx.RNN(cell, time_major=True)(xs)

    plain = run(True, 1)
    assert_close(run(True, 2), plain)
    assert_close(run(False, 1), run(False, 1), 0)
    assert np.abs(run(False, 1) - run(False, 2)).max() > 1e-3
    assert np.abs(run(False, 1) - plain).max() > 1e-3


def test_the_carry_of_an_nnx_cell() -> None:
    cell = nnx.ProjectedLSTMCell(
        I, H, projection=2, param_dtype=jnp.bfloat16, rngs=flax_nnx.Rngs(0)
    )
    h, c = cell.initialize_carry((B, I))
    assert (h.shape, c.shape, h.dtype) == ((B, 2), (B, H), jnp.bfloat16)
    drawn = cell.initialize_carry((B, I), flax_nnx.Rngs(1), jax.nn.initializers.normal())
    assert all(np.abs(np.asarray(a, np.float32)).max() > 0 for a in drawn)
    with pytest.raises(ValueError, match="rngs: expected streams to draw the carry from; got None"):
        cell.initialize_carry((B, I), carry_init=jax.nn.initializers.normal())
