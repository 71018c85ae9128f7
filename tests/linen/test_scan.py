# SPDX-License-Identifier: Apache-2.0
"""linen.scan means what flax's nn.scan means, and runs persistently; so do layers of any cell."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax_problems import (
    B,
    H,
    Options,
    T,
    assert_trees_close,
    assert_trees_equal,
    compiled,
    drawn,
    runs_as,
    value_and_gradients,
)

from jax_persistent import linen

KEY = jax.random.key(7)
CHEAP = nn.initializers.normal()
Scan = Callable[..., Any]


# --- a recurrent policy, as reinforcement learning writes it


def recurrent_policy(scan: Scan) -> nn.Module:
    class ScannedRNN(nn.Module):
        @partial(
            scan,
            variable_broadcast="params",
            in_axes=0,
            out_axes=0,
            split_rngs={"params": False},
        )
        @nn.compact
        def __call__(self, carry: Any, x: Any) -> Any:
            """Of one step: observations [B, I] and whether an episode has ended [B]."""
            inputs, done = x
            start = self.initialize_carry(*carry.shape)
            carry = jnp.where(done[:, None], start, carry)
            return nn.GRUCell(carry.shape[1], recurrent_kernel_init=CHEAP)(carry, inputs)

        @staticmethod
        def initialize_carry(batch: int, hidden: int) -> Any:
            return nn.GRUCell(hidden).initialize_carry(KEY, (batch, hidden))

    class ActorCritic(nn.Module):
        @nn.compact
        def __call__(self, hidden: Any, x: Any) -> Any:
            observations, done = x
            embedding = nn.relu(nn.LayerNorm()(nn.Dense(5)(observations)))
            hidden, y = ScannedRNN()(hidden, (embedding, done))
            policy = nn.log_softmax(nn.Dense(3)(nn.relu(nn.Dense(7)(y))))
            return hidden, policy, nn.Dense(1)(y)[..., 0]

    return ActorCritic()


def rollout() -> Any:
    """A carry [B, H], observations [T, B, I], done [T, B], actions, advantages, returns."""
    keys = jax.random.split(jax.random.key(3), 6)
    normal, several = jax.random.normal, (T, B)
    observations = normal(keys[0], (*several, 4))
    done = jax.random.bernoulli(keys[1], 0.3, several)
    actions = jax.random.randint(keys[2], several, 0, 3)
    advantages, returns = normal(keys[3], several), normal(keys[4], several)
    return normal(keys[5], (B, H)), (observations, done), actions, advantages, returns


def ppo_loss(model: nn.Module, variables: Any, old: Any) -> Any:
    carry, x, actions, advantages, returns = rollout()
    _, policy, value = model.apply(variables, carry, x)
    chosen = jnp.take_along_axis(policy, actions[..., None], -1)[..., 0]
    before = jnp.take_along_axis(old, actions[..., None], -1)[..., 0]
    ratio = jnp.exp(chosen - before)
    clipped = jnp.clip(ratio, 0.8, 1.2)
    surrogate = jnp.minimum(ratio * advantages, clipped * advantages).mean()
    entropy = -(jnp.exp(policy) * policy).sum(-1).mean()
    return -surrogate + 0.5 * jnp.square(value - returns).mean() - 0.01 * entropy


def test_a_recurrent_policy_trains_as_with_flax() -> None:
    carry, x, *_ = rollout()
    losses = []
    for scan in (linen.scan, nn.scan):
        model = recurrent_policy(scan)
        first = drawn(jax.eval_shape(model.init, KEY, carry, x))

        @jax.jit
        def train(variables: Any, model: Any = model) -> Any:
            old = model.apply(variables, carry, x)[1]

            def update(variables: Any, _: None) -> Any:
                loss, d = jax.value_and_grad(partial(ppo_loss, model))(variables, old)
                return jax.tree.map(lambda p, g: p - 0.1 * g, variables, d), loss

            return jax.lax.scan(update, variables, None, 4)

        program = train.lower(first).as_text()
        assert ("jax_persistent.program" in program) == (scan is linen.scan)
        losses.append(train(first))
    assert_trees_close(*losses)
    assert float(losses[0][1][-1]) < float(losses[0][1][0])


def test_its_parameters_are_those_of_flax() -> None:
    carry, x, *_ = rollout()
    ours, flaxs = (
        jax.jit(lambda s=s: recurrent_policy(s).init(KEY, carry, x))()
        for s in (linen.scan, nn.scan)
    )
    assert_trees_equal(ours, flaxs)


# --- lifting


class Step(nn.Module):
    """Of a batch, with dropout, an intermediate and a counter."""

    counts: bool = True

    @nn.compact
    def __call__(self, h: Any, x: Any) -> Any:
        x = nn.Dropout(0.5, deterministic=False)(nn.LayerNorm()(nn.Dense(H)(x)))
        h, y = nn.GRUCell(H, recurrent_kernel_init=CHEAP)(h, x)
        self.sow("intermediates", "y", y)
        if self.counts:
            count = self.variable("counts", "n", lambda: jnp.zeros((), jnp.int32))
            count.value += 1
        return h, y

    def twice(self, h: Any, x: Any) -> Any:
        return self(h, 2 * x)


LIFTING: dict[str, dict[str, Any]] = {
    "stacked": {"variable_axes": {"intermediates": 1, "counts": 0}},
    "carried": {"variable_carry": "counts", "variable_axes": {"intermediates": 0}},
    "reversed": {"variable_axes": {"intermediates": 0, "counts": 0}, "reverse": True},
    "one mask": {"variable_axes": {"intermediates": 0}, "split_rngs": {"dropout": False}},
    "axes": {"in_axes": 1, "out_axes": 2, "variable_axes": {"intermediates": 0}, "unroll": 2},
}


@cache
def step_variables() -> Any:
    h, x = jnp.zeros((B, H)), jnp.zeros((B, 4))
    shapes = jax.eval_shape(Step(counts=False).init, {"params": KEY, "dropout": KEY}, h, x)
    return drawn({"params": shapes["params"]})


@pytest.mark.parametrize("name", LIFTING)
def test_lifting_is_flaxs(name: str) -> None:
    """Variables, rngs, axes; the masks of dropout are the same."""
    lifting = LIFTING[name]
    options = {"variable_broadcast": "params", "split_rngs": {"params": False, "dropout": True}}
    counts = "counts" in str(lifting)
    x = Options(time_major=lifting.get("in_axes", 0) == 0).inputs()
    variables = step_variables()
    if "variable_carry" in lifting:
        variables = variables | {"counts": {"n": jnp.int32(3)}}

    def call(scan: Scan, params: Any, x: Any) -> Any:
        lifted = scan(Step, **options | lifting)(counts=counts)
        return lifted.apply(
            variables | {"params": params},
            jnp.ones((B, H)),
            x,
            rngs={"dropout": KEY},
            mutable=["intermediates", "counts"],
        )

    operands = variables["params"], x
    assert runs_as(partial(call, linen.scan), *operands) == "jp.scan"
    run = value_and_gradients if name in ("axes", "carried") else compiled
    assert_trees_close(
        run(partial(call, linen.scan), *operands), run(partial(call, nn.scan), *operands)
    )


def test_methods_and_metadata() -> None:
    """Weights of each layer, which no kernel of ours runs, with names of axes; another method."""
    partitioned = nn.with_partitioning(CHEAP, (None, "features"))

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x: Any, _: None) -> Any:
            return x + nn.Dense(4, kernel_init=partitioned)(x), None

    x, results = Options().inputs(), []
    for scan in (linen.scan, nn.scan):
        layers = scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )()
        results.append(jax.jit(layers.init_with_output)(KEY, x, None))
        boxed = results[-1][1]["params"]["Dense_0"]["kernel"]
        assert boxed.names == ("layers", None, "features")

        lifting = {"split_rngs": {"params": False, "dropout": True}, "in_axes": 1}
        step = scan(Step, variable_broadcast="params", methods=["twice"], **lifting)
        twice = step(counts=False)
        call = partial(twice.apply, step_variables(), method="twice", rngs={"dropout": KEY})
        results.append(compiled(call, jnp.ones((B, H)), x))
    assert_trees_equal(*results[::2])
    assert_trees_close(*results[1::2])


def test_a_function_of_a_module() -> None:
    class Outer(nn.Module):
        scan: Any

        @nn.compact
        def __call__(self, x: Any) -> Any:
            cell = nn.MGUCell(H, recurrent_kernel_init=CHEAP)

            def body(cell: Any, carry: Any, x: Any) -> Any:
                return cell(carry, x)

            lifting = {"variable_broadcast": "params", "split_rngs": {"params": False}}
            run = self.scan(body, **lifting, in_axes=1, out_axes=1)
            return run(cell, jnp.ones((B, H)), x)

    x = Options().inputs()
    variables = drawn(jax.eval_shape(Outer(nn.scan).init, KEY, x))
    assert runs_as(Outer(linen.scan).apply, variables, x) == "jp.scan"
    assert_trees_close(
        compiled(Outer(linen.scan).apply, variables, x),
        compiled(Outer(nn.scan).apply, variables, x),
    )


def test_flax_is_left_alone() -> None:
    x = Options().inputs()
    variables = drawn(jax.eval_shape(nn.RNN(nn.MGUCell(H)).init, KEY, x))
    assert runs_as(nn.RNN(nn.MGUCell(H)).apply, variables, x) == "lax.scan"


# --- layers


class Own(nn.RNNCellBase):
    """A user's cell: a carry of its own form, normalised gates, an output of another size."""

    @nn.compact
    def __call__(self, carry: Any, x: Any) -> Any:
        h = carry["h"]
        gates = nn.LayerNorm()(nn.Dense(2 * H)(jnp.concatenate([x, h], -1)))
        u, f = jnp.split(gates, 2, -1)
        h = nn.sigmoid(f) * h + (1 - nn.sigmoid(f)) * nn.tanh(u)
        return {"h": h}, nn.Dense(2)(h)

    @nn.nowrap
    def initialize_carry(self, rng: Any, shape: Any) -> Any:
        return {"h": jnp.zeros((*shape[:-1], H))}

    @property
    def num_feature_axes(self) -> int:
        return 1


CELLS = {
    "mgu": nn.MGUCell(H),
    "gru": nn.GRUCell(H, activation_fn=nn.gelu),
    "simple": nn.SimpleCell(H, residual=True),
    "own": Own(),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_layers_of_any_cell(cell: Any) -> None:
    options = Options((2, 3), lengths=True, reverse=True, keep_order=True)
    x = options.inputs()
    variables = drawn(jax.eval_shape(linen.RNN(cell).init, KEY, x))
    ours, flaxs = (partial(r(cell).apply, **options.flags()) for r in (linen.RNN, nn.RNN))
    assert "jax_persistent.program" in jax.jit(ours).lower(variables, x).as_text()
    assert_trees_close(
        value_and_gradients(ours, variables, x), value_and_gradients(flaxs, variables, x)
    )
