# SPDX-License-Identifier: Apache-2.0
"""The public functions of one cell each: `lstm`, `gru`, `elman`.

Each checks its arguments and hands them to a cell with kernels, or to one of the library's.

Legend: T time steps, B batch, I input features, H hidden units, G gates (LSTM 4, GRU 3, Elman 1).
"""

from __future__ import annotations

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from jax_persistent import cells
from jax_persistent.cells import Cell
from jax_persistent.cells.gru import GRU
from jax_persistent.cells.lstm import LSTM
from jax_persistent.ops import functions, validation
from jax_persistent.problem import PackedKernel
from jax_persistent.programs import sequences


def lstm(
    x: ArrayLike,
    input_kernel: ArrayLike | PackedKernel,
    recurrent_kernel: ArrayLike | PackedKernel,
    bias: ArrayLike | None = None,
    initial_state: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    peephole: ArrayLike | None = None,
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

    With `peephole` (Gers and Schmidhuber, 2000) the gates see the cells: p_i * c_{t-1} is added to
    i, p_f * c_{t-1} to f and p_o * c_t to o. `scan` runs those.

    Args:
      x: [B, T, I], or [T, B, I] with `time_major`; float32, bfloat16, float16 or float64. Every
        other array has the same dtype. Narrow types accumulate, and keep c, in float32.
        Without rows (B = 0) or steps (T = 0) the outputs are empty, and the final state is the
        initial one; so are those of `jax.vmap` over an axis of size 0.
      input_kernel: W [I, 4*H], gates in the order i, f, g, o. Both kernels may be packed: see
        `pack`.
      recurrent_kernel: R [H, 4*H].
      bias: b [4*H]; zeros if not given.
      initial_state: (h0, c0), each [B, H]; zeros if not given.
      peephole: p [3*H], in the order i, f, o; none if not given.
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
        None if peephole is None else "PeepholeLSTM",
        x=x,
        input_kernel=input_kernel,
        recurrent_kernel=recurrent_kernel,
        bias=bias,
        peephole=peephole,
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
    input_kernel: ArrayLike | PackedKernel,
    recurrent_kernel: ArrayLike | PackedKernel,
    bias: ArrayLike | None = None,
    recurrent_bias: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    *,
    reset_after: bool = True,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: ArrayLike | None = None,
    reverse: bool = False,
    time_major: bool = False,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Gated recurrent unit over a whole sequence (Cho et al., 2014).

        r, z = sigmoid(x_t W_rz + b_rz + h_{t-1} R_rz + b'_rz)
        n = tanh(x_t W_n + b_n + r * (h_{t-1} R_n + b'_n))
        h_t = (1 - z) * n + z * h_{t-1}

    This is the form of cuDNN, PyTorch and flax, which resets after the product and needs one
    exchange a step. With `reset_after=False` it resets before, in two exchanges, run by `scan`:

        n = tanh(x_t W_n + b_n + (r * h_{t-1}) R_n + b'_n)

    Args:
      x: [B, T, I], or [T, B, I] with `time_major`.
      input_kernel: W [I, 3*H], gates in the order r, z, n. Both kernels may be packed.
      recurrent_kernel: R [H, 3*H].
      bias: b [3*H]; zeros if not given.
      recurrent_bias: b' [3*H]; zeros if not given.
      initial_state: h0 [B, H]; zeros if not given.
      reset_after: whether r is applied after the product with R_n, or before it.
      lengths, resets, reset_state, reverse, time_major, backend: as for `lstm`, and so are dtypes
        and errors.

    Returns:
      (outputs [B, T, H] or [T, B, H], h [B, H]), in x's dtype.
    """
    validation.check_bools(reset_after=reset_after)
    outputs, (h,) = _checked_run(
        GRU,
        None if reset_after else "ResetBeforeGRU",
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
    input_kernel: ArrayLike | PackedKernel,
    recurrent_kernel: ArrayLike | PackedKernel,
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
      input_kernel: W [I, H]. Both kernels may be packed.
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
    cell: Cell,
    variant: str | None = None,
    *,
    reverse: bool,
    time_major: bool,
    backend: str | None,
    **arguments: Any,
) -> tuple[Array, tuple[Array, ...]]:
    """`variant`: the library's cell that runs in place of `cell`, whose arguments it takes."""
    validation.check_flags(backend, reverse=reverse, time_major=time_major)
    arrays = validation.check_call(cell, time_major=time_major, **arguments)
    how: dict[str, Any] = {"time_major": time_major, "backend": backend}
    if variant is None:
        return functions.run(cell, arrays, directions="reverse" if reverse else "forward", **how)
    validation.check_unpacked(arrays, variant)
    return sequences.run(getattr(cells, variant)(), arrays, reverse=reverse, **how)
