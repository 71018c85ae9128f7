# SPDX-License-Identifier: Apache-2.0
"""How a primitive becomes a program: a kernel where a backend has one, else the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jax import Array
from jax.export import is_symbolic_dim
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jax_persistent import compat, notices
from jax_persistent.backends import reference, registry
from jax_persistent.backends.base import Backend
from jax_persistent.ffi import sharding
from jax_persistent.problem import Problem, joining

_KIND = "recurrence"  # of the calls that XLA splits


def register(primitive: Primitive, in_parts: Callable[..., list[Array]] | None = None) -> None:
    """Gives a primitive its lowering for every platform.

    Args:
      primitive: its parameter is a problem, its operands and results are the problem's.
      in_parts: for a backward pass: a function of (problem, *operands) with the same results, in
        which XLA sums the weights' gradients over the batch. It is taken where XLA may split the
        batch, and for backends that don't sum them.
    """

    def elsewhere(*flat: Array, problem: Problem) -> list[Array]:
        if problem.backend != "reference" and problem.packed_lanes:
            raise unreadable("no kernel of this platform reads them")
        if problem.backend != "reference":
            known = ", ".join(registry.platforms())
            _fall_back(problem, f"no kernel for this platform; kernels exist for {known}")
        return reference.run(problem, flat)

    def bind(problem: Problem, flat: Sequence[Array]) -> list[Array]:
        return primitive.bind(*flat, problem=problem)

    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=True))

    def register_platform(backend: Backend) -> None:
        def rule(ctx: Any, *operands: Any, problem: Problem) -> Any:
            def lowered(function: Callable[..., Any]) -> Any:
                return mlir.lower_fun(function, multiple_results=True)(ctx, *operands)

            if problem.backend == "reference":
                return lowered(lambda *flat: reference.run(problem, flat))
            if problem.weights != "one" and not backend.takes_weights_apart:
                return lowered(lambda *flat: joining.joined(problem, flat, bind))
            is_split = compat.is_split_by_xla(ctx)
            apart = is_split or not backend.sums_weight_gradients
            if problem.has("d_weights") and in_parts is not None and apart:
                return lowered(lambda *flat: in_parts(problem, *flat))
            if not is_split:
                return lowered(lambda *flat: _on_device(backend, problem, flat))
            unsplit = compat.lacking("splitting")
            if unsplit is None and any(map(is_symbolic_dim, problem.sizes())):
                unsplit = "a program that is split over devices has known sizes only"
            if unsplit is not None:
                if problem.packed_lanes:
                    raise unreadable(unsplit)
                _fall_back(problem, unsplit)
                return lowered(lambda *flat: reference.run(problem, flat))
            # What a device has is known only when XLA splits the program. One row of one layer is
            # the least; if even that is refused, now is the time to say so.
            chosen(backend, replace(problem, groups=len(problem.ways), batch=1))
            what = {
                "pass": problem.pass_,
                "backend": problem.backend,
                "problem": problem.encoded(),
            }
            dims = [
                [problem.dims_of(leaf) for leaf in leaves]
                for leaves in (problem.operands(), problem.results())
            ]
            to_split = backend.platform, what, problem.label
            return sharding.split_call(ctx, _KIND, *to_split, operands, *dims)

        mlir.register_lowering(primitive, rule, platform=backend.platform)

    registry.for_each(register_platform)


def register_reference(primitive: Primitive) -> None:
    """Gives a primitive the reference as its lowering on every platform."""

    def run(*flat: Array, problem: Problem) -> list[Array]:
        return reference.run(problem, flat)

    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=True))


def chosen(backend: Backend, problem: Problem) -> str | None:
    """Why one device's problem runs as the reference, which users are told; None for a kernel.

    Raises NotImplementedError where there is no kernel and the caller asks for one, and ValueError
    where packed kernels can't be read.
    """
    reason = backend.refusal(problem)
    if reason is not None and problem.packed_lanes:
        raise unreadable(reason)
    if reason is not None:
        _fall_back(problem, reason, by_choice=problem.dtype not in backend.dtypes)
    elif problem.backend is None:
        reason = backend.slower_than_reference(problem)
        if reason is not None:
            _fall_back(problem, reason, by_choice=True)
    return reason


def unreadable(reason: str) -> ValueError:
    """What is raised where a kernel that should read packed kernels can't."""
    return ValueError(
        f"packed kernels: expected those of the machine that runs them; {reason}. Call "
        "jax_persistent.pack where they are used, or pass the kernels themselves"
    )


def _fall_back(problem: Problem, reason: str, by_choice: bool = False) -> None:
    if problem.backend == "native":
        raise NotImplementedError(f"backend='native': {reason}. Use backend=None or 'reference'")
    say = notices.inform if by_choice else notices.warn
    say(f"jax_persistent.{problem.pass_} ({problem.cell.name}) runs as a lax.scan", reason)


def _on_device(backend: Backend, problem: Problem, flat: Sequence[Array]) -> list[Array]:
    if chosen(backend, problem) is not None:
        return reference.run(problem, flat)
    return problem.flat_results(backend.call(problem, problem.arrays(flat)))


def _program(platform: str, what: Mapping[str, Any], *flat: Array) -> list[Array]:
    whole = Problem.decoded(what["pass"], what["problem"], what["backend"])
    problem = whole.with_sizes_of([array.shape for array in flat])
    return _on_device(registry.backend_of(platform), problem, flat)


sharding.split_by(_KIND, _program)
