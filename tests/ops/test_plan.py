# SPDX-License-Identifier: Apache-2.0
"""`plan`: what it says of each platform and architecture, and why there is no kernel."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

import jax_persistent as jp
from jax_persistent.backends import cuda
from jax_persistent.cells import CELLS
from jax_persistent.ffi.registration import native_module
from jax_persistent.problem import Problem

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100")
GATES = {"lstm": 4, "gru": 3, "elman": 1}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@pytest.fixture(autouse=True)
def _on_a_build_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cuda.EXCHANGE, raising=False)
    monkeypatch.setattr(native_module(), "missing", lambda platform: "")


@pytest.mark.parametrize("device", ARCHITECTURES)
@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("cell", GATES)
def test_a_gpu_has_a_kernel(cell: str, dtype: str, device: str) -> None:
    hidden = 384  # whole blocks and chunks for every cell: nothing is padded
    found = jp.plan(cell, hidden, 4, dtype, device)
    assert found.backend == "native"
    weights = GATES[cell] * hidden * hidden * BYTES[dtype]
    assert found.packed_bytes >= weights
    assert str(found).startswith(f"native: {found.packed_bytes >> 10} KiB of weights over ")
    assert found.details is not None
    for direction in ("forward", "backward"):
        details = found.details[direction]
        assert details["runs"]
        assert details["packed_bytes"] >= weights
    assert found.workers == found.details["forward"]["workers"]
    assert found.residency == found.details["forward"]["residency"]
    has_clusters = int(device.removeprefix("sm_")) >= 90
    assert has_clusters or found.residency.startswith("grid, ")


def test_what_it_prints(monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(cuda.EXCHANGE, "cluster")
        found = jp.plan("lstm", 512, 20, "bfloat16", "sm_90")
    assert found.residency == "cluster, registers"
    assert (found.workers, found.packed_bytes) == (16, 4 * 512 * 512 * 2)
    assert str(found) == (
        "native: 2048 KiB of weights over 16 blocks of 8 warps (4 for units, 2 for K), exchange "
        "through the cluster's shared memory; a warp keeps 8 of its 8 chunks in registers; 3 teams "
        "of 16 of 132 SMs, 1 tile of 8 rows each"
    )
    found = jp.plan("lstm", 1024, 20, "bfloat16", "sm_80")
    assert found.residency == "grid, shared memory"
    assert (found.workers, found.packed_bytes) == (32, 4 * 1024 * 1024 * 2)
    assert str(found) == (
        "native: 8192 KiB of weights over 32 blocks of 8 warps (2 for units, 4 for K), exchange "
        "through L2, each message read once for 2 unit blocks; a warp keeps 4 of its 8 chunks in "
        "registers, 4 in shared memory; 3 teams of 32 of 108 SMs, 1 tile of 8 rows each"
    )
    found = jp.plan("lstm", 1024, 5000, "bfloat16", "sm_90")
    assert str(found).endswith(
        "; 40 teams of 32 of 132 SMs, 16 tiles of 8 rows each; 10 launches, one after the other"
    )
    found = jp.plan("gru", 2048, 8, "float32", "sm_90")
    assert found.residency == "grid, L2"
    assert "4 of its 16 chunks in registers, 8 in shared memory, and reads 4 from L2" in str(found)


@pytest.mark.parametrize(
    ("hidden", "by_rows", "says"),
    [
        (64, True, "64 KiB of packed weights for each of 2 workers, which have rows of their own"),
        (1024, False, "16384 KiB of packed weights over 2 workers, 8192 KiB each"),
    ],
)
def test_what_it_says_of_who_does_a_step(hidden: int, by_rows: bool, says: str) -> None:
    facts = {"threads": 2, "lanes": 16, "registers": 32, "l2_bytes": 2 << 20, "l3_bytes": 64 << 20}
    facts["bfloat16_units"] = 2
    for pass_, parts in (("forward", ("inputs",)), ("backward", ("residuals", "d_weights"))):
        problem = Problem(pass_, CELLS["lstm"], 1, 16, 128, 1, hidden, "float32", parts=parts)
        found = native_module().plan("cpu", problem.encoded() | {"pass": pass_}, facts)
        assert found["explanation"].startswith(says) or pass_ == "backward"
        assert found["workers"] == 2
        assert found["splits_batch"] == by_rows


@pytest.mark.parametrize("name", ["cuda", "gpu"])
def test_another_machines_gpu_is_taken_for_sm_90(monkeypatch, name: str) -> None:
    def none_here(backend: str):
        raise RuntimeError(f"no {backend}")

    monkeypatch.setattr(jax, "local_devices", none_here)
    assert jp.plan("gru", 640, 9, "float16", name) == jp.plan("gru", 640, 9, "float16", "sm_90")


def test_a_device_is_asked_for_its_own_facts(monkeypatch) -> None:
    facts = {**native_module().architecture_facts("CUDA", "90"), "processors": 60}
    monkeypatch.setattr(native_module(), "facts", lambda platform, device: {3: facts}[device])
    part = SimpleNamespace(platform="gpu", local_hardware_id=3)
    found = jp.plan("lstm", 1024, 8, "bfloat16", part)
    assert "1 team of 32 of 60 SMs" in str(found)
    monkeypatch.setattr(jax, "local_devices", lambda backend: [part])
    assert jp.plan("lstm", 1024, 8, "bfloat16", "cuda") == found


def test_what_one_of_the_gpus_here_refuses_is_refused(monkeypatch) -> None:
    """A program may run on any of them."""
    facts = [native_module().architecture_facts("CUDA", name) for name in ("90", "75")]
    parts = [SimpleNamespace(platform="gpu", local_hardware_id=n) for n in range(2)]
    monkeypatch.setattr(native_module(), "facts", lambda platform, device: facts[device])
    monkeypatch.setattr(jax, "local_devices", lambda backend: parts)
    found = [str(jp.plan("lstm", 64, 8, "bfloat16", device)) for device in ("cuda", *parts)]
    assert found[0] == found[2] == "reference: no kernels for this GPU's architecture"
    assert found[1].startswith("native: ")


@pytest.mark.parametrize("name", ["sm_90a", "sm_100a", "sm_100f"])
def test_a_letter_after_an_architecture_changes_nothing(name: str) -> None:
    found = jp.plan("lstm", 384, 4, "bfloat16", name)
    assert found.backend == "native"
    assert found == jp.plan("lstm", 384, 4, "bfloat16", name[:-1])


@pytest.mark.parametrize(
    "device", [7, 0, True, 1.5, 10**30, b"cpu", ["cpu"], {}, object(), SimpleNamespace(platform=3)]
)
def test_what_is_no_device(device: object) -> None:
    with pytest.raises(ValueError, match=r"device: expected a jax.Device, .*\(H100\); got ") as bad:
        jp.plan("lstm", 64, 8, "float32", device)
    assert repr(device) in str(bad.value)


@pytest.mark.parametrize(
    "name",
    ["", "a100", "H100", "sm90", "sm_", "sm_90x", "sm_-90", "sm_\u0669\u0660", "sm_" + "9" * 40],
)
def test_a_name_that_nothing_has(name: str) -> None:
    with pytest.raises(ValueError, match=r"device: expected a jax.Device, a platform \(cpu, "):
        jp.plan("lstm", 64, 8, "bfloat16", name)


def test_an_architecture_without_kernels() -> None:
    found = jp.plan("lstm", 64, 8, "bfloat16", "sm_75")
    assert str(found) == "reference: no kernels for this GPU's architecture"


def test_a_device_that_cannot_say_is_a_reason(monkeypatch) -> None:
    def fails(platform: str, device: int) -> None:
        raise RuntimeError("cudaSetDevice: cudaErrorInsufficientDriver")

    monkeypatch.setattr(native_module(), "facts", fails)
    device = SimpleNamespace(platform="gpu", local_hardware_id=0)
    found = jp.plan("lstm", 64, 8, "bfloat16", device)
    says = "reference: CUDA can't be used: cudaSetDevice: cudaErrorInsufficientDriver"
    assert str(found) == says


def test_a_gpu_without_a_compiler_says_so(monkeypatch) -> None:
    reason = "no NVRTC to compile the kernels with: libnvrtc.so.13: no such file"
    monkeypatch.setattr(cuda, "devices", lambda: [SimpleNamespace(local_hardware_id=0)])
    monkeypatch.setattr(native_module(), "missing", {"CUDA": reason}.__getitem__)
    assert str(jp.plan("lstm", 64, 8, "bfloat16", "cuda")) == f"reference: {reason}"


def test_float32_keeps_fewer_weights_in_registers_than_tf32() -> None:
    precise = jp.plan("lstm", 1024, 8, "float32", "sm_90").details
    with jax.default_matmul_precision("tensorfloat32"):
        quick = jp.plan("lstm", 1024, 8, "float32", "sm_90").details
    assert precise is not None
    assert quick is not None
    assert precise["backward"]["shared_chunks"] == 18
    assert quick["backward"]["shared_chunks"] * quick["backward"]["width"] == 16


def test_the_exchange_can_be_chosen(monkeypatch) -> None:
    monkeypatch.setenv(cuda.EXCHANGE, "grid")
    assert jp.plan("lstm", 512, 4, "bfloat16", "sm_90").residency == "grid, registers"
    monkeypatch.setenv(cuda.EXCHANGE, "cluster")
    assert jp.plan("lstm", 512, 4, "bfloat16", "sm_90").residency == "cluster, registers"
    found = jp.plan("lstm", 512, 4, "bfloat16", "sm_80")
    assert str(found) == "reference: sm_80 has no clusters"
    monkeypatch.setenv(cuda.EXCHANGE, "L2")
    with pytest.raises(ValueError, match=r"JAX_PERSISTENT_CUDA_EXCHANGE: expected one of .*'L2'"):
        jp.plan("lstm", 512, 4, "bfloat16", "sm_90")


def test_a_cpu_does_not_ask_how_gpus_exchange(monkeypatch) -> None:
    run = jax.jit(jax.grad(lambda x: jp.elman(x, x[0], x[0], backend="native")[0].sum()))
    expected = run(jax.numpy.ones((2, 3, 3)))
    jax.clear_caches()
    monkeypatch.setenv(cuda.EXCHANGE, "L2")
    assert (run(jax.numpy.ones((2, 3, 3))) == expected).all()
    assert jp.plan("lstm", 64, 8, "float32", "cpu").backend == "native"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("lstm", 512, 4, "bfloat16", "sm_75"), "no kernels for this GPU's architecture"),
        (
            ("elman", 40000, 4, "bfloat16", "sm_90"),
            "H = 40000: 132 SMs have room for 16896 units",
        ),
        (
            ("lstm", 3000, 4, "float32", "sm_86"),
            "125 MiB of weights would be read from memory at every step: registers and shared "
            "memory hold the rest, L2 only 6 MiB",
        ),
        (
            ("gru", 64, 4, "float64", "cuda"),
            "no cuda kernel for float64; there is one for float32, bfloat16 and float16",
        ),
        (
            ("gru", 64, 4, "float16", "cpu"),
            "no cpu kernel for float16; there is one for float32 and bfloat16",
        ),
        (("gru", 64, 4, "float32", "tpu"), "no kernel for platform 'tpu'; there are for cpu, cuda"),
    ],
)
def test_why_there_is_no_kernel(arguments: tuple, reason: str) -> None:
    found = jp.plan(*arguments)
    assert found == jp.plan(*arguments)
    assert (found.backend, found.residency, found.workers) == ("reference", None, None)
    assert str(found) == f"reference: {reason}"


def test_backward_alone_may_have_no_kernel() -> None:
    found = jp.plan("lstm", 1920, 8, "float32", "sm_80")
    assert (found.backend, found.residency) == ("native", "grid, L2")
    assert ". Backward runs as the reference: 41 MiB of weights would be read" in str(found)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("cell", GATES)
def test_the_cpu(cell: str, dtype: str, width: int) -> None:
    found = jp.plan(cell, 100, 3, dtype, "cpu")
    assert found.backend == "native"
    assert found.packed_bytes >= GATES[cell] * 100 * 100 * width
    assert found.residency in ("L2", "L3", "memory")
    assert found == jp.plan(cell, 100, 3, dtype, jax.devices("cpu")[0])
    assert found.details is not None
    among = "for each of" if found.details["forward"]["splits_batch"] else "over"
    assert str(found).startswith(
        f"native: {found.packed_bytes >> 10} KiB of packed weights {among} {found.workers} worker"
    )


def test_a_cpu_keeps_no_weights_for_a_single_step() -> None:
    two, one = (jp.plan("lstm", 256, 64, "float32", "cpu", steps) for steps in (2, 1))
    assert one.workers == two.workers
    assert "a single step" not in str(two)
    assert "a single step" in str(one)
    assert one.residency == "memory"
    # 64 rows of 256 at a time.
    assert one.packed_bytes == two.packed_bytes * 64 // 256


def test_a_cpu_packs_no_weights_for_a_few_steps_of_a_few_rows() -> None:
    few, many = (jp.plan("gru", 512, 4, "float32", "cpu", steps) for steps in (10, 11))
    assert (few.backend, few.packed_bytes) == ("native", 0)
    assert "read where they lie: so few rows and steps do not repay packing" in str(few)
    assert "KiB of packed weights" in str(many)


def test_a_few_steps_of_some_rows_run_as_the_reference() -> None:
    found = jp.plan("lstm", 512, 32, "float32", "cpu", 2)
    assert (found.backend, found.residency) == ("reference", None)
    assert "T = 2 and B = 32 don't repay the packing of 1024 KiB" in str(found)
    for batch, steps in ((32, 3), (16, 2), (65, 1), (16, 1)):
        assert jp.plan("lstm", 512, batch, "float32", "cpu", steps).backend == "native"
    assert jp.plan("lstm", 512, 32, "float32", "sm_90", 2).backend == "native"
