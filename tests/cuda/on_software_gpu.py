# SPDX-License-Identifier: Apache-2.0
"""What a user does on a GPU, done on the software GPU: run by test_software_gpu.py, not by itself.

XLA's CPU client calls the package's own GPU handlers, and they compile, load and launch what they
would on a GPU. Each of its eight devices is a GPU of its own.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import mesh_of
from flax import linen as nn
from jax import ShapeDtypeStruct, export
from jax.sharding import NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

import jax_persistent as jp
from jax_persistent.backends import cuda
from jax_persistent.ffi.call import TARGETS
from jax_persistent.ffi.registration import native_module
from jax_persistent.linen import RNN, Bidirectional
from tests.cuda.software import GPU, ROOT, SoftwareGpu

CELLS = {"lstm": (jp.lstm, 4), "gru": (jp.gru, 3), "elman": (jp.elman, 1)}
B, T, I, H = 3, 7, 5, 20  # noqa: E741


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftwareGpu]:
    assert GPU is not None, "run test_software_gpu.py"
    monkeypatch.delenv(cuda.EXCHANGE, raising=False)
    GPU.counts()
    yield GPU
    jax.clear_caches()


def problem(cell: str, dtype: str = "float32", hidden: int = H) -> tuple[jax.Array, ...]:
    gates = CELLS[cell][1]
    draw = np.random.default_rng(hidden)
    shapes = (B, T, I), (I, gates * hidden), (hidden, gates * hidden)
    return tuple(jnp.asarray(0.3 * draw.standard_normal(s), dtype) for s in shapes)


def gradients(cell: str, backend: str, *arrays: jax.Array, **options: Any) -> Any:
    """Of x, W and R, and the outputs."""

    def loss(*arrays: jax.Array) -> Any:
        outputs, _ = CELLS[cell][0](*arrays, backend=backend, **options)
        return jnp.sum(outputs.astype("float32") ** 2), outputs

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*arrays)


def check(cell: str, *arrays: jax.Array, tolerance: float = 1e-5, **options: Any) -> None:
    kernel, plain = (
        gradients(cell, backend, *arrays, **options) for backend in ("native", "reference")
    )
    for got, expected in zip(jax.tree.leaves(kernel), jax.tree.leaves(plain), strict=True):
        expected = np.asarray(expected, "float64")
        scale = max(1.0, float(np.abs(expected).max()))
        assert_allclose(np.asarray(got, "float64"), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("exchange", ["grid", "grid-barrier", "cluster"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_exchange(gpu: SoftwareGpu, monkeypatch, cell: str, exchange: str) -> None:
    monkeypatch.setenv(cuda.EXCHANGE, exchange)
    lengths, resets = jnp.array([7, 3, 5]), jnp.zeros((B, T), bool).at[:, 4].set(True)
    check(cell, *problem(cell), lengths=lengths, resets=resets, reverse=True)
    check(cell, *problem(cell, "bfloat16", 21), tolerance=0.05, lengths=lengths)
    assert gpu.counts().launches == 4


def test_an_older_architecture(gpu: SoftwareGpu) -> None:
    """The last device is of sm_80, which has no clusters: plans and kernels of its own.

    A program has workspace enough for any device of the process.
    """
    first, *_, last = jax.local_devices()
    for hidden, dtype, tolerance in ((20, "float16", 0.02), (21, "float32", 1e-5)):
        arrays = problem("gru", dtype, hidden)
        for device in (last, first):
            check("gru", *(jax.device_put(a, device) for a in arrays), tolerance=tolerance)
    assert gpu.counts().launches == 8
    plans = [str(jp.plan("gru", 21, 3, "float32", device)) for device in (first, last)]
    assert [re.findall(r"through (?:the )?(\w+)", plan) for plan in plans] == [["cluster"], ["L2"]]


def test_training_a_layer(gpu: SoftwareGpu) -> None:
    """Losses of a few steps of descent, the kernels' and flax's own."""
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.standard_normal((4, 9, I)), "float32")
    y = jnp.asarray(draw.standard_normal((4, 9, 1)), "float32")

    def losses(rnn: Any, bidirectional: Any) -> list[float]:
        both = bidirectional(rnn(nn.LSTMCell(12)), rnn(nn.LSTMCell(12)))
        model = nn.Sequential([both, rnn(nn.GRUCell(16)), nn.Dense(1)])
        variables = model.init(jax.random.key(0), x)
        gpu.counts()

        @jax.jit
        def step(variables: Any) -> Any:
            def loss(variables: Any) -> jax.Array:
                return jnp.mean((model.apply(variables, x) - y) ** 2)

            value, d_variables = jax.value_and_grad(loss)(variables)
            return jax.tree.map(lambda v, d: v - 0.1 * d, variables, d_variables), value

        found = []
        for _ in range(4):
            variables, value = step(variables)
            found.append(float(value))
        return found

    ours = losses(RNN, Bidirectional)
    assert gpu.counts().launches == 4 * 4  # of two layers, one of them in both directions
    assert_allclose(ours, losses(nn.RNN, nn.Bidirectional), rtol=2e-5)
    assert ours[-1] < ours[0]


def test_vmap_folds_into_one_launch(gpu: SoftwareGpu) -> None:
    x, w, r = problem("elman")
    xs = jnp.stack([x, 2 * x])
    both = jax.jit(jax.vmap(partial(jp.elman, backend="native"), (0, None, None)))(xs, w, r)[0]
    both.block_until_ready()
    assert gpu.counts().launches == 1
    assert_allclose(both[1], jp.elman(2 * x, w, r, backend="reference")[0], atol=1e-6)


def test_each_device_of_a_mesh_is_its_own(gpu: SoftwareGpu) -> None:
    """A launch on each, in its own context: the stand-in refuses a stream or module of another."""
    mesh = mesh_of(batch=4)
    x, w, r = problem("lstm")
    x = jax.device_put(jnp.tile(x, (4, 1, 1)), NamedSharding(mesh, PartitionSpec("batch")))
    w, r = (jax.device_put(a, NamedSharding(mesh, PartitionSpec())) for a in (w, r))
    check("lstm", x, w, r)
    assert gpu.counts().launches == 2 * 4


def test_nothing_is_loaded_twice(gpu: SoftwareGpu) -> None:
    x, w, r = problem("gru", hidden=23)
    run = jax.jit(partial(jp.gru, backend="native"))
    run(x, w, r)[0].block_until_ready()
    gpu.counts()
    for _ in range(3):
        run(x, w, r)[0].block_until_ready()
    counts = gpu.counts()
    assert (counts.launches, counts.modules, counts.queries, counts.contexts) == (3, 0, 0, 0)


@pytest.mark.parametrize(("shape", "times"), [("b, t, 5", 1), ("b, 7, 5", 2), ("3, t, 5", 3)])
def test_sizes_that_a_program_does_not_know(gpu: SoftwareGpu, shape: str, times: int) -> None:
    """Rows that need copies in the workspace, whose size is worked out when the program runs."""
    _, w, r = problem("lstm", hidden=21)

    def loss(x: jax.Array, lengths: jax.Array) -> jax.Array:
        return jnp.sum(jp.lstm(x, w, r, lengths=lengths, backend="native")[0] ** 2)

    scope = export.SymbolicScope()
    x_shape = export.symbolic_shape(shape, scope=scope)
    arguments = ShapeDtypeStruct(x_shape, "float32"), ShapeDtypeStruct(x_shape[:1], "int32")
    trusted = [export.DisabledSafetyCheck.custom_call(name) for name in TARGETS.values()]
    program = export.export(jax.jit(jax.grad(loss)), disabled_checks=trusted)(*arguments)
    draw = np.random.default_rng(times)
    sizes = (4 if "b" in shape else 3, 9 if "t" in shape else 7, 5)
    x = jnp.asarray(draw.standard_normal(sizes), "float32")
    lengths = jnp.asarray(draw.integers(0, sizes[1] + 1, sizes[0]), "int32")
    got = export.deserialize(program.serialize()).call(x, lengths)
    assert_allclose(got, jax.grad(loss)(x, lengths), atol=1e-5)


def test_a_workspace_that_is_too_small_is_refused(gpu: SoftwareGpu, monkeypatch) -> None:
    """As of a program that was lowered for another GPU."""
    monkeypatch.setenv(cuda.EXCHANGE, "grid")
    monkeypatch.setattr(cuda, "_workspace_bytes", lambda recurrence: 64)
    says = r"jax_persistent.forward: workspace: expected at least U8\[\d+\]; got U8\[64\]"
    with pytest.raises(Exception, match=says):
        jax.block_until_ready(jp.elman(*problem("elman", hidden=21), backend="native"))


def test_a_failure_on_the_device_is_an_error(gpu: SoftwareGpu, monkeypatch) -> None:
    """In the driver's words, and the next program fails too, as a real context does."""
    x, w, r = problem("elman", hidden=19)
    run = jax.jit(partial(jp.elman, backend="native"))
    run(x, w, r)[0].block_until_ready()
    nowhere = np.zeros(8, np.uint8)
    gpu.library.SoftwareGpuAllowMemory(nowhere.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(8))
    try:
        says = "INTERNAL: jax_persistent.forward: .*CUDA_ERROR_ILLEGAL_ADDRESS"
        for _ in range(2):
            with pytest.raises(Exception, match=says):
                jax.block_until_ready(run(x, w, r))
        assert "elman_tanh_float32_forward_" in gpu.last_error()
        assert "an access astray" in gpu.last_error()
    finally:
        gpu.library.SoftwareGpuAllowAllMemory()
        gpu.library.SoftwareGpuForgive()


