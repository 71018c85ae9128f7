# SPDX-License-Identifier: Apache-2.0
"""Equinox: a cell run over a sequence in one call, as a module that holds the cell as it is.

Legend: T time steps, I input features, H hidden units.
"""

from __future__ import annotations

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
    raise ImportError(
        "jax_persistent.equinox needs Equinox; install it with "
        f"pip install 'jax-persistent[equinox]': {error}"
    ) from error

__all__ = ["RNN"]


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
        key: Array | None = None,
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
        del key
        cell, of_equinox = self.cell, type(self.cell) in (eqx.nn.LSTMCell, eqx.nn.GRUCell)
        if state is None:
            if not of_equinox:
                raise ValueError(
                    f"state: expected the first state of a {type(cell).__name__}; got None. Only "
                    "LSTMCell and GRUCell of Equinox start from zeros by themselves"
                )
            zeros = jnp.zeros(cell.hidden_size, cell.weight_hh.dtype)
            state = (zeros, zeros) if type(cell) is eqx.nn.LSTMCell else zeros
        if of_equinox and jnp.ndim(xs) != 2:
            raise ValueError(
                f"xs: expected one sequence [T, I]; got shape {jnp.shape(xs)}. Use jax.vmap for "
                "several"
            )
        if of_equinox and _is_of_one_dtype(xs, state, cell):
            return self._on_a_kernel(xs, state, lengths, resets)
        reason = f"{type(cell).__name__} is none of Equinox's, or its arrays differ in dtype"
        notices.inform("jax_persistent.equinox runs a jax_persistent.scan", reason)

        def step(state: Any, x: Any) -> tuple[Any, Array]:
            after = cell(x, state)
            return after, jax.tree.leaves(after)[0]

        how = {"reverse": self.reverse, "lengths": lengths, "resets": resets}
        final, ys = scan(step, state, xs, **how)
        return ys, final

    def _on_a_kernel(self, xs: Any, state: Any, lengths: Any, resets: Any) -> tuple[Array, Any]:
        cell = self.cell
        # One sequence is a batch of 1, which vmap's axis is folded into.
        one: Any = lambda a: None if a is None else jnp.asarray(a)[None]  # noqa: E731
        state = jax.tree.map(one, state)
        x, W, R, bias = one(xs), cell.weight_ih.T, cell.weight_hh.T, cell.bias
        how: Any = {"reverse": self.reverse, "lengths": one(lengths), "resets": one(resets)}
        ys: Array
        final: Any
        if type(cell) is eqx.nn.LSTMCell:
            ys, final = lstm(x, W, R, bias, tuple(state), **how)
        else:
            of_n = cell.bias_n  # the n gate alone has a second one
            other = None if of_n is None else jnp.pad(of_n, (2 * cell.hidden_size, 0))
            ys, final = gru(x, W, R, bias, other, state, **how)
        return ys[0], jax.tree.map(lambda a: a[0], final)


def _is_of_one_dtype(xs: Any, state: Any, cell: Any) -> bool:
    plain = all(eqx.is_array(weight) for weight in (cell.weight_ih, cell.weight_hh))
    return plain and len({jnp.result_type(a) for a in jax.tree.leaves((xs, state, cell))}) == 1
