# SPDX-License-Identifier: Apache-2.0
"""Equinox: a cell run over a sequence in one call, as a module that holds the cell as it is.

Legend: T time steps, I input features, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent import notices
from jax_persistent.functions import gru, lstm
from jax_persistent.programs.functions import scan

try:
    import equinox as eqx
except ImportError as error:
    raise notices.missing("equinox", "Equinox", error) from error

__all__ = ["RNN"]

_KERNELS: dict[type, Callable[..., Any]] = {eqx.nn.LSTMCell: lstm, eqx.nn.GRUCell: gru}


class RNN(eqx.Module):
    """A cell of Equinox over one sequence; `jax.vmap` over sequences is one call of a kernel.

        >>> rnn = RNN(eqx.nn.LSTMCell(4, 64, key=key))
        >>> ys, (h, c) = rnn(xs)  # xs [T, I], ys [T, H]
        >>> ys, states = jax.vmap(rnn)(batch)  # batch [B, T, I]

    `LSTMCell` and `GRUCell` themselves, with arrays and inputs of one dtype, have kernels of their
    own. Any other cell, your own too, runs as `jax_persistent.scan` of its calls, which are
    `cell(x, state) -> state`; the logger "jax_persistent" says why, once a reason, at level INFO.

    Attributes:
      cell: the cell; gradients, optimizers, `eqx.tree_at` and saved files see it unchanged.
      reverse: run from the last step to the first; outputs stay aligned with the inputs.
    """

    cell: Any
    reverse: bool = eqx.field(static=True, default=False)

    def __call__(
        self,
        xs: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        key: Any = None,
    ) -> tuple[Array, Any]:
        """Runs the cell over a sequence.

        Args:
          xs: [T, I]; for a cell of your own, any pytree of arrays [T, ...].
          state: the cell's state before the first step. Zeros if not given to an `LSTMCell`, whose
            state is (h [H], c [H]), or to a `GRUCell`, h [H]; other cells have to be given one.
          lengths: an integer in 0..T, of one sequence. Later outputs are zero, and the state is the
            one at the length.
          resets: [T] bool. Where true, the state before that step is zeros.
          key: ignored, as Equinox's cells ignore it.

        Returns:
          (ys, state): h after each step [T, H], which is the first array of a state of your own,
          and the state after the last step.

        Raises:
          ValueError: there is no state for a cell whose state is unknown, or more than one
            sequence; those of `jax_persistent.lstm` and `scan` for lengths and resets.
        """
        cell, run = self.cell, _KERNELS.get(type(self.cell))
        if state is None and run is None:
            raise ValueError(
                f"state: expected the first state of a {type(cell).__name__}; got None. Only "
                "LSTMCell and GRUCell of Equinox start from zeros by themselves"
            )
        if state is None:
            h = jnp.zeros(cell.hidden_size, cell.weight_hh.dtype)
            state = h if run is gru else (h, h)
        if run and jnp.ndim(xs) != 2:
            raise ValueError(
                f"xs: expected one sequence [T, I]; got shape {jnp.shape(xs)}. Use jax.vmap for "
                "several"
            )
        how: dict[str, Any] = {"lengths": lengths, "resets": resets}
        dtypes = {jnp.result_type(array) for array in jax.tree.leaves((xs, state, cell))}
        plain = run and all(map(eqx.is_array, (cell.weight_ih, cell.weight_hh)))
        if run and plain and len(dtypes) == 1:
            # One sequence is a batch of 1, which vmap's axis is folded into.
            x, start, how = jax.tree.map(lambda a: jnp.asarray(a)[None], (xs, state, how))
            if run is gru and cell.bias_n is not None:  # the n gate alone has a second one
                how["recurrent_bias"] = jnp.pad(cell.bias_n, (2 * cell.hidden_size, 0))
            how["initial_state"] = start if run is gru else tuple(start)
            W, R = cell.weight_ih.T, cell.weight_hh.T
            return jax.tree.map(
                lambda a: a[0], run(x, W, R, cell.bias, reverse=self.reverse, **how)
            )
        reason = f"{type(cell).__name__} is none of Equinox's, or its arrays differ in dtype"
        notices.inform("jax_persistent.equinox runs a jax_persistent.scan", reason)

        def step(state: Any, x: Any) -> tuple[Any, Array]:
            after = cell(x, state)
            return after, jax.tree.leaves(after)[0]

        final, ys = scan(step, state, xs, reverse=self.reverse, **how)
        return ys, final
