# SPDX-License-Identifier: Apache-2.0
"""What a flax layer's call takes: its options, and checks of everything else.

A check raises where flax would raise or return what means nothing, and `NoKernel` where only flax's
own path takes the argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_persistent.cells.library import StepCell
from jax_persistent.fallback import NoKernel
from jax_persistent.ops.validation import check_flags, check_range


@dataclass(frozen=True)
class CallOptions:
    """How one call reads and returns its sequences, in the words of flax's RNN."""

    time_major: bool
    reverse: bool
    keep_order: bool
    return_carry: bool
    mask_outputs: bool
    feature_axes: int  # behind those of batch and time; kernels take one
    backend: str | None

    @classmethod
    def of(cls, rnn: Any, seq_lengths: Any, **overrides: bool | None) -> CallOptions:
        """A layer's options, except for those that the call gives."""
        given = {name: getattr(rnn, name) if o is None else o for name, o in overrides.items()}
        masked = rnn.mask_outputs and seq_lengths is not None
        check_flags(rnn.backend)
        axes = rnn.cell.num_feature_axes
        return cls(**given, mask_outputs=masked, feature_axes=axes, backend=rnn.backend)

    def batch_shape(self, inputs: Array) -> tuple[int, ...]:
        """The axes of `inputs` that are neither time nor features."""
        if self.time_major:
            return inputs.shape[1 : -self.feature_axes]
        return inputs.shape[: -self.feature_axes - 1]

    def step_shape(self, inputs: Array) -> tuple[int, ...]:
        """The shape of one step of `inputs`."""
        return (*self.batch_shape(inputs), *inputs.shape[-self.feature_axes :])

    def steps(self, inputs: Array) -> int:
        return inputs.shape[0 if self.time_major else -self.feature_axes - 1]

    def stops_at_lengths(self, inputs: Array) -> bool:
        """Whether nothing that flax computes past a row's length is returned."""
        return self.mask_outputs or self.steps(inputs) == 0


def check_cell(cell: Any, package: str) -> None:
    """Raises for a cell of flax's other package, and for one of `jax_persistent.cells`.

    Args:
      cell: of a layer.
      package: the layer's, "linen" or "nnx".
    """
    name, other = type(cell).__name__, {"linen": "nnx", "nnx": "linen"}[package]
    bases = [base.__module__.split(".")[:2] for base in type(cell).__mro__]
    if ["flax", package] in bases:  # flax's bridges have modules of both
        return
    if ["flax", other] in bases:
        got = f"flax.{other}'s {name}. Use jax_persistent.{other}.RNN"
    elif isinstance(cell, StepCell):
        got = f"jax_persistent.cells.{name}. Use jax_persistent.{package}.{name}Cell(..)"
    else:
        return
    raise ValueError(f"cell: expected a cell of flax.{package}; got {got}")


def check_sequence(inputs: Any) -> None:
    """Raises NoKernel unless `inputs` is one real array [*batch, T, I] with any features."""
    if not isinstance(inputs, (jax.Array, np.ndarray)):
        raise NoKernel(f"a kernel takes one array; got inputs {type(inputs).__name__}")
    number = jnp.issubdtype(inputs.dtype, jnp.number)
    if inputs.ndim < 2 or inputs.shape[-1] == 0 or not number:
        got = f"{inputs.dtype.name}{list(inputs.shape)}"
        raise NoKernel(f"a kernel takes numbers [*batch, T, I]; got inputs {got}")


def check_resets(resets: Any, inputs: Array, options: CallOptions) -> Array | None:
    """`resets` of a layer's call, checked: [*batch, T], or [T, *batch] time-major, bool."""
    if resets is None:
        return None
    batch, steps = options.batch_shape(inputs), options.steps(inputs)
    shape = (steps, *batch) if options.time_major else (*batch, steps)
    resets = jnp.asarray(resets)
    if resets.shape != shape or resets.dtype != jnp.bool_:
        letters = "[T, *batch]" if options.time_major else "[*batch, T]"
        raise ValueError(
            f"resets: expected bool {letters} = {shape}; got {resets.dtype.name} of shape "
            f"{resets.shape}. Compare other dtypes first: resets != 0"
        )
    return resets


def check_reset_carry(reset_carry: Any, resets: Array | None, carry: Any) -> None:
    """Raises unless what a reset row starts from is shaped as the carry, or not given."""
    if reset_carry is None:
        return
    if resets is None:
        raise ValueError("reset_carry: expected with resets, which say where it counts")
    expected, got = (jax.tree.map(jnp.shape, tree) for tree in (carry, reset_carry))
    if expected != got:
        raise ValueError(f"reset_carry: expected the carry's shapes, {expected}; got {got}")


def check_seq_lengths(seq_lengths: Any, inputs: Any, options: CallOptions) -> None:
    """Raises unless they are numbers [*batch], or broadcast to it; in 0..T where they are known.

    flax itself runs on with lengths of another shape, and with a mask; its results mean nothing.
    """
    if seq_lengths is None or not hasattr(inputs, "shape"):
        return
    batch, shape = options.batch_shape(inputs), jnp.shape(seq_lengths)
    dtype = jnp.result_type(seq_lengths)
    sides = [*zip(shape[::-1], batch[::-1], strict=False)]
    fits = len(shape) <= len(batch) and all(own in (1, other) for own, other in sides)
    if not fits or dtype == jnp.bool_:
        hint = ". Of a mask of padding at the end: mask.sum(-1)" if dtype == jnp.bool_ else ""
        raise ValueError(
            f"seq_lengths: expected integers [*batch] = {batch}, as inputs are {inputs.shape} and "
            f"time_major={options.time_major}; got {dtype.name} of shape {shape}{hint}"
        )
    check_range("seq_lengths", seq_lengths, options.steps(inputs))
