"""A primitive's operands and results: flat lists outside, named trees inside.

All have a leading axis N of independent groups, each with its own weights. What a cell has not, and
what a call goes `without`, is None in the tree and not in the list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent import compat
from jax_persistent.ops.spec import (
    Backward,
    BackwardSteps,
    Gradients,
    Problem,
    Projected,
    Result,
    Spec,
    StepGradients,
    Tangent,
)

# The optional parts of a call.
NO_SAVED = ("saved",)
NO_INPUTS = ("d_x", "input_kernel")
NO_WEIGHTS = ("d_bias", "d_input_kernel", "d_recurrent_bias", "d_recurrent_kernel", "x")

RESULTS = {
    Problem: Result,
    Projected: Result,
    Tangent: Result,
    Backward: Gradients,
    BackwardSteps: StepGradients,
}

# Dimensions by the name of a field: n groups, b batch, t time; i, h, g and s count features.
_DIMS = {
    **dict.fromkeys(("x", "d_x"), "n b t i"),
    **dict.fromkeys(("input_kernel", "d_input_kernel"), "n i g"),
    **dict.fromkeys(("gates_x", "d_gates_x", "d_product"), "n b t g"),
    **dict.fromkeys(("outputs", "d_outputs"), "n b t h"),
    "saved": "n b t s",
    **dict.fromkeys(("recurrent_kernel", "d_recurrent_kernel"), "n h g"),
    **dict.fromkeys(("bias", "d_bias", "recurrent_bias", "d_recurrent_bias"), "n g"),
    "lengths": "n b",
    **dict.fromkeys(("initial", "final", "d_initial", "d_final"), "n b h"),
}
_PER_STATE = {"initial", "final", "d_initial", "d_final"}
_OF_SEPARATE_PRODUCT = {"recurrent_bias", "d_recurrent_bias", "d_product"}


def _tree(kind: Any, spec: Spec, without: Sequence[str]) -> Any:
    """A `kind` whose leaves are the names of their fields."""
    cell = spec.cell
    absent = set(without)
    if not cell.separate_recurrent_gradient:
        absent |= _OF_SEPARATE_PRODUCT
    if not cell.saved:
        absent.add("saved")
    return kind(
        **{
            name: None
            if name in absent
            else (name,) * len(cell.states)
            if name in _PER_STATE
            else name
            for name in kind._fields
        }
    )


def unflatten(kind: type, spec: Spec, leaves: Any, without: Sequence[str] = ()) -> Any:
    return jax.tree.unflatten(jax.tree.structure(_tree(kind, spec, without)), leaves)


def names(kind: type, spec: Spec, without: Sequence[str] = ()) -> list[str]:
    return jax.tree.leaves(_tree(kind, spec, without))


def dims(kind: type, spec: Spec, without: Sequence[str] = ()) -> list[str]:
    """The dimensions of each leaf, in the order in which they are in memory."""
    return [" ".join(dims_of(name, spec)) for name in names(kind, spec, without)]


def dims_of(name: str, spec: Spec) -> list[str]:
    found = _DIMS[name]
    return (found.replace("b t", "t b") if spec.time_major else found).split()


def result_avals(
    kind: type, avals: Sequence[Any], spec: Spec, without: Sequence[str] = ()
) -> list[Any]:
    """The types of the results of a call with operands `kind`."""
    given = names(kind, spec, without)
    operands = unflatten(kind, spec, avals, without)
    groups, hidden, columns = operands.recurrent_kernel.shape
    by_rank = {4: _first(avals, 4), 3: operands.recurrent_kernel, 2: operands.lengths}
    sizes: dict[str, int] = {"n": groups, "h": hidden, "g": columns, "s": spec.cell.saved * hidden}
    for name, aval in zip(given, avals, strict=True):
        sizes |= dict(zip(dims_of(name, spec), aval.shape, strict=True))
    return [
        compat.result_aval(
            by_rank[len(letters)],
            tuple(sizes[letter] for letter in letters),
            operands.recurrent_kernel.dtype,
        )
        for letters in (dims_of(n, spec) for n in names(RESULTS[kind], spec, without))
    ]


def _first(avals: Sequence[Any], rank: int) -> Any:
    return next(aval for aval in avals if len(aval.shape) == rank)


def add_group(operands: Any) -> Any:
    return jax.tree.map(lambda a: jnp.expand_dims(a, 0), operands)


def drop_group(results: Any) -> Any:
    return jax.tree.map(lambda a: jnp.squeeze(a, 0), results)


def per_group(function: Callable[[Spec, Any], Any], spec: Spec, operands: Any) -> Any:
    """Runs a one-problem function over the group axis."""
    if jax.tree.leaves(operands)[0].shape[0] == 1:
        return add_group(function(spec, drop_group(operands)))
    return jax.vmap(partial(function, spec))(operands)


def run_reference(
    kind: type,
    function: Callable[[Spec, Any], Any],
    *flat: Array,
    spec: Spec,
    without: Sequence[str] = (),
) -> list[Array]:
    """A function of `ops.reference` on a primitive's flat operands."""
    result = per_group(function, spec, unflatten(kind, spec, flat, without))
    left_out = {name: None for name in without if name in result._fields}
    return jax.tree.leaves(result._replace(**left_out))
