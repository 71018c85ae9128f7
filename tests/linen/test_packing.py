# SPDX-License-Identifier: Apache-2.0
"""linen layers whose kernels are packed give what they give without, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax_problems import H, Options, assert_trees_equal, compiled, drawn, every_cell_and_option

from jax_persistent.linen import RNN, Bidirectional

KEY = jax.random.key(7)
CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "simple": nn.SimpleCell}


def variables_of(module: Any, *inputs: Any) -> Any:
    return drawn(jax.eval_shape(module.init, KEY, *inputs))


def programs_call(function: Any, *arguments: Any) -> str:
    return str(jax.make_jaxpr(function)(*arguments))


@every_cell_and_option
def test_a_layer(name: str, options: Options) -> None:
    x, carry = options.inputs(), options.carry(2 if name == "lstm" else 1)
    rnn = RNN(CELLS[name](H), mask_outputs=options.lengths)
    variables = variables_of(rnn, x)
    packed = rnn.pack(variables)
    assert packed["params"] is variables["params"]
    assert set(packed) == {"params", "packed"}
    flags = options.flags() | {"initial_carry": carry}
    assert_trees_equal(
        compiled(rnn.apply, packed, x, **flags), compiled(rnn.apply, variables, x, **flags)
    )
    assert "packed_lanes=0" not in programs_call(rnn.apply, packed, x)


class Model(nn.Module):
    """Layers, made in setup and in a call, and one whose cell has no kernel."""

    def setup(self) -> None:
        self.first = RNN(nn.OptimizedLSTMCell(H))
        self.both = Bidirectional(RNN(nn.GRUCell(H)), RNN(nn.GRUCell(H)), return_carry=True)
        self.other = RNN(nn.MGUCell(H))

    def __call__(self, x: jax.Array) -> Any:
        carries, x = self.both(self.first(x))
        return carries, self.other(x)


def test_a_model_packs_its_layers() -> None:
    x, model = Options().inputs(), Model()
    variables = variables_of(model, x)
    assert set(variables) == {"params"}
    result, packed = jax.jit(lambda v, x: model.apply(v, x, mutable=["packed"]))(variables, x)
    found = packed["packed"]
    assert set(found) == {"first", "both"}
    assert set(found["both"]) == {"forward_rnn", "backward_rnn"}
    expected = compiled(model.apply, variables, x)
    assert_trees_equal(result, expected)
    assert_trees_equal(compiled(model.apply, {**variables, **packed}, x), expected)
    # Who lets everything change has not asked for it.
    assert set(model.apply(variables, x, mutable=True)[1]) == {"params"}


def test_members_of_an_ensemble() -> None:
    x, rnn = Options().inputs(), RNN(nn.GRUCell(H))
    several = jax.tree.map(lambda a: jnp.stack([a, 2 * a, -a]), variables_of(rnn, x))
    packed = jax.vmap(rnn.pack)(several)
    run = jax.vmap(rnn.apply, (0, None))
    assert_trees_equal(compiled(run, packed, x), compiled(run, several, x))


def test_a_dtype() -> None:
    x, rnn = Options().inputs(), RNN(nn.OptimizedLSTMCell(H, dtype=jnp.bfloat16))
    with jax.numpy_dtype_promotion("standard"):
        variables = variables_of(rnn, x)
        packed = rnn.pack(variables)
        kernels = packed["packed"]["kernels"]
        assert {kernel.dtype for kernel in kernels.values()} == {jnp.dtype(jnp.bfloat16)}
        assert_trees_equal(compiled(rnn.apply, packed, x), compiled(rnn.apply, variables, x))


def test_training_is_told() -> None:
    x, rnn = Options().inputs(), RNN(nn.GRUCell(H))
    variables = variables_of(rnn, x)
    packed = rnn.pack(variables)

    def loss(params: Any, packed: Any) -> jax.Array:
        return rnn.apply({"params": params, "packed": packed}, x).sum()

    for position in (0, 1):
        gradient = jax.grad(loss, position)
        for run in (gradient, jax.jit(gradient)):
            with pytest.raises(ValueError, match="packed kernels: expected no gradient"):
                run(packed["params"], packed["packed"])


def test_other_kernels_than_were_packed() -> None:
    x, rnn = Options().inputs(), RNN(nn.GRUCell(H))
    packed = rnn.pack(variables_of(rnn, x))
    wider = RNN(nn.GRUCell(2 * H))
    with pytest.raises(ValueError, match=r"packed input_kernel: expected float32 .* again"):
        wider.apply(packed | variables_of(wider, x), x)
    with pytest.raises(ValueError, match=r"expected bfloat16 of .* got float32"):
        RNN(nn.GRUCell(H, dtype=jnp.bfloat16)).apply(packed, x)


@pytest.mark.parametrize(
    ("cell", "error", "says"),
    [
        (nn.MGUCell(H), NotImplementedError, "pack: expected a cell with a kernel .* MGUCell"),
        (nn.GRUCell(H, dtype=jnp.float16), ValueError, "expected dtype float32 or bfloat16"),
    ],
)
def test_what_can_not_be_packed(cell: Any, error: type[Exception], says: str) -> None:
    x, rnn = Options().inputs(), RNN(cell)
    with jax.numpy_dtype_promotion("standard"):
        variables = variables_of(rnn, x)
    with pytest.raises(error, match=says):
        rnn.pack(variables)
