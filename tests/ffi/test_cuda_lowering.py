# SPDX-License-Identifier: Apache-2.0
"""Programs exported for CUDA, on any machine: which custom calls are in them, with which operands.

Nothing is compiled, and nothing runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct
from jax.export import DisabledSafetyCheck

import jax_persistent as jp
from jax_persistent.backends import cuda
from jax_persistent.ffi.call import TARGETS
from jax_persistent.ffi.registration import native_module

T, B, I, H = 5, 3, 4, 6  # noqa: E741


@dataclass(frozen=True)
class Cell:
    name: str  # the kernels'
    function: Any
    gates: int
    residuals: int
    states: int
    reset_after: bool = False


CELLS = {
    "lstm": Cell("lstm", jp.lstm, 4, 5, 2),
    "gru": Cell("gru", jp.gru, 3, 4, 1, reset_after=True),
    "elman": Cell("elman_tanh", jp.elman, 1, 0, 1),
    "elman-relu": Cell("elman_relu", partial(jp.elman, activation="relu"), 1, 0, 1),
}
DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
FLAGS = (
    {},
    {"time_major": True},
    {"reverse": True},
    {"reverse": True, "time_major": True},
)


class CustomCall(NamedTuple):
    """One in a program's text."""

    target: str
    attributes: dict[str, str]
    operands: list[str]  # as in 2x3xf32
    results: list[str]
    workspace: int | None  # bytes


def custom_calls(program: str) -> Iterator[CustomCall]:
    """Those of this package's targets, in order."""
    for line in program.splitlines():
        if found := re.search(r"custom_call @(jax_persistent\.\w+)", line):
            config = re.search(r"mhlo\.backend_config = \{([^}]*)\}", line)
            assert config is not None
            pairs = (pair.split(" = ") for pair in config.group(1).split(", "))
            operands, results = line.rsplit(" : (", 1)[1].split("->")
            types = [re.findall(r"tensor<([^>]+)>", side) for side in (operands, results)]
            has_workspace = types[1][-1].endswith("xui8")  # a device's; behind the results
            workspace = int(types[1].pop().removesuffix("xui8")) if has_workspace else None
            yield CustomCall(found.group(1), dict(pairs), *types, workspace)


