# SPDX-License-Identifier: Apache-2.0
"""A call read as one of `scan`: (step, init, xs)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jax_persistent.backends import registry
from jax_persistent.explaining.calls import is_array, traced
from jax_persistent.explaining.explanation import Explanation, Recurrence, name_of
from jax_persistent.explaining.walk import recurrences
from jax_persistent.programs import plan as scan_plans

_OF_SCANS = {"xs", "length", "lengths", "resets", "reverse"}


class StepCall:
    """A call read as one of `scan`."""

    def __init__(self, f: Any, init: Any, xs: Any, how: dict[str, Any], inner: Any) -> None:
        self.f, self.init, self.xs, self.how = f, init, xs, how
        self.has_recurrences = bool(recurrences(inner, "tpu"))  # where nothing has to be planned

    def explained(self, device: jax.Device | str) -> Explanation:
        backend = registry.named(device)
        if backend is None:
            plan = registry.without_kernels(device)
        else:
            plan = scan_plans.of_step(self.f, self.init, self.xs, backend, device, **self.how)
        first = max(jax.tree.leaves(_types(self.init)), key=lambda a: (a.ndim, a.size))
        rows, units = (first.shape[:-1] or (1,))[-1], (first.shape or (1,))[-1]
        steps = _steps(self.xs, self.how.get("length"))
        sizes = {"T": steps, "B": rows, "H": units}
        name = (plan.details or {}).get("name", "lax.scan")  # the latter where it has no program
        found = Recurrence(name, plan, sizes, first.dtype.name, _source(self.f))
        return Explanation(name_of(device), (found,))


def _types(tree: Any) -> Any:
    return jax.eval_shape(lambda tree: tree, tree)


def _steps(xs: Any, length: Any) -> Any:
    arrays = jax.tree.leaves(xs)
    return np.shape(arrays[0])[0] if arrays else length


def _source(f: Any) -> str | None:
    code = getattr(f, "__code__", None)
    if code is None:
        return None
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno} ({f.__name__})"


def as_step(target: Any, args: Any, kwargs: Any) -> StepCall | str:
    """The call as one of `scan`, or why it is none."""
    if not 1 <= len(args) <= 3 or not kwargs.keys() <= _OF_SCANS:
        return "it takes init, xs and length, and no other arguments"
    how = dict(zip(("init", "xs", "length"), args, strict=False)) | kwargs
    init, xs = how.pop("init"), how.pop("xs", None)
    arrays = jax.tree.leaves((init, xs))
    numbers = (bool, int, float, complex)
    if not jax.tree.leaves(init) or not all(is_array(a) or isinstance(a, numbers) for a in arrays):
        return "init and xs are trees of arrays"
    if any(np.shape(a)[:1] in ((), (0,)) for a in jax.tree.leaves(xs)):
        return "xs have steps"
    types = _types((init, xs))
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), types[1])
    after: list[Any] = []

    def call(carry: Any, x: Any) -> Any:
        result = target(carry, x)
        is_pair = isinstance(result, (tuple, list)) and len(result) == 2
        after.append(jax.tree.map(np.shape, result[0]) if is_pair else None)
        return result

    try:
        closed, _ = traced(call, (types[0], one), {})
    except Exception as error:  # whatever it is, the call is none of a step
        return f"{type(error).__name__}: {error}"
    if after[0] != jax.tree.map(np.shape, init):
        return "it returns no pair of a carry like init and a y"
    return StepCall(target, init, xs, how, closed)
