# SPDX-License-Identifier: Apache-2.0
"""Keras's layers give what they gave before `install()`: values, gradients, training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax_problems import assert_trees_close, compiled, drawn, runs_as, value_and_gradients

T, B, I, H = 5, 3, 4, 6  # noqa: E741
X = jax.random.normal(jax.random.key(1), (B, T, I))
MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], bool)


@pytest.fixture(scope="module")
def loaded() -> Any:
    """Keras and the adapter, which only the worker that runs this file pays for."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setitem(os.environ, "KERAS_BACKEND", "jax")
        warnings.simplefilter("ignore")
        import keras

        from jax_persistent import keras as adapter
    return SimpleNamespace(keras=keras, layers=keras.layers, adapter=adapter)


@pytest.fixture(autouse=True)
def loosely(loaded: Any) -> Iterator[None]:
    """As Keras wants it: it mixes dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    loaded.adapter.uninstall()


@dataclass(frozen=True)
class Case:
    """One layer and one call of it; `runs` says as what."""

    name: str
    layer: str
    runs: str
    options: dict[str, Any] = field(default_factory=dict)
    mask: bool = True
    initial: int = 0  # states that are given
    training: bool = False
    gradients: bool = False  # whether they are compared too


def of_steps(**options: Any) -> dict[str, Any]:
    return {"return_sequences": True, "return_state": True, **options}


BACK, ZEROS = {"go_backwards": True}, {"zero_output_for_mask": True}
CASES = (
    Case("lstm", "LSTM", "kernel", of_steps(**BACK), initial=2, gradients=True),
    Case("lstm-last", "LSTM", "kernel", {**ZEROS, "use_bias": False}),
    Case("gru", "GRU", "kernel", of_steps(**ZEROS), initial=1, gradients=True),
    Case("gru-plain", "GRU", "kernel", {**BACK, "use_bias": False, "dropout": 0.4}, False, 0, True),
    Case("simple", "SimpleRNN", "kernel", of_steps(**BACK, **ZEROS, activation="relu")),
    Case("simple-tanh", "SimpleRNN", "kernel", {"dropout": 0.4}, training=True),
    Case("rnn-of-a-cell", "RNN(GRUCell)", "kernel", of_steps()),
    Case("bidirectional", "Bidirectional(LSTM)", "kernel", of_steps()),
    Case("gru-before", "GRU", "jp.scan", of_steps(**BACK, reset_after=False), initial=1),
    Case("lstm-dropout", "LSTM", "jp.scan", of_steps(recurrent_dropout=0.4), training=True),
    Case("lstm-softsign", "LSTM", "jp.scan", of_steps(activation="softsign"), mask=False),
    Case("own-cell", "RNN(own)", "jp.scan", of_steps(**BACK), gradients=True),
    Case("stacked", "RNN(LSTMCell,GRUCell)", "jp.scan", of_steps(**ZEROS)),
)


def own_cell(keras: Any) -> Any:
    class Leaky(keras.layers.Layer):
        """A user's own cell."""

        state_size = H

        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(shape[-1], H))
            self.recurrent = self.add_weight(shape=(H, H))

        def call(self, x: Any, states: Any) -> Any:
            h = 0.5 * states[0] + keras.ops.tanh(x @ self.kernel + states[0] @ self.recurrent)
            return h, [h]

    return Leaky()


# The default is orthogonal, whose decomposition takes longer to compile than much else.
CHEAP = {"recurrent_initializer": "uniform"}


def made(loaded: Any, case: Case) -> Any:
    layers, of = loaded.layers, case.layer.rstrip(")").split("(")
    options = dict(case.options)
    if len(of) == 1:
        layer = getattr(layers, of[0])(H, seed=7, **options, **CHEAP)
    elif of[0] == "Bidirectional":
        layer = layers.Bidirectional(getattr(layers, of[1])(H, **options, **CHEAP))
    else:
        names = of[1].split(",")
        cells = [
            own_cell(loaded.keras) if name == "own" else getattr(layers, name)(H, **CHEAP)
            for name in names
        ]
        layer = layers.RNN(cells if len(cells) > 1 else cells[0], **options)
    layer.build(X.shape)
    return layer


