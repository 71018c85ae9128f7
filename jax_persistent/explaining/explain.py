# SPDX-License-Identifier: Apache-2.0
"""The public function `explain`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jax_persistent import notices
from jax_persistent.backends import registry
from jax_persistent.explaining.explanation import Explanation, Recurrence
from jax_persistent.explaining.walk import recurrences
from jax_persistent.programs import plan as scan_plans

_OF_SCANS = {"xs", "length", "lengths", "resets", "reverse"}


def explain(
    target: Callable[..., Any],
    *args: Any,
    device: jax.Device | str | None = None,
    **kwargs: Any,
) -> Explanation:
    """Says which recurrences of a call run on a kernel, where the weights live, what runs as a
    scan, and why; without running it.

        >>> print(jp.explain(loss, params, x))                  # a function
        >>> print(jp.explain(jax.grad(loss), params, x))        # and its gradient
        >>> print(jp.explain(model, jax.random.key(0), x))      # a linen module
        >>> print(jp.explain(model, x))                         # an nnx module
        >>> print(jp.explain(step, carry, xs))                  # a step of `jp.scan`

    The call is traced, under whatever transformations it contains, and its recurrences are looked
    up in what was traced. A function is taken for a step of `jp.scan` if `target(init, x)`, with
    the first of xs, returns a pair whose first part has the tree and the shapes of init, and has no
    recurrence in it. `jp.explain(jp.scan, step, carry, xs)` leaves no doubt.

    Args:
      target: a function; a linen module; an nnx module, or anything else that is called; a step.
      *args, **kwargs: of the call. Arrays may be `jax.ShapeDtypeStruct`s, and what is no array is
        passed on as it is. Those of a linen module are of its `apply`: its variables, or a key to
        make some with, then inputs. Those of a step are `jp.scan`'s: init, xs, length, lengths,
        resets, reverse.
      device: as for `jp.plan`: a device, a platform's name, or a GPU architecture such as "sm_90";
        the default device if not given.

    Returns:
      The explanation, of which `recurrences` are for programs to read.

    Raises:
      ValueError: the device is none.
      NotImplementedError: `backend="native"` in the call, and there is no kernel; at the earliest,
        as when the call is traced.
      Whatever the call raises while it is traced.
    """
    device = jax.default_backend() if device is None else device
    registry.named(device)  # raises for what is none
    call = _module_call(target, args, kwargs)
    if call is not None:
        return _of_call(*call, device)
    as_step = _as_step(target, args, kwargs)
    if isinstance(as_step, _Step) and not as_step.has_recurrences:
        return as_step.explained(device)
    try:
        return _of_call(target, args, kwargs, device)
    except Exception as error:
        if isinstance(as_step, _Step):
            return as_step.explained(device)
        error.add_note(f"jax_persistent.explain: it is no step of jp.scan either: {as_step}")
        raise


# --- calls


def _of_call(
    function: Callable[..., Any], args: Any, kwargs: Any, device: jax.Device | str
) -> Explanation:
    with notices.heard() as said:
        closed, arrays = _traced(function, args, kwargs)
    devices = {d for a in arrays if isinstance(a, jax.Array) for d in a.sharding.device_set}
    return Explanation(
        _name(device), recurrences(closed, device), tuple(said), max(len(devices), 1)
    )


def _name(device: jax.Device | str) -> str:
    return device if isinstance(device, str) else device.platform


def _traced(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
    """The jaxpr of a call, of whose arguments the arrays are traced; and these."""
    leaves, tree = jax.tree.flatten(_split((args, kwargs)))
    places = [n for n, leaf in enumerate(leaves) if _is_array(leaf)]

    def flat(*arrays: Any) -> list[Any]:
        given = list(leaves)
        for n, array in zip(places, arrays, strict=True):
            given[n] = array
        args, kwargs = _merged(jax.tree.unflatten(tree, given))
        return [leaf for leaf in jax.tree.leaves(function(*args, **kwargs)) if _is_array(leaf)]

    arrays = [leaves[n] for n in places]
    return jax.make_jaxpr(flat)(*arrays), arrays


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


# --- modules


def _flax(name: str) -> Any:
    """A part of flax, if the caller has it: else no argument is one of its modules."""
    return sys.modules.get(f"flax.{name}")


def _module_call(target: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any] | None:
    """A call of a module as one of a function, its arguments and keywords; None for others."""
    linen, nnx = _flax("linen"), _flax("nnx")
    if linen is not None and isinstance(target, linen.Module):
        if not args:
            raise TypeError(
                "explain: expected a linen module's variables, or a key to make some with, and its "
                "inputs; got neither"
            )
        first, *inputs = args
        if not isinstance(first, Mapping):
            first = _variables(target, first, inputs, kwargs)
        return target.apply, (first, *inputs), kwargs
    if nnx is not None and isinstance(target, nnx.Module):
        return (lambda module, *given, **how: module(*given, **how)), (target, *args), kwargs
    return None


def _variables(module: Any, key: Any, inputs: Any, kwargs: Any) -> Any:
    """The types of a linen module's variables."""
    how = {name: value for name, value in kwargs.items() if name not in ("mutable", "rngs")}
    types: list[Any] = []

    def made(*given: Any, **how: Any) -> Any:
        variables = module.init(*given, **how)
        types.append(jax.eval_shape(lambda: variables))
        return variables

    _traced(made, (key, *inputs), how)
    return types[0]


