# SPDX-License-Identifier: Apache-2.0
"""Equinox: a cell run over a sequence in one call, as a module that holds the cell as it is."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent import notices
from jax_persistent.fallback import scan_of_cell
from jax_persistent.functions import gru, lstm
from jax_persistent.weights import from_equinox

with notices.needed("equinox", "Equinox"):
    import equinox as eqx

__all__ = ["RNN"]

_KERNELS: Any = {eqx.nn.LSTMCell: lstm, eqx.nn.GRUCell: gru}


class RNN(eqx.Module):
    """A cell of Equinox over one sequence; `jax.vmap` over sequences is one call of a kernel.

        >>> rnn = RNN(eqx.nn.LSTMCell(4, 64, key=key))
        >>> ys, (h, c) = rnn(xs)  # xs [T, I], ys [T, H]
        >>> ys, states = jax.vmap(rnn)(batch)  # batch [B, T, I]

    `LSTMCell` and `GRUCell` themselves, where all arrays have one dtype, have kernels of their own.
    Any other cell, yours too, runs as `jax_persistent.scan` of its calls `cell(x, state) -> state`;
    the logger "jax_persistent" says why, once a reason, at level INFO.

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
        """Runs the cell over a sequence: (ys [T, H], the state after the last step).

        Args:
          xs: [T, I]; for a cell of your own, any pytree of arrays [T, ...].
          state: before the first step. Zeros if not given to an `LSTMCell`, whose state is (h [H],
            c [H]), or to a `GRUCell`, h [H]. Of a cell of your own, ys is the first array of it.
          lengths: an integer in 0..T, after which outputs are zero and the state stays as it is.
          resets: [T] bool. Where true, the state before that step is zeros.
          key: ignored, as Equinox's cells ignore it.

        Raises:
          ValueError: a state is missing, or xs are several sequences; those of `lstm` and `scan`.
        """
        cell, run = self.cell, _KERNELS.get(type(self.cell))
        rows = {"lengths": lengths, "resets": resets}
        state = _zeros(cell) if state is None else state
        if run and jnp.ndim(xs) != 2:
            got = f"{jnp.shape(xs)}. Use jax.vmap for several"
            raise ValueError(f"xs: expected one sequence [T, I]; got shape {got}")
        dtypes = {jnp.result_type(array) for array in jax.tree.leaves((xs, state, cell))}
        plain = run and all(map(eqx.is_array, (cell.weight_ih, cell.weight_hh)))
        if run and plain and len(dtypes) == 1:
            # One sequence is a batch of 1, which vmap's axis is folded into.
            x, start, rows = jax.tree.map(lambda a: jnp.asarray(a)[None], (xs, state, rows))
            start = start if run is gru else tuple(start)
            weights = from_equinox(cell)
            found = run(x, **weights, initial_state=start, **rows, reverse=self.reverse)
            return jax.tree.map(lambda a: a[0], found)
        reason = f"{type(cell).__name__} is none of Equinox's, or its arrays differ in dtype"
        notices.inform("jax_persistent.equinox runs a jax_persistent.scan", reason)
        return scan_of_cell(cell, xs, state, reverse=self.reverse, **rows)


def _zeros(cell: Any) -> Any:
    """The first state of a cell of Equinox's own."""
    if type(cell) not in _KERNELS:
        raise ValueError(
            f"state: expected the first state of a {type(cell).__name__}; got None. Only "
            "LSTMCell and GRUCell of Equinox start from zeros by themselves"
        )
    h = jnp.zeros(cell.hidden_size, cell.weight_hh.dtype)
    return h if isinstance(cell, eqx.nn.GRUCell) else (h, h)
