"""How a primitive becomes a program: a native call where there is a kernel, else the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.interpreters import mlir

from jax_persistent import compat, notices
from jax_persistent.ffi import call
from jax_persistent.ffi.sharding import partitioned, register
from jax_persistent.ops import reference
from jax_persistent.ops.cells import CELLS
from jax_persistent.ops.operands import (
    NO_INPUTS,
    NO_WEIGHTS,
    RESULTS,
    dims,
    per_group,
    result_avals,
    run_reference,
    unflatten,
)
from jax_persistent.ops.spec import (
    Backward,
    BackwardSteps,
    Problem,
    Projected,
    Result,
    Spec,
    StepGradients,
)

Function = Callable[[Spec, Any], Any]
Without = Sequence[str]

_TARGETS = {Problem: call.FORWARD, Backward: call.BACKWARD, BackwardSteps: call.BACKWARD}
_KINDS = {kind.__name__: kind for kind in (Problem, Projected, Backward, BackwardSteps)}


def register_lowerings(primitive: Any, kind: type, function: Function) -> None:
    """Lowers a primitive whose operands are a `kind`; `function` is what it computes."""
    elsewhere = partial(_elsewhere, kind, function)
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=True))
    for platform in call.PLATFORMS:
        native = partial(_native, platform, kind, function)
        rule = mlir.lower_fun(native, multiple_results=True)
        mlir.register_lowering(primitive, rule, platform=platform)


def register_backward(primitive: Any, in_parts: Callable[..., list[Array]]) -> None:
    """Lowers the whole backward pass, which only a CPU does in one call.

    Sums of the weights' gradients go over the batch: they are XLA's where it may split that. Where
    nobody wants them, the steps are all there is.

    Args:
      in_parts: the same from a primitive for the steps; takes (spec, without, *operands).
    """

    def parts(*flat: Array, spec: Spec, without: Without) -> list[Array]:
        return in_parts(spec, without, *flat)

    def on_cpu(ctx: Any, *flat: Any, spec: Spec, without: Without) -> Any:
        whole = partial(_native, "cpu", Backward, reference.backward)
        in_one_call = set(NO_WEIGHTS).isdisjoint(without) and not compat.is_split_by_xla(ctx)
        run = mlir.lower_fun(whole if in_one_call else parts, multiple_results=True)
        return run(ctx, *flat, spec=spec, without=without)

    mlir.register_lowering(primitive, mlir.lower_fun(parts, multiple_results=True))
    mlir.register_lowering(primitive, on_cpu, platform="cpu")


def _native(
    platform: str, kind: type, function: Function, *flat: Array, spec: Spec, without: Without
) -> list[Array]:
    """The kernel, or the reference where there is none or none that is faster.

    Raises NotImplementedError where there is none and the caller asks for one.
    """
    operands = unflatten(kind, spec, flat, without)
    (groups, hidden, _), dtype = operands.recurrent_kernel.shape, operands.recurrent_kernel.dtype
    batch, target = operands.lengths.shape[1], _TARGETS[kind]
    steps = next(a for a in flat if a.ndim == 4).shape[1 + spec.time_axis]
    sizes = call.Sizes(spec.cell.name, target, dtype, groups, batch, hidden, steps, spec.tf32)
    reason = call.refusal(platform, sizes)
    by_choice = call.refusal_of_dtype(platform, dtype) is not None
    if reason is None and spec.backend is None:
        reason = call.slower_than_reference(platform, sizes)
        by_choice = reason is not None
    if reason is None:
        run = _ON_CUDA[kind] if platform == "cuda" else _call
        return jax.tree.leaves(run(platform, target, operands, spec, without))
    if spec.backend == "native":
        message = f"backend='native': {reason}. Use backend=None or 'reference'"
        raise NotImplementedError(message)
    say = notices.inform if by_choice else notices.warn
    say(f"{target} ({spec.cell.name}) runs as a lax.scan", reason)
    return run_reference(kind, function, *flat, spec=spec, without=without)


def _elsewhere(
    kind: type, function: Function, *flat: Array, spec: Spec, without: Without
) -> list[Array]:
    """The same on platforms that have no kernels."""
    reason = f"no kernel for this platform; kernels exist for {', '.join(call.PLATFORMS)}"
    if spec.backend == "native":
        message = f"backend='native': {reason}. Use backend=None or 'reference'"
        raise NotImplementedError(message)
    notices.warn(f"{_TARGETS[kind]} ({spec.cell.name}) runs as a lax.scan", reason)
    return run_reference(kind, function, *flat, spec=spec, without=without)


# XLA's own products are fast on a GPU, and free to become part of others there.


def _forward_on_cuda(
    platform: str, target: str, problem: Problem, spec: Spec, without: Without
) -> Result:
    projected = per_group(reference.projected, spec, problem)
    return _call(platform, target, projected, spec, without)


def _steps_on_cuda(
    platform: str, target: str, operands: BackwardSteps, spec: Spec, without: Without
) -> StepGradients:
    kernel, rest = operands.input_kernel, operands._replace(input_kernel=None)
    gradients = _call(platform, target, rest, spec, NO_INPUTS)
    if kernel is None:
        return gradients
    d_x = per_group(
        lambda _, both: reference.input_gradient(*both), spec, (gradients.d_gates_x, kernel)
    )
    return gradients._replace(d_x=d_x)


_ON_CUDA: dict[type, Callable[..., Any]] = {
    Problem: _forward_on_cuda,
    BackwardSteps: _steps_on_cuda,
}


def _call(platform: str, target: str, operands: Any, spec: Spec, without: Without) -> Any:
    kind = type(operands)
    static = {
        "platform": platform,
        "target": target,
        "operands": kind.__name__,
        "without": list(without),
        "cell": spec.cell.name,
        "reverse": spec.reverse,
        "time_major": spec.time_major,
        "tf32": spec.tf32,
        "exchange": call.cuda_exchange() if platform == "cuda" else "",
        "d_x": "d_x" not in without,
        "d_weights": kind is Backward,
    }
    both = dims(kind, spec, without), dims(RESULTS[kind], spec, without)
    results = partitioned("recurrence", static, *both)(*jax.tree.leaves(operands))
    return unflatten(RESULTS[kind], spec, results, without)


def _kernel(static: Mapping[str, Any], *local: Array) -> list[Array]:
    """The custom call, on the whole problem or on one device's part of it."""
    spec = Spec(CELLS[static["cell"]], static["reverse"], static["time_major"])
    kind = _KINDS[static["operands"]]
    shapes = result_avals(kind, [jax.typeof(a) for a in local], spec, static["without"])
    attributes = call.attributes(static["platform"], static["target"], static)
    return call.kernel_call(static["target"], local, shapes, attributes)


register("recurrence", _kernel)
