# SPDX-License-Identifier: Apache-2.0
"""The public functions: `lstm`, `gru`, `elman`.

Each checks its arguments and hands them to `run`. The layers, whose arguments are valid already,
call that themselves.

Legend: T time steps, B batch, I input features, H hidden units, G gates (LSTM 4, GRU 3, Elman 1).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jax_persistent import compat
from jax_persistent.cells import Cell
from jax_persistent.cells.gru import GRU
from jax_persistent.cells.lstm import LSTM
from jax_persistent.ops import primitives, validation
from jax_persistent.ops.explicit_sharding import in_auto_axes
from jax_persistent.problem import DIRECTIONS, Arrays, Problem, operands
from jax_persistent.problem.operands import Leaf

_OPTIONAL = ("bias", "recurrent_bias", "lengths", "resets", "reset_state")
_LETTERS = {"d": "D", "b": "B", "t": "T", "i": "I", "h": "H", "g": "G*H"}


def lstm(
    x: ArrayLike,
    input_kernel: ArrayLike,
    recurrent_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    initial_state: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: tuple[ArrayLike, ArrayLike] | None = None,
    reverse: bool = False,
    time_major: bool = False,
    backend: str | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """Long short-term memory over a whole sequence (Hochreiter and Schmidhuber, 1997; Gers, 2000).

        i, f, g, o = split(x_t W + b + h_{t-1} R)
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t)

    Args:
      x: [B, T, I], or [T, B, I] with `time_major`; float32, bfloat16, float16 or float64. Every
        other array has the same dtype. Narrow types accumulate, and keep c, in float32.
        Without rows (B = 0) or steps (T = 0) the outputs are empty, and the final state is the
        initial one; so are those of `jax.vmap` over an axis of size 0.
      input_kernel: W [I, 4*H], gates in the order i, f, g, o.
      recurrent_kernel: R [H, 4*H].
      bias: b [4*H]; zeros if not given.
      initial_state: (h0, c0), each [B, H]; zeros if not given.
      lengths: [B] integers in 0..T. Outputs past a row's length are zero, its final state is the
        one at its length (the initial state for length 0), and what x holds there is ignored.
        Concrete values out of range raise; values traced under `jax.jit` are clamped.
      resets: [B, T], or [T, B] with `time_major`; bool. Where true, and the row runs at that step,
        the state before it is `reset_state`, as after the `done` flag of an episode or between
        sequences that are packed end to end. No gradient flows across.
      reset_state: (h, c), each [B, H], as `initial_state`; zeros if not given.
      reverse: run each row from its last step to its first, in which order "before" is meant.
        Outputs stay aligned with x, as in `lax.scan(..., reverse=True)`; the final state is the one
        after step 0.
      time_major: whether x and the outputs are time-major.
      backend: None chooses; "native" is the kernel or an error saying why it can't be;
        "reference" is a plain `lax.scan`.

    Returns:
      (outputs [B, T, H] or [T, B, H], (h [B, H], c [B, H])), in x's dtype.

    Raises:
      ValueError: an argument is wrong; says what was expected and what was given.
      NotImplementedError: `backend="native"` and there is no kernel for this call.
    """
    outputs, (h, c) = _checked_run(
        LSTM,
        x=x,
        input_kernel=input_kernel,
        recurrent_kernel=recurrent_kernel,
        bias=bias,
        initial_state=initial_state,
        lengths=lengths,
        resets=resets,
        reset_state=reset_state,
        reverse=reverse,
        time_major=time_major,
        backend=backend,
    )
    return outputs, (h, c)


def gru(
    x: ArrayLike,
    input_kernel: ArrayLike,
    recurrent_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    recurrent_bias: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: ArrayLike | None = None,
    reverse: bool = False,
    time_major: bool = False,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Gated recurrent unit over a whole sequence, reset after the product (Cho et al., 2014).

        r, z = sigmoid(x_t W_rz + b_rz + h_{t-1} R_rz + b'_rz)
        n = tanh(x_t W_n + b_n + r * (h_{t-1} R_n + b'_n))
        h_t = (1 - z) * n + z * h_{t-1}

    This is the form of cuDNN, PyTorch and flax, which needs one exchange a step.

    Args:
      x: [B, T, I], or [T, B, I] with `time_major`.
      input_kernel: W [I, 3*H], gates in the order r, z, n.
      recurrent_kernel: R [H, 3*H].
      bias: b [3*H]; zeros if not given.
      recurrent_bias: b' [3*H]; zeros if not given.
      initial_state: h0 [B, H]; zeros if not given.
      lengths, resets, reset_state, reverse, time_major, backend: as for `lstm`, and so are dtypes
        and errors.

    Returns:
      (outputs [B, T, H] or [T, B, H], h [B, H]), in x's dtype.
    """
    outputs, (h,) = _checked_run(
        GRU,
        x=x,
        input_kernel=input_kernel,
        recurrent_kernel=recurrent_kernel,
        bias=bias,
        recurrent_bias=recurrent_bias,
        initial_state=initial_state,
        lengths=lengths,
        resets=resets,
        reset_state=reset_state,
        reverse=reverse,
        time_major=time_major,
        backend=backend,
    )
    return outputs, h


