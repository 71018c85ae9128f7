"""How a primitive becomes a program: a native call where there is a kernel, else the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import Array

from jax_persistent.ffi import call
from jax_persistent.ffi.sharding import partitioned, register
from jax_persistent.ops import reference
from jax_persistent.ops.cells import CELLS
from jax_persistent.ops.operands import (
    NO_INPUTS,
    RESULTS,
    dims,
    per_group,
    result_avals,
    run_reference,
    unflatten,
)
from jax_persistent.ops.spec import Backward, Gradients, Problem, Projected, Result, Spec

_TARGETS = {Problem: call.FORWARD, Backward: call.BACKWARD}
_KINDS = {kind.__name__: kind for kind in (Problem, Projected, Backward)}


def native(
    platform: str,
    kind: type,
    function: Callable[[Spec, Any], Any],
    *flat: Array,
    spec: Spec,
    without: Sequence[str] = (),
) -> list[Array]:
    """The kernel, or the reference where there is none and the caller left us the choice."""
    operands = unflatten(kind, spec, flat, without)
    (groups, hidden, _), dtype = operands.recurrent_kernel.shape, operands.recurrent_kernel.dtype
    batch, target = operands.lengths.shape[1], _TARGETS[kind]
    sizes = call.Sizes(spec.cell.name, target, dtype, groups, batch, hidden, spec.tf32)
    reason = call.refusal(platform, sizes)
    if reason is None:
        run = _ON_CUDA[kind] if platform == "cuda" else _call
        return jax.tree.leaves(run(platform, target, operands, spec, without))
    if spec.backend == "native":
        message = f"backend='native': {reason}. Use backend=None or 'reference'"
        raise NotImplementedError(message)
    return run_reference(kind, function, *flat, spec=spec, without=without)


def elsewhere(
    kind: type,
    function: Callable[[Spec, Any], Any],
    *flat: Array,
    spec: Spec,
    without: Sequence[str] = (),
) -> list[Array]:
    """The same on platforms that have no kernels."""
    if spec.backend == "native":
        raise NotImplementedError(
            "backend='native': no kernel for this platform; kernels exist for "
            f"{', '.join(call.PLATFORMS)}. Use backend=None or 'reference'"
        )
    return run_reference(kind, function, *flat, spec=spec, without=without)


# XLA's own products are fast on a GPU, and free to become part of others there.


def _forward_on_cuda(
    platform: str, target: str, problem: Problem, spec: Spec, without: Sequence[str]
) -> Result:
    projected = per_group(reference.projected, spec, problem)
    return _call(platform, target, projected, spec, without)


def _backward_on_cuda(
    platform: str, target: str, operands: Backward, spec: Spec, without: Sequence[str]
) -> Gradients:
    kernel, rest = operands.input_kernel, operands._replace(input_kernel=None)
    gradients = _call(platform, target, rest, spec, sorted({*without, *NO_INPUTS}))
    if kernel is None:
        return gradients
    d_x = per_group(
        lambda _, both: reference.input_gradient(*both), spec, (gradients.d_gates_x, kernel)
    )
    return gradients._replace(d_x=d_x)


_ON_CUDA: dict[type, Callable[..., Any]] = {Problem: _forward_on_cuda, Backward: _backward_on_cuda}


def _call(platform: str, target: str, operands: Any, spec: Spec, without: Sequence[str]) -> Any:
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
        "exchange": call.cuda_exchange(),
    }
    both = dims(kind, spec, without), dims(RESULTS[kind], spec, without)
    results = partitioned("recurrence", static, *both)(*jax.tree.leaves(operands))
    return unflatten(RESULTS[kind], spec, results, without)


def _kernel(static: Mapping[str, Any], *local: Array) -> list[Array]:
    """The custom call, on the whole problem or on one device's part of it."""
    spec = Spec(CELLS[static["cell"]], static["reverse"], static["time_major"])
    kind = _KINDS[static["operands"]]
    shapes = result_avals(kind, [jax.typeof(a) for a in local], spec, static["without"])
    attributes = call.attributes(static["platform"], static)
    return call.kernel_call(static["target"], local, shapes, attributes)


register("recurrence", _kernel)