@pytest.fixture(autouse=True)
def _with_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that can compile and run them."""
    monkeypatch.setattr(native_module(), "missing", lambda platform: "")
    monkeypatch.delenv(cuda.EXCHANGE, raising=False)


def arguments(cell: Cell, *, dtype: str = "float32", time_major: bool = False, hidden: int = H):
    """Types of x, W, R, the biases, the initial states and the lengths."""
    of = partial(ShapeDtypeStruct, dtype=jnp.dtype(dtype))
    columns = cell.gates * hidden
    biases = [of((columns,))] * (2 if cell.reset_after else 1)
    states = [of((B, hidden))] * cell.states
    return (
        of((T, B, I) if time_major else (B, T, I)),
        of((I, columns)),
        of((hidden, columns)),
        biases,
        tuple(states) if cell.states > 1 else states[0],
        ShapeDtypeStruct((B,), jnp.int32),
    )


def exported(function: Any, *operands: Any, platforms: tuple[str, ...] = ("cuda",)) -> str:
    trusted = [DisabledSafetyCheck.custom_call(name) for name in TARGETS.values()]
    export = jax.export.export(jax.jit(function), platforms=platforms, disabled_checks=trusted)
    return export(*operands).mlir_module()


def outputs_of(cell: Cell, **options: Any) -> Any:
    def outputs(x, w, r, biases, states, lengths):
        return cell.function(x, w, r, *biases, initial_state=states, lengths=lengths, **options)

    return outputs


def gradient_of(cell: Cell, **options: Any) -> Any:
    outputs = outputs_of(cell, **options)

    def loss(*operands):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(outputs(*operands)))

    return jax.grad(loss, argnums=tuple(range(5)))


class Types:
    """What the calls of a cell must have, as MLIR writes it."""

    def __init__(self, cell: Cell, dtype: str, time_major: bool) -> None:
        self.cell, self.element, self.time_major = cell, DTYPES[dtype], time_major
        columns = cell.gates * H
        self.outputs, self.gates = self.sequence(H), self.sequence(columns)
        self.residuals = [self.sequence(cell.residuals * H)] if cell.residuals else []
        self.states = [f"1x1x{B}x{H}x{self.element}"] * cell.states
        self.kernel = f"1x1x{H}x{columns}x{self.element}"
        self.bias = [f"1x1x{columns}x{self.element}"] if cell.reset_after else []
        self.lengths = f"1x{B}xi32"

    def sequence(self, features: int) -> str:
        rows = f"{T}x{B}" if self.time_major else f"{B}x{T}"
        return f"1x{rows}x1x{features}x{self.element}"

    def forward(self, *, keeps: bool, given: bool = True) -> tuple[list[str], list[str]]:
        optional = [*self.bias, self.lengths] if given else []
        operands = [self.gates, self.kernel, *optional, *self.states]
        return operands, [self.outputs, *self.states, *(self.residuals if keeps else [])]

    def backward(self) -> tuple[list[str], list[str]]:
        kept = [self.kernel, self.lengths, *self.states, self.outputs, *self.residuals]
        product = [self.gates] if self.cell.reset_after else []
        return [*kept, self.outputs, *self.states], [self.gates, *product, *self.states]


def attributes(cell: Cell, dtype: str = "float32", **changed: str) -> dict[str, str]:
    """All but the parts, which differ between the passes."""
    plain = {"directions": '"forward"', "weights": '"one"', "time_major": "false", "tf32": "false"}
    plain |= {"exchange": '""', "packed_lanes": "0 : i64"}
    sizes = {"groups": 1, "batch": B, "steps": T, "inputs": I, "hidden": H}
    typed = {name: f"{size} : i64" for name, size in sizes.items()}
    return {"cell": f'"{cell.name}"', "dtype": f'"{dtype}"', **typed, **plain, **changed}


def without_parts(found: CustomCall) -> CustomCall:
    rest = {name: value for name, value in found.attributes.items() if name != "parts"}
    return found._replace(attributes=rest)


KINDS = [("float32", flags) for flags in FLAGS]
KINDS += [("bfloat16", FLAGS[0]), ("float16", FLAGS[3])]


@pytest.mark.parametrize(("dtype", "flags"), KINDS)
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_gradient_is_two_calls(cell: Cell, dtype: str, flags: dict[str, bool]) -> None:
    time_major = flags.get("time_major", False)
    operands = arguments(cell, dtype=dtype, time_major=time_major)
    program = exported(gradient_of(cell, backend="native", **flags), *operands)
    forward, backward = custom_calls(program)
    types = Types(cell, dtype, time_major)
    directions = '"reverse"' if "reverse" in flags else '"forward"'
    layout = str(time_major).lower()
    given = attributes(cell, dtype, directions=directions, time_major=layout)
    expected = (TARGETS["forward"], given, *types.forward(keeps=True))
    assert without_parts(forward)[:4] == expected
    assert without_parts(backward)[:4] == (TARGETS["backward"], given, *types.backward())
    assert None not in (forward.workspace, backward.workspace)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_forward_pass_is_one_call_that_keeps_nothing(cell: Cell) -> None:
    (forward,) = custom_calls(exported(outputs_of(cell), *arguments(cell)))
    types = Types(cell, "float32", time_major=False)
    expected = (TARGETS["forward"], attributes(cell), *types.forward(keeps=False))
    assert without_parts(forward)[:4] == expected
    optional = "recurrent_bias " if cell.reset_after else ""
    assert forward.attributes["parts"] == f'"input_gates {optional}lengths"'


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_what_is_not_given_the_kernel_does_without(cell: Cell) -> None:
    """No bias and no lengths; but the initial state is zeros."""
    x, w, r, *_ = arguments(cell)
    (forward,) = custom_calls(exported(cell.function, x, w, r))
    types = Types(cell, "float32", time_major=False)
    assert forward[2:4] == types.forward(keeps=False, given=False)


@pytest.mark.parametrize(
    ("precision", "tf32"),
    [
        (None, "false"),
        ("highest", "false"),
        ("float32", "false"),
        ("tensorfloat32", "true"),
        ("high", "true"),
        ("bfloat16", "true"),
        ("TF32_TF32_F32", "true"),
    ],
)
def test_tf32_is_taken_where_jax_is_told_to(precision: str | None, tf32: str) -> None:
    cell = CELLS["gru"]
    with jax.default_matmul_precision(precision):
        found = list(custom_calls(exported(gradient_of(cell), *arguments(cell))))
    given = [without_parts(each).attributes for each in found]
    assert given == [attributes(cell, tf32=tf32)] * 2


@pytest.mark.parametrize("hidden", [6, 8])
def test_the_workspace_is_a_result(monkeypatch: pytest.MonkeyPatch, hidden: int) -> None:
    """Rows of 6 elements can't be read 16 bytes at a time: there are copies, in lines of 128."""
    monkeypatch.setenv(cuda.EXCHANGE, "grid")
    cell = CELLS["lstm"]
    found = custom_calls(exported(gradient_of(cell), *arguments(cell, hidden=hidden)))
    row = 8 * 4
    lines = {  # messages, and forward the initial states
        TARGETS["forward"]: math.ceil(T * B * row / 128) + math.ceil(B * row / 128),
        TARGETS["backward"]: math.ceil(T * B * row * cell.gates / 128),
    }
    for each in found:
        begins_on_a_line = 128 - 16
        padded = 128 * lines[each.target] + begins_on_a_line
        assert each.workspace == (padded if hidden == 6 else 0)