def elman(
    x: ArrayLike,
    input_kernel: ArrayLike,
    recurrent_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    *,
    activation: str = "tanh",
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: ArrayLike | None = None,
    reverse: bool = False,
    time_major: bool = False,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Elman's simple recurrent network over a whole sequence (Elman, 1990).

        h_t = activation(x_t W + b + h_{t-1} R)

    Args:
      x: [B, T, I], or [T, B, I] with `time_major`.
      input_kernel: W [I, H].
      recurrent_kernel: R [H, H].
      bias: b [H]; zeros if not given.
      initial_state: h0 [B, H]; zeros if not given.
      activation: "tanh" or "relu".
      lengths, resets, reset_state, reverse, time_major, backend: as for `lstm`, and so are dtypes
        and errors.

    Returns:
      (outputs [B, T, H] or [T, B, H], h [B, H]), in x's dtype.
    """
    outputs, (h,) = _checked_run(
        validation.elman_cell(activation),
        x=x,
        input_kernel=input_kernel,
        recurrent_kernel=recurrent_kernel,
        bias=bias,
        initial_state=initial_state,
        lengths=lengths,
        resets=resets,
        reset_state=reset_state,
        reverse=reverse,
        time_major=time_major,
        backend=backend,
    )
    return outputs, h


def _checked_run(
    cell: Cell, *, reverse: bool, time_major: bool, backend: str | None, **arguments: Any
) -> tuple[Array, tuple[Array, ...]]:
    validation.check_flags(reverse, time_major, backend)
    arrays = validation.check_call(cell, time_major=time_major, **arguments)
    directions = "reverse" if reverse else "forward"
    return run(cell, arrays, directions=directions, time_major=time_major, backend=backend)


def run(
    cell: Cell, arrays: Arrays, *, directions: str, time_major: bool, backend: str | None
) -> tuple[Array, tuple[Array, ...]]:
    """The recurrence of a cell on arrays that are known to be valid.

    Args:
      cell: the cell.
      arrays: as `validation.check_call` returns them: "x", "input_kernel", "recurrent_kernel", and
        of "bias", "recurrent_bias", "lengths", "resets", "reset_state" and "initial_state" those
        that there are. With both directions all but x and lengths have an axis D of two, first.
      directions: "forward", "reverse" or "both".
      time_major, backend: as for `lstm`.

    Returns:
      (outputs, final states); with both directions [B, T, D, H] and [D, B, H].
    """
    x, hidden = arrays.x, arrays.recurrent_kernel.shape[-2]
    batch, steps = (x.shape[1], x.shape[0]) if time_major else x.shape[:2]
    ways = len(DIRECTIONS[directions])
    if arrays.initial_state is None:
        shape = (batch, hidden) if ways == 1 else (ways, batch, hidden)
        zeros = tuple(jnp.zeros(shape, x.dtype) for _ in cell.states)
        arrays = Arrays(arrays | {"initial_state": zeros})
    parts = {"inputs", *(name for name in _OPTIONAL if name in arrays)}
    problem = Problem(
        "forward",
        cell,
        groups=ways,
        batch=batch,
        steps=steps,
        inputs=x.shape[2],
        hidden=hidden,
        dtype=x.dtype.name,
        directions=directions,
        time_major=bool(time_major),
        tf32=compat.tf32_is_asked_for(),
        backend=backend,
        parts=operands.in_order(parts),
    )

    def compute(*flat: Array) -> tuple[Array, tuple[Array, ...]]:
        results = primitives.forward(problem, problem.arrays(flat))
        return results.outputs, results.final_state

    outputs, *final_state = (
        _dims(problem, leaf) for leaf in problem.results() if leaf.name != "residuals"
    )
    labelled = _labelled(problem, problem.flat(arrays))
    return in_auto_axes(compute, labelled, (outputs, tuple(final_state)))


def _dims(problem: Problem, leaf: Leaf) -> str:
    """The dimensions that a caller's array has, as messages and meshes name them."""
    new = "n" if len(problem.ways) > 1 else "nd"
    return " ".join(_LETTERS[d] for d in problem.dims_of(leaf) if d not in new)


def _labelled(problem: Problem, flat: list[Array]) -> dict[str, tuple[str, Array]]:
    """Operands as a caller would write them, with their dimensions."""
    found: dict[str, tuple[str, Array]] = {}
    for leaf, array in zip(problem.operands(), flat, strict=True):
        label = leaf.name
        if leaf.per_state and len(problem.cell.states) > 1:
            label += f"[{sum(name.startswith(leaf.name + '[') for name in found)}]"
        found[label] = _dims(problem, leaf), array
    return found
