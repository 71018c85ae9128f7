"""The public functions: `lstm`, `gru`, `elman`.

Each checks its arguments and hands them to the recurrence.

Legend: T time steps, B batch, I input features, H hidden units, G gates (LSTM 4, GRU 3, Elman 1).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from jax import Array, lax
from jax.typing import ArrayLike

from jax_persistent.ops import spec as checks
from jax_persistent.ops.cells import GRU, LSTM, Cell
from jax_persistent.ops.explicit import in_auto_axes
from jax_persistent.ops.spec import Problem, Spec
from jax_persistent.ops.vjp import recurrence


def lstm(
    x: ArrayLike,
    input_kernel: ArrayLike,
    recurrent_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    initial_state: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    lengths: ArrayLike | None = None,
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
      bias: b [4*H].
      initial_state: (h0, c0), each [B, H]; zeros if not given.
      lengths: [B] integers in 0..T. Outputs past a row's length are zero, its final state is the
        one at its length (the initial state for length 0), and what x holds there is ignored.
        Concrete values out of range raise; values traced under `jax.jit` are clamped.
      reverse: run each row from its last step to its first. Outputs stay aligned with x, as in
        `lax.scan(..., reverse=True)`; the final state is the one after step 0.
      time_major: whether x and the outputs are time-major.
      backend: None chooses; "native" is the kernel or an error saying why it can't be;
        "reference" is a plain `lax.scan`.

    Returns:
      (outputs [B, T, H] or [T, B, H], (h [B, H], c [B, H])), in x's dtype.

    Raises:
      ValueError: an argument is wrong; says what was expected and what was given.
      NotImplementedError: `backend="native"` and there is no kernel for this call.
    """
    flags = (lengths, reverse, time_major, backend)
    outputs, final = _run(LSTM, x, input_kernel, recurrent_kernel, bias, None, initial_state, flags)
    h, c = final
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
      bias: b [3*H].
      recurrent_bias: b' [3*H].
      initial_state: h0 [B, H]; zeros if not given.
      lengths, reverse, time_major, backend: as for `lstm`, and so are dtypes and errors.

    Returns:
      (outputs [B, T, H] or [T, B, H], h [B, H]), in x's dtype.
    """
    flags = (lengths, reverse, time_major, backend)
    outputs, (h,) = _run(
        GRU, x, input_kernel, recurrent_kernel, bias, recurrent_bias, initial_state, flags
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
      bias: b [H].
      initial_state: h0 [B, H]; zeros if not given.
      activation: "tanh" or "relu".
      lengths, reverse, time_major, backend: as for `lstm`, and so are dtypes and errors.

    Returns:
      (outputs [B, T, H] or [T, B, H], h [B, H]), in x's dtype.
    """
    flags = (lengths, reverse, time_major, backend)
    cell = checks.elman_cell(activation)
    outputs, (h,) = _run(cell, x, input_kernel, recurrent_kernel, bias, None, initial_state, flags)
    return outputs, h


def _run(
    cell: Cell,
    x: Any,
    input_kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    recurrent_bias: Any,
    initial_state: Any,
    flags: tuple[Any, bool, bool, str | None],
) -> tuple[Array, tuple[Array, ...]]:
    lengths, reverse, time_major, backend = flags
    checks.check_flags(reverse, time_major, backend)
    operands = checks.check_operands(
        cell, x, input_kernel, recurrent_kernel, bias, recurrent_bias, time_major
    )
    x, kernel = operands["x"], operands["recurrent_kernel"]
    batch, steps = (x.shape[1], x.shape[0]) if time_major else x.shape[:2]
    row_lengths = checks.check_lengths(lengths, batch, steps)
    initial = checks.check_initial_state(cell, initial_state, x, batch, kernel.shape[0])
    compute = partial(
        _run_recurrence,
        Spec(cell, bool(reverse), bool(time_major), backend, checks.tf32_is_asked_for()),
        lengths is not None,
    )
    sequence = "T B {}" if time_major else "B T {}"
    dims = {
        "x": sequence.format("I"),
        "input_kernel": "I G*H",
        "recurrent_kernel": "H G*H",
        "bias": "G*H",
        "recurrent_bias": "G*H",
    }
    return in_auto_axes(
        compute,
        {name: (dims[name], array) for name, array in operands.items()}
        | {"lengths": ("B", row_lengths)}
        | {f"{s}0": ("B H", array) for s, array in zip(cell.states, initial, strict=True)},
        (sequence.format("H"), ("B H",) * len(cell.states)),
    )


def _run_recurrence(
    spec: Spec,
    ragged: bool,
    x: Array,
    input_kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None,
    recurrent_bias: Array | None,
    lengths: Array,
    *initial: Array,
) -> tuple[Array, tuple[Array, ...]]:
    if spec.cell.separate_recurrent_gradient and recurrent_bias is None:
        recurrent_bias = lax.full(recurrent_kernel.shape[1:], 0, x.dtype)
    if ragged:
        x = _without_padding(x, lengths, spec.time_major)
    problem = Problem(
        x, input_kernel, bias, recurrent_kernel, recurrent_bias, lengths, tuple(initial)
    )
    result = recurrence(spec, problem)
    return result.outputs, result.final


def _without_padding(x: Array, lengths: Array, time_major: bool) -> Array:
    """x with zeros past each row's length: a NaN there would reach gradients as 0 * NaN."""
    steps = lax.broadcasted_iota(lengths.dtype, x.shape, 0 if time_major else 1)
    valid = steps < lax.broadcast_in_dim(lengths, x.shape, (1 if time_major else 0,))
    return lax.select(valid, x, lax.full_like(x, 0))
