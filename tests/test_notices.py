# SPDX-License-Identifier: Apache-2.0
"""What is said, and what is not, where something else runs in place of a kernel."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax_problems import drawn

import jax_persistent as jp
from jax_persistent import notices
from jax_persistent.ffi.registration import native_module
from jax_persistent.linen import RNN, Bidirectional, scan
from jax_persistent.nnx import RNN as NnxRNN

B, T, I, H = 2, 5, 3, 6  # noqa: E741
X = np.sin(np.arange(B * T * I, dtype=np.float32)).reshape(B, T, I)
LINEN, NNX = "jax_persistent.linen.RNN", "jax_persistent.nnx.RNN"
SCAN, OWN = "is a jax_persistent.scan: ", "runs flax's own code: "
Said = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Said:
    """(level, message) of what this test has been told since it last asked."""
    monkeypatch.setattr(notices, "_SAID", set())
    jax.clear_caches()  # what is compiled already says nothing any more
    caplog.set_level(logging.INFO, logger="jax_persistent")

    def since() -> list[tuple[str, str]]:
        ours = [r for r in caplog.records if r.name == "jax_persistent"]
        caplog.clear()
        return [(r.levelname, r.getMessage()) for r in ours]

    return since


def weights(dtype: Any = np.float32, hidden: int = H) -> tuple[Any, Any]:
    return jnp.ones((I, 3 * hidden), dtype), jnp.ones((hidden, 3 * hidden), dtype)


def lower(function: Callable[..., Any], x: Any, platform: str = "cpu") -> None:
    jax.jit(function).trace(x).lower(lowering_platforms=(platform,))


CELLS = {
    nn.MGUCell(H): "MGUCell has no kernel; OptimizedLSTMCell, LSTMCell, GRUCell, SimpleCell have",
    nn.LSTMCell(H, gate_fn=nn.relu): "LSTMCell: a kernel has sigmoid as gate_fn and tanh as activ",
    nn.SimpleCell(H, activation_fn=nn.gelu): "has tanh or relu as activation_fn; got gelu",
    nn.SimpleCell(H, residual=True): "SimpleCell: there is no kernel for residual=True",
}


@pytest.mark.parametrize(("cell", "reason"), CELLS.items(), ids=CELLS.values())
def test_a_linen_layer_without_a_kernel(said: Said, cell: Any, reason: str) -> None:
    """No warning: it runs persistently. Those who listen hear why not on the kernel of a cell."""
    rnn = RNN(cell)
    variables = drawn(jax.eval_shape(rnn.init, jax.random.key(0), X))
    ((level, message),) = said()
    assert level == "INFO"
    assert message.startswith(f"{LINEN} {SCAN}")
    assert reason in message
    jax.eval_shape(RNN(cell, reverse=True).apply, variables, X)  # the same reason again
    assert said() == []


def test_a_linen_layer_that_flax_runs(said: Said) -> None:
    x = jnp.zeros((2, 3, 4, 2))  # [B, T, X, I]
    rnn = RNN(nn.ConvLSTMCell(features=3, kernel_size=(2,)))
    jax.eval_shape(rnn.init, jax.random.key(0), x)
    (_, (level, message)) = said()
    assert level == "WARNING"
    assert message.startswith(f"{LINEN} {OWN}conv_general_dilated is not known")


def test_a_lifted_scan_that_is_a_plain_one(said: Said) -> None:
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x: Any, _: None) -> Any:
            return nn.Dense(I)(x), None

    layers = scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    jax.eval_shape(layers().init, jax.random.key(0), X, None)
    ((level, message),) = said()
    assert level == "INFO"
    assert message.startswith("jax_persistent.scan runs as a lax.scan: neither of its operands")


@pytest.mark.parametrize(
    ("attributes", "lengths", "reason"),
    [
        ({"variable_axes": {"counts": 0}}, None, "variable_axes and variable_carry ask for a scan"),
        ({}, [3], "a kernel takes integer seq_lengths [2]; got int32[1]"),
    ],
    ids=["variables", "lengths"],
)
def test_a_call_without_a_kernel(said: Said, attributes: Any, lengths: Any, reason: str) -> None:
    variables = drawn(jax.eval_shape(nn.RNN(nn.GRUCell(H)).init, jax.random.key(0), X))
    rnn = RNN(nn.GRUCell(H), **attributes)
    jax.eval_shape(lambda v: rnn.apply(v, X, seq_lengths=lengths), variables)
    ((level, message),) = said()
    assert level == "INFO"
    assert message.startswith(f"{LINEN} {SCAN}")
    assert reason in message


def test_what_flax_refuses_too(said: Said) -> None:
    """Its own error says what is wrong: no warning beside it."""
    variables = drawn(jax.eval_shape(nn.RNN(nn.GRUCell(H)).init, jax.random.key(0), X))
    with pytest.raises(Exception, match="kernel"):
        jax.eval_shape(lambda v: RNN(nn.GRUCell(H)).apply(v, X[..., :2]), variables)
    assert {level for level, _ in said()} == {"INFO"}


def test_intercepted_methods(said: Said) -> None:
    variables = drawn(jax.eval_shape(RNN(nn.GRUCell(H)).init, jax.random.key(0), X))
    with nn.intercept_methods(lambda call, args, kwargs, _: call(*args, **kwargs)):
        jax.eval_shape(RNN(nn.GRUCell(H)).apply, variables, X)
    ((level, message),) = said()
    assert (level, "methods are intercepted" in message) == ("INFO", True)


def test_an_nnx_layer_without_a_kernel(said: Said) -> None:
    cell = nnx.GRUCell(I, H, activation_fn=nnx.gelu, rngs=nnx.Rngs(0))
    NnxRNN(cell)(X)
    ((level, message),) = said()
    assert level == "INFO"
    assert message.startswith(f"{NNX} {SCAN}")
    assert "GRUCell: a kernel has sigmoid as gate_fn and tanh as activation_fn; got" in message
    cell = nnx.GRUCell(I, H, rngs=nnx.Rngs(0))
    cell.dense_h.precision = "highest"
    NnxRNN(cell)(X)
    ((_, message),) = said()
    assert "plain nnx.Linear layers of one dtype, without their own precision" in message


def test_layers_on_a_kernel_say_nothing(said: Said) -> None:
    rnn = Bidirectional(RNN(nn.OptimizedLSTMCell(H)), RNN(nn.GRUCell(H), mask_outputs=True))
    variables = drawn(jax.eval_shape(rnn.init, jax.random.key(0), X))
    jax.jit(lambda v: rnn.apply(v, X, seq_lengths=[5, 2])).lower(variables)
    lower(lambda x: jp.gru(x, *weights(), backend="reference"), X)
    lower(jax.grad(lambda x: jp.gru(x, *weights())[0].sum()), X)
    lower(lambda x: jp.gru(x, *weights()), X[:0])
    jp.plan("lstm", 64, 8, "float64", "tpu")
    assert said() == []


def test_choices_are_said_to_those_who_listen(said: Said) -> None:
    """One word for a dtype, whatever asks for it, and one for a few steps."""
    with jax.enable_x64(True):
        x = jnp.ones((B, T, I), jnp.float64)
        lower(jax.grad(lambda x: jp.gru(x, *weights(np.float64))[0].sum()), x)
        lower(lambda x: jp.elman(x, *(w[:, :H] for w in weights(np.float64))), x)
    assert said() == [
        (
            "INFO",
            "jax_persistent.forward (gru) runs as a lax.scan: no cpu kernel for float64; there is "
            "one for float32 and bfloat16",
        )
    ]
    lower(lambda x: jp.gru(x, *weights(hidden=400)), jnp.ones((50, 1, I)))
    ((level, message),) = said()
    assert (level, "T = 1 and B = 50 don't repay the packing" in message) == ("INFO", True)


def test_what_nobody_heard_is_said_again(said: Said, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="jax_persistent")
    run = jax.jit(lambda x: jp.gru(x, *weights(np.float16)))
    run.lower(X.astype(np.float16))
    assert said() == []
    caplog.set_level(logging.INFO, logger="jax_persistent")
    jax.clear_caches()
    run.lower(X.astype(np.float16))
    assert len(said()) == 1


@pytest.mark.parametrize("platform", ["tpu", "rocm"])
def test_a_platform_without_kernels(said: Said, platform: str) -> None:
    lower(jax.grad(lambda x: jp.gru(x, *weights())[0].sum()), X, platform)
    ((level, message),) = said()
    assert level == "WARNING"
    assert message.endswith("no kernel for this platform; kernels exist for cpu, cuda")


def test_a_gpu_without_a_compiler(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"CUDA": "no NVRTC to compile the kernels with. Install it with pip"}
    here = SimpleNamespace(platform="gpu", local_hardware_id=0)
    monkeypatch.setattr(jax, "local_devices", lambda backend: [here])
    monkeypatch.setattr(native_module(), "missing", missing.__getitem__)
    lower(jax.grad(lambda x: jp.gru(x, *weights())[0].sum()), X, "cuda")
    ((level, message),) = said()
    assert (level, "Install it with pip" in message) == ("WARNING", True)


def test_a_driver_that_is_too_old(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, however many calls of whatever cells become scans."""

    def fails(platform: str, device: int) -> None:
        raise RuntimeError("cudaSetDevice: cudaErrorInsufficientDriver")

    here = SimpleNamespace(platform="gpu", local_hardware_id=0)
    monkeypatch.setattr(native_module(), "missing", lambda platform: "")
    monkeypatch.setattr(native_module(), "facts", fails)
    monkeypatch.setattr(jax, "local_devices", lambda backend: [here])
    lower(jax.grad(lambda x: jp.gru(x, *weights())[0].sum()), X, "cuda")
    lower(lambda x: jp.elman(x, *(w[:, :H] for w in weights())), X, "cuda")
    assert said() == [
        (
            "WARNING",
            "jax_persistent.forward (gru) runs as a lax.scan: CUDA can't be used: cudaSetDevice: "
            "cudaErrorInsufficientDriver",
        )
    ]


def test_what_a_newcomer_sees() -> None:
    """A warning on stderr without any logging set up, and nothing of choices."""
    program = """if True:
        import jax, jax.numpy as jnp
        from flax import linen as nn
        from jax_persistent.linen import RNN
        x = jnp.ones((2, 5, 4, 3))
        for cell in nn.ConvLSTMCell(6, (2,)), nn.ConvLSTMCell(7, (2,)):
            jax.jit(RNN(cell).init).lower(jax.random.key(0), x)
        for cell in nn.MGUCell(6), nn.LSTMCell(6, dtype=jnp.float16):
            jax.jit(RNN(cell).init).lower(jax.random.key(0), x[..., 0])
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "jax_persistent" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{LINEN} {OWN}conv_general_dilated is not known")