@pytest.mark.parametrize("exchange", ["grid", "grid-barrier", "cluster"])
def test_the_exchange_is_the_environments(monkeypatch, exchange: str) -> None:
    monkeypatch.setenv(cuda.EXCHANGE, exchange)
    cell = CELLS["lstm"]
    monkeypatch.setattr(cuda, "_facts_here", lambda: [facts_of("90")])
    found = list(custom_calls(exported(gradient_of(cell), *arguments(cell))))
    assert [each.attributes["exchange"] for each in found] == [f'"{exchange}"'] * 2


def test_an_unknown_exchange_is_an_error(monkeypatch) -> None:
    monkeypatch.setenv(cuda.EXCHANGE, "barrier")
    known = "JAX_PERSISTENT_CUDA_EXCHANGE: expected one of 'grid', 'grid-barrier', 'cluster', or"
    with pytest.raises(ValueError, match=f"{known} nothing; got 'barrier'"):
        exported(outputs_of(CELLS["gru"]), *arguments(CELLS["gru"]))


def facts_of(architecture: str) -> dict[str, int]:
    return native_module().architecture_facts("CUDA", architecture)


def refused(cell: Cell, reason: str, *operands: Any, function: Any = outputs_of) -> str:
    """The program of a call that has no kernel; with backend="native" an error that says why."""
    with pytest.raises(NotImplementedError, match=f"backend='native': {reason}.*backend=None or"):
        exported(function(cell, backend="native"), *operands)
    return exported(function(cell), *operands)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_what_no_gpu_holds_is_the_reference(cell: Cell) -> None:
    operands = arguments(cell, dtype="bfloat16", hidden=40000)
    program = refused(cell, r"H = 40000: \d+ SMs have room for \d+ units", *operands)
    assert not list(custom_calls(program))
    assert "stablehlo.while" in program


def test_float64_is_the_reference() -> None:
    cell = CELLS["lstm"]
    with jax.enable_x64(True):
        operands = arguments(cell, dtype="float64")
        program = refused(cell, "no cuda kernel for float64; there is one for", *operands)
    assert not list(custom_calls(program))
    assert "stablehlo.while" in program


def test_a_gpu_without_a_compiler_is_the_reference(monkeypatch) -> None:
    reason = "no NVRTC to compile the kernels with"
    monkeypatch.setattr(cuda, "devices", lambda: [SimpleNamespace(local_hardware_id=0)])
    monkeypatch.setattr(native_module(), "missing", lambda platform: reason)
    cell = CELLS["lstm"]
    program = refused(cell, reason, *arguments(cell))
    assert not list(custom_calls(program))


def test_backward_alone_may_have_no_kernel(monkeypatch) -> None:
    """Forward pads 1920 units of float32 to less than an A100's L2, backward to more."""
    monkeypatch.setattr(cuda, "_facts_here", lambda: [facts_of("80")])
    cell = CELLS["lstm"]
    operands = arguments(cell, hidden=1920)
    program = refused(cell, "41 MiB of weights .*L2 only 40 MiB", *operands, function=gradient_of)
    assert [each.target for each in custom_calls(program)] == [TARGETS["forward"]]


def test_one_program_for_both_platforms() -> None:
    cell = CELLS["gru"]
    operands = arguments(cell)
    program = exported(outputs_of(cell), *operands, platforms=("cpu", "cuda"))
    on_cpu, on_cuda = sorted(custom_calls(program), key=lambda each: len(each.attributes))
    of_cuda = attributes(cell)
    assert without_parts(on_cuda).attributes == of_cuda
    del of_cuda["exchange"]
    assert without_parts(on_cpu).attributes == of_cuda
    # A CPU's kernel takes x, W and the bias in place of what XLA makes of them for a GPU's.
    x, w, bias = f"1x{B}x{T}x{I}xf32", f"1x1x{I}x{3 * H}xf32", f"1x1x{3 * H}xf32"
    assert on_cpu.operands[:3] == [x, w, bias]
    assert on_cuda.operands[0] == f"1x{B}x{T}x1x{3 * H}xf32"
    assert on_cpu.operands[3:] == on_cuda.operands[1:]
