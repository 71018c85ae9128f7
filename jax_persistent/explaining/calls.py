# SPDX-License-Identifier: Apache-2.0
"""A call as a jaxpr: of a function, of a linen module by its variables, of an nnx module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def traced(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
    """The jaxpr of a call, of whose arguments the arrays are traced; and these."""
    leaves, tree = jax.tree.flatten(_split((args, kwargs)))
    places = [n for n, leaf in enumerate(leaves) if is_array(leaf)]

    def flat(*arrays: Any) -> list[Any]:
        given = list(leaves)
        for n, array in zip(places, arrays, strict=True):
            given[n] = array
        args, kwargs = _merged(jax.tree.unflatten(tree, given))
        return [leaf for leaf in jax.tree.leaves(function(*args, **kwargs)) if is_array(leaf)]

    arrays = [leaves[n] for n in places]
    return jax.make_jaxpr(flat)(*arrays), arrays


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def _flax(name: str) -> Any:
    """A part of flax, if the caller has it: else no argument is one of its modules."""
    return sys.modules.get(f"flax.{name}")


def module_call(target: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any] | None:
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

    traced(made, (key, *inputs), how)
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