class _Split:
    """An nnx module among arguments, as a tree of arrays."""

    def __init__(self, graph: Any, state: Any) -> None:
        self.graph, self.state = graph, state


jax.tree_util.register_pytree_node(
    _Split, lambda s: ((s.state,), s.graph), lambda graph, children: _Split(graph, children[0])
)


def _split(tree: Any) -> Any:
    nnx = _flax("nnx")
    if nnx is None:
        return tree
    kinds = (nnx.Module, nnx.Optimizer, nnx.Rngs)
    return jax.tree.map(
        lambda leaf: _Split(*nnx.split(leaf)) if isinstance(leaf, kinds) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, kinds),
    )


def _merged(tree: Any) -> Any:
    is_split = lambda leaf: isinstance(leaf, _Split)  # noqa: E731
    merge = lambda leaf: _flax("nnx").merge(leaf.graph, leaf.state) if is_split(leaf) else leaf  # noqa: E731
    return jax.tree.map(merge, tree, is_leaf=is_split)


# --- steps of scans


class _Step:
    """A call read as one of `scan`."""

    def __init__(self, f: Any, init: Any, xs: Any, how: dict[str, Any], inner: Any) -> None:
        self.f, self.init, self.xs, self.how = f, init, xs, how
        self.has_recurrences = bool(recurrences(inner, "none"))

    def explained(self, device: jax.Device | str) -> Explanation:
        backend = registry.named(device)
        if backend is None:
            plan = registry.without_kernels(device)
        else:
            plan = scan_plans.of_step(self.f, self.init, self.xs, backend, device, **self.how)
        first = next(a for a in jax.tree.leaves(self.init) if hasattr(a, "shape"))
        rows, units = (first.shape[:-1] or (1,))[-1], (first.shape or (1,))[-1]
        steps = _steps(self.xs, self.how.get("length"))
        sizes = {"T": steps, "B": rows, "H": units}
        name = f"scan {units} forward"
        found = Recurrence(name, plan, sizes, first.dtype.name, _source(self.f))
        return Explanation(_name(device), (found,))


def _steps(xs: Any, length: Any) -> Any:
    arrays = jax.tree.leaves(xs)
    return np.shape(arrays[0])[0] if arrays else length


def _source(f: Any) -> str | None:
    code = getattr(f, "__code__", None)
    if code is None:
        return None
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno} ({f.__name__})"


def _as_step(target: Any, args: Any, kwargs: Any) -> _Step | str:
    """The call as one of `scan`, or why it is none."""
    if not 1 <= len(args) <= 3 or not kwargs.keys() <= _OF_SCANS:
        return "it takes init, xs and length, and no other arguments"
    how = dict(zip(("init", "xs", "length"), args, strict=False)) | kwargs
    init, xs = how.pop("init"), how.pop("xs", None)
    arrays = jax.tree.leaves((init, xs))
    if not jax.tree.leaves(init) or not all(map(_is_array, arrays)):
        return "init and xs are trees of arrays"
    if any(np.shape(a)[:1] in ((), (0,)) for a in jax.tree.leaves(xs)):
        return "xs have steps"
    types = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (init, xs))
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), types[1])
    after: list[Any] = []

    def call(carry: Any, x: Any) -> Any:
        result = target(carry, x)
        is_pair = isinstance(result, (tuple, list)) and len(result) == 2
        after.append(jax.tree.map(np.shape, result[0]) if is_pair else None)
        return result

    try:
        closed, _ = _traced(call, (types[0], one), {})
    except Exception as error:  # whatever it is, the call is none of a step
        return f"{type(error).__name__}: {error}"
    if after[0] != jax.tree.map(np.shape, init):
        return "it returns no pair of a carry like init and a y"
    return _Step(target, init, xs, how, closed)
