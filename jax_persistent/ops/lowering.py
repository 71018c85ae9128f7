# SPDX-License-Identifier: Apache-2.0
"""How a primitive becomes a program: a kernel where a backend has one, else the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jax_persistent import compat, notices
from jax_persistent.backends import reference, registry
from jax_persistent.backends.base import Backend
from jax_persistent.ffi import sharding
from jax_persistent.problem import Problem

HOW_TO_FIX = "Use backend=None or 'reference'"


def register(primitive: Primitive, in_parts: Callable[..., list[Array]] | None = None) -> None:
    """Gives a primitive its lowering for every platform.

    Args:
      primitive: its parameter is a problem, its operands and results are the problem's.
      in_parts: for a backward pass: the same with the sums of the weights' gradients apart, which
        go over the batch; they are XLA's where it may split that, and where a backend has none.
    """

    def elsewhere(*flat: Array, problem: Problem) -> list[Array]:
        known = ", ".join(registry.platforms())
        reason = f"no kernel for this platform; kernels exist for {known}"
        if problem.backend == "native":
            raise NotImplementedError(f"backend='native': {reason}. {HOW_TO_FIX}")
        notices.warn(_what(problem), reason)
        return reference.run(problem, flat)

    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=True))

    def register_platform(backend: Backend) -> None:
        def rule(ctx: Any, *operands: Any, problem: Problem) -> Any:
            is_split = compat.is_split_by_xla(ctx)
            apart = is_split or not backend.sums_weight_gradients
            if problem.has("d_weights") and in_parts is not None and apart:
                return _lowered(ctx, operands, lambda *flat: in_parts(problem, *flat))
            if is_split:
                _check_smallest_part(backend, problem)
                return sharding.split_call(ctx, backend.platform, problem, operands)
            return _lowered(ctx, operands, lambda *flat: _on_device(backend, problem, flat))

        mlir.register_lowering(primitive, rule, platform=backend.platform)

    registry.for_each(register_platform)


def register_reference(primitive: Primitive) -> None:
    """Gives a primitive the reference as its lowering on every platform."""

    def run(*flat: Array, problem: Problem) -> list[Array]:
        return reference.run(problem, flat)

    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=True))


def why_reference(backend: Backend, problem: Problem) -> str | None:
    """Why a problem of one device runs as the reference; None if it runs on a kernel.

    Raises NotImplementedError where there is no kernel and the caller asks for one.
    """
    reason = backend.refusal(problem)
    if reason is not None and problem.backend == "native":
        raise NotImplementedError(f"backend='native': {reason}. {HOW_TO_FIX}")
    if reason is None and problem.backend is None:
        reason = backend.slower_than_reference(problem)
    return reason


def _on_device(backend: Backend, problem: Problem, flat: Sequence[Array]) -> list[Array]:
    reason = why_reference(backend, problem)
    if reason is None:
        return problem.flat_results(backend.call(problem, problem.arrays(flat)))
    by_choice = backend.slower_than_reference(problem) or backend.refusal_of_dtype(problem)
    say = notices.warn if by_choice is None else notices.inform
    say(_what(problem), reason)
    return reference.run(problem, flat)


def _what(problem: Problem) -> str:
    return f"jax_persistent.{problem.pass_} ({problem.cell.name}) runs as a lax.scan"


def _check_smallest_part(backend: Backend, problem: Problem) -> None:
    """Raises where no split gives a device a problem that there is a kernel for.

    What each device has is known only once XLA splits the program.
    """
    why_reference(backend, replace(problem, groups=1, batch=1))


def _lowered(ctx: Any, operands: Sequence[Any], function: Callable[..., Any]) -> Any:
    return mlir.lower_fun(function, multiple_results=True)(ctx, *operands)


def _program(platform: str, problem: Problem, *flat: Array) -> list[Array]:
    return _on_device(registry.backend_of(platform), problem, flat)


sharding.split_by(_program)