def called(layer: Any, case: Case, weights: Any, x: Any, *states: Any) -> Any:
    given = {"initial_state": list(states)} if states else {}
    mask = MASK if case.mask else None
    others = [variable.value for variable in layer.non_trainable_variables]
    found, _ = layer.stateless_call(weights, others, x, mask=mask, training=case.training, **given)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_keras(loaded: Any, case: Case) -> None:
    layer = made(loaded, case)
    weights = drawn([variable.value for variable in layer.trainable_variables])
    states = jax.random.normal(jax.random.key(2), (case.initial, B, H))
    arguments = (weights, X, *states)

    def call() -> Any:  # another function each time, that jax has not traced
        return partial(called, layer, case)

    compute = value_and_gradients if case.gradients else compiled
    expected = compute(call(), *arguments)
    loaded.adapter.install()
    assert runs_as(call(), *arguments) == case.runs
    assert_trees_close(compute(call(), *arguments), expected)


def test_mixed_precision(loaded: Any) -> None:
    layer = loaded.layers.LSTM(H, dtype="mixed_bfloat16", return_sequences=True, **CHEAP)
    layer.build(X.shape)
    weights = [variable.value for variable in layer.trainable_variables]
    expected = jax.jit(partial(called, layer, Case("", "", "")))(weights, X)
    loaded.adapter.install()
    call = partial(called, layer, Case("", "", ""))  # another one, that jax has not traced
    assert runs_as(call, weights, X) == "kernel"
    assert weights[0].dtype == jnp.float32
    assert_trees_close(jax.jit(call)(weights, X), expected, tolerance=2e-2)


def test_two_dtypes_are_left_to_the_cell(loaded: Any) -> None:
    layer = loaded.layers.RNN(loaded.layers.GRUCell(H, dtype="bfloat16", **CHEAP))
    layer.build(X.shape)
    call = partial(called, layer, Case("", "", "", mask=False))
    weights = [variable.value for variable in layer.trainable_variables]
    loaded.adapter.install()
    assert runs_as(call, weights, X) == "jp.scan"


def test_stateful_layers_go_on(loaded: Any) -> None:
    def outputs() -> list[Any]:
        loaded.keras.utils.set_random_seed(3)
        layer = loaded.layers.SimpleRNN(H, stateful=True, return_sequences=True, **CHEAP)
        return [layer(X), layer(X), layer.states[0].value]

    expected = outputs()
    loaded.adapter.install()
    assert_trees_close(outputs(), expected)


def test_training_takes_the_same_course(loaded: Any) -> None:
    def losses() -> list[float]:
        loaded.keras.utils.set_random_seed(3)
        layers = loaded.layers
        rnn = layers.Bidirectional(layers.LSTM(H, **CHEAP))
        model = loaded.keras.Sequential([layers.Masking(), rnn, layers.Dense(1)])
        model.compile("adam", "mse")
        x = np.where(MASK[:, :, None], X, 0)
        return model.fit(x, np.ones((B, 1)), epochs=4, verbose=0, shuffle=False).history["loss"]

    expected = losses()
    loaded.adapter.install()
    found = losses()
    assert found[-1] < found[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_install_and_uninstall(loaded: Any) -> None:
    every = [getattr(loaded.layers, name) for name in ("RNN", "LSTM", "GRU", "SimpleRNN")]
    own = [layer.inner_loop for layer in every]
    loaded.adapter.install()
    loaded.adapter.install()
    assert all(a.inner_loop is not b for a, b in zip(every, own, strict=True))
    loaded.adapter.uninstall()
    assert [layer.inner_loop for layer in every] == own


def test_another_backend_is_refused(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded.keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match=r"on JAX; it runs on 'torch'\. Set KERAS_BACKEND=jax"):
        loaded.adapter.install()


def test_another_keras_runs_its_own_loop(
    loaded: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.adapter, "backend_rnn", ModuleType("another"))
    assert loaded.adapter._loops()[None] is loaded.layers.RNN.inner_loop
    (message,) = caplog.messages
    assert message.endswith("Keras's own code: this Keras's loop is another: another has no lax")


def test_what_runs_is_said(loaded: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded.adapter.notices._SAID.clear()
    caplog.set_level("INFO", logger="jax_persistent")
    loaded.adapter.install()
    program = jax.make_jaxpr(loaded.layers.GRU(H, unroll=True))(X)
    assert "jax_persistent" not in str(program)
    jax.eval_shape(loaded.layers.RNN(own_cell(loaded.keras)), X)
    jax.eval_shape(loaded.layers.ConvLSTM1D(2, 2), X[..., None])
    own, scan, _, plain = caplog.messages
    assert own.startswith("jax_persistent.keras runs Keras's own code: unroll=True")
    assert scan.startswith("jax_persistent.keras runs a jax_persistent.scan: Leaky has no kernel")
    assert "conv_general_dilated is not known" in plain
    assert [record.levelname for record in caplog.records] == [*["INFO"] * 3, "WARNING"]