def of_own(
    body: str, *, name: str = "own", size: tuple[int, int, int] = (2, 32, 1), words: int = 64
) -> list[int]:
    """What a kernel of one's own makes of zeros."""
    source = f"""#include "cuda/arch.h"
        using namespace jp::cuda::arch;
        extern "C" JP_KERNEL(64) own(uint32_t* words) {{ {body} }}"""
    return native_module().run_source("CUDA", name, source, *size, words)


def test_a_kernel_of_ones_own(gpu: SoftwareGpu) -> None:
    native_module().facts("CUDA")  # asks the device with a kernel
    gpu.counts()
    index = "words[32 * BlockIndex() + ThreadIndex()]"
    for _ in range(2):  # the zeros are new ones
        assert of_own(f"{index} += 3 * ThreadIndex() + 1;") == [*range(1, 97, 3)] * 2
    # The same name with another text.
    assert of_own(f"{index} += BlockIndex();", words=70) == [0] * 32 + [1] * 32 + [0] * 6
    counts = gpu.counts()
    assert (counts.modules, counts.launches) == (2, 3)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"body": "words[0] = lost;"}, 'can.t compile own.cu for sm_90a(?s:.*)"lost" is undefined'),
        ({"name": "other"}, "cuModuleGetFunction: CUDA_ERROR_NOT_FOUND"),
        ({"size": (9, 32, 1)}, "cuLaunchKernelEx: CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"),
        ({"size": (16, 32, 16)}, "cuLaunchKernelEx: CUDA_ERROR_INVALID_CLUSTER_SIZE"),
        ({"size": (2, 96, 1)}, "cuLaunchKernelEx: CUDA_ERROR_INVALID_VALUE"),
        ({"words": 0}, "cuMemAlloc: CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_a_kernel_of_ones_own_that_cannot_run(gpu: SoftwareGpu, how: Any, error: str) -> None:
    with pytest.raises(RuntimeError, match=error):
        of_own(**({"body": ""} | how))


def test_only_a_gpu_runs_kernels_of_ones_own() -> None:
    with pytest.raises(RuntimeError, match="this backend runs no kernels but its own"):
        native_module().run_source("cpu", "own", "", 1, 32, 1, 1)


@pytest.mark.parametrize(
    ("kernel", "size", "text", "other"),
    [
        ("trip", (2, 32, 1), "StoreRelaxed(words + 32 * step + 32, kUnwritten)", ""),
        ("arrival", (4, 256, 4), "rank < gridDim.x", "rank + 1 < gridDim.x"),
    ],
)
def test_a_lost_message_ends_the_timing(
    gpu: SoftwareGpu, kernel: str, size: tuple[int, int, int], text: str, other: str
) -> None:
    """Of benchmarks.latency, with an error."""
    source = (ROOT / "benchmarks/latency.cu").read_text()
    assert source.count(text) == 1
    native = native_module()
    assert native.run_source("CUDA", kernel, source, *size, 1 << 16)[0] > 0
    with pytest.raises(RuntimeError, match="CUDA_ERROR_ASSERT"):
        native.run_source("CUDA", kernel, source.replace(text, other), *size, 1 << 16)
    assert "latency" in gpu.last_error()
    gpu.library.SoftwareGpuForgive()
