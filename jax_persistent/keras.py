# SPDX-License-Identifier: Apache-2.0
"""Keras 3 on JAX: its recurrent layers, persistent once `install()` has been called.

Layers, models and saved files stay Keras's own. What is replaced is the loop over time in `RNN`,
`LSTM`, `GRU` and `SimpleRNN`, of layers made before too; `Bidirectional` and `fit` run over it.

Legend: T time steps, B batch, I input features, H hidden units, G gates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from typing import Any

import jax.numpy as jnp
from jax import Array

from jax_persistent import notices
from jax_persistent.functions import elman, gru, lstm
from jax_persistent.programs.functions import scan_that_tells
from jax_persistent.rehosted import Rehosted, lax_with
from jax_persistent.weights.gates import reordered

try:
    from keras import activations, backend, layers, ops, tree

    # In their packages a function has the name of the module.
    backend_rnn = import_module("keras.src.backend.jax.rnn")
    layer_rnn = import_module("keras.src.layers.rnn.rnn")
except ImportError as error:
    raise ImportError(
        "jax_persistent.keras needs Keras 3 and its JAX backend; install them with "
        f"pip install 'jax-persistent[keras]', and set KERAS_BACKEND=jax: {error}"
    ) from error

__all__ = ["install", "uninstall"]

_OWN: dict[Any, Callable[..., Any]] = {}  # what `install` has replaced
_ELMAN = {activations.tanh: "tanh", activations.relu: "relu"}


def install() -> None:
    """Has Keras's recurrent layers run persistently, in this process, until `uninstall`.

    `LSTM`, `GRU` with `reset_after`, and `SimpleRNN` with tanh or relu have kernels of their own,
    in an `RNN` of their cells too: with any mask, initial states, `go_backwards`, `stateful`,
    `dropout` and `zero_output_for_mask`. Other activations, `recurrent_dropout`,
    `reset_after=False`, stacked cells and your own run as `jax_persistent.scan` of the cell's own
    calls. `unroll=True` and `use_cudnn=True` are left to Keras. The logger "jax_persistent" says
    why, once a reason: at level WARNING where a loop is a plain `lax.scan`, otherwise at INFO.

    Call it before the first call of a model: what jax has compiled by then stays as it is.

    Raises:
      RuntimeError: Keras runs on another backend than JAX.
    """
    if backend.backend() != "jax":
        raise RuntimeError(
            f"jax_persistent.keras: expected Keras on JAX; it runs on {backend.backend()!r}. Set "
            "KERAS_BACKEND=jax in the environment before Keras is imported"
        )
    replaced: tuple[Any, ...] = (layers.RNN, layers.LSTM, layers.GRU)
    for layer in replaced:
        if layer not in _OWN:
            _OWN[layer] = layer.inner_loop
            layer.inner_loop = _persistent(layer.inner_loop)


def uninstall() -> None:
    """Gives the layers their own loop back."""
    while _OWN:
        layer, own = _OWN.popitem()
        layer.inner_loop = own


def _scanned() -> Callable[..., Any]:
    """Keras's loop over the calls of any cell, with our scan in place of `lax.scan`.

    Keras's own if this Keras is made differently.
    """
    warn = partial(notices.warn, "jax_persistent.keras runs Keras's own code")
    try:
        looped = Rehosted(backend_rnn, lax=lax_with(scan_that_tells(warn)))
        named = Rehosted(layer_rnn, backend=Rehosted(layer_rnn.backend, rnn=looped.rnn))
        return named.copied(layers.RNN.inner_loop)
    except AttributeError as error:
        warn(f"this Keras's loop is another: {error}")
        return layers.RNN.inner_loop


_scan_of_calls = _scanned()


def _persistent(own: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's `inner_loop`, of which `own` is Keras's: (last output, outputs, states)."""

    @wraps(own)
    def inner_loop(
        self: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        if self.unroll or getattr(self, "use_cudnn", False) is True:
            reason = "unroll=True and use_cudnn=True ask for a loop that is not ours"
            notices.inform("jax_persistent.keras runs Keras's own code", reason)
            return own(self, sequences, initial_state, mask=mask, training=training)
        mask = mask[0] if tree.is_nested(mask) else mask
        reason = _why_no_kernel(self, sequences, mask, training)
        if reason:
            notices.inform("jax_persistent.keras runs a jax_persistent.scan", reason)
            states = initial_state if tree.is_nested(initial_state) else [initial_state]
            return _scan_of_calls(self, sequences, states, mask, training=training)
        return _on_a_kernel(self, sequences, tree.flatten(initial_state), mask, training)

    return inner_loop


def _why_no_kernel(layer: Any, sequences: Any, mask: Any, training: bool) -> str:
    """Why a layer's loop has to call its cell; empty if it does not have to."""
    cell = layer.cell
    if type(cell) not in _KERNELS:
        names = ", ".join(known.__name__ for known in _KERNELS)
        return f"{type(cell).__name__} has no kernel; {names} have, without subclasses"
    gates = getattr(cell, "recurrent_activation", activations.sigmoid)
    known = _ELMAN if type(cell) is layers.SimpleRNNCell else (activations.tanh,)
    if (
        gates is not activations.sigmoid
        or cell.activation not in known
        or not getattr(cell, "reset_after", True)
    ):
        return f"{type(cell).__name__}: its activations, or reset_after=False, have no kernel"
    of_gates = getattr(cell, "implementation", 2) == 1
    if training and (cell.recurrent_dropout or cell.dropout == 1 or (cell.dropout and of_gates)):
        return "recurrent_dropout, and a dropout of each gate, have no kernel"
    if layer.compute_dtype != cell.compute_dtype:
        return "the layer and its cell compute in two dtypes"
    if tree.is_nested(sequences) or len(sequences.shape) != 3 or 0 in sequences.shape[1:]:
        return "a kernel takes one array [B, T, I] with at least one step"
    if mask is not None and tuple(mask.shape) not in (
        sequences.shape[:2],
        (*sequences.shape[:2], 1),
    ):
        return "a kernel takes a mask [B, T]"
    return ""


def _on_a_kernel(layer: Any, sequences: Any, states: Any, mask: Any, training: bool) -> Any:
    cell = layer.cell
    array = partial(ops.convert_to_tensor, dtype=cell.compute_dtype)
    x, states = array(sequences), [array(state) for state in states]
    if training and cell.dropout:
        x = x * cell.get_dropout_mask(sequences[:, 0, :])[:, None]
    lengths = None
    if mask is not None:
        mask = jnp.asarray(mask, bool).reshape(x.shape[:2])
        lengths = mask.sum(axis=1, dtype=jnp.int32)
        first = jnp.argsort(~mask, axis=1, stable=True)
        x = jnp.take_along_axis(x, first[:, :, None], axis=1)
    weights = [
        None if w is None else array(w) for w in (cell.kernel, cell.recurrent_kernel, cell.bias)
    ]
    how = {"lengths": lengths, "reverse": bool(layer.go_backwards)}
    y, final = _KERNELS[type(cell)](cell, x, *weights, states, **how)
    if mask is not None:
        y = _at_its_steps(y, mask, lengths, states[0], layer)
    if layer.go_backwards:
        y = jnp.flip(y, axis=1)
    return y[:, -1], y, final


def _at_its_steps(y: Array, mask: Array, lengths: Any, start: Array, layer: Any) -> Array:
    """Outputs of the valid steps, which come first in y [B, T, H], where those steps are.

    A masked step gives the state before it, or zeros.
    """
    # A run backwards has met the valid steps behind a masked one, and not those before it.
    at = jnp.cumsum(mask, axis=1) - (mask if layer.go_backwards else 1)
    none_before = (at < 0) | (at >= lengths[:, None])
    y = jnp.take_along_axis(y, jnp.clip(at, 0, y.shape[1] - 1)[:, :, None], axis=1)
    y = jnp.where(none_before[:, :, None], start[:, None], y)
    return jnp.where(mask[:, :, None], y, 0) if layer.zero_output_for_mask else y


def _lstm(
    cell: Any, x: Any, kernel: Any, recurrent: Any, bias: Any, states: Any, **how: Any
) -> Any:
    y, final = lstm(x, kernel, recurrent, bias, tuple(states), **how)
    return y, list(final)


def _gru(cell: Any, x: Any, kernel: Any, recurrent: Any, bias: Any, states: Any, **how: Any) -> Any:
    kernel, recurrent = (reordered(w, "zrn", "rzn") for w in (kernel, recurrent))
    bias, other = (None, None) if bias is None else reordered(bias, "zrn", "rzn")
    y, h = gru(x, kernel, recurrent, bias, other, states[0], **how)
    return y, [h]


def _elman(
    cell: Any, x: Any, kernel: Any, recurrent: Any, bias: Any, states: Any, **how: Any
) -> Any:
    y, h = elman(x, kernel, recurrent, bias, states[0], activation=_ELMAN[cell.activation], **how)
    return y, [h]


_KERNELS: dict[Any, Callable[..., Any]] = {
    layers.LSTMCell: _lstm,
    layers.GRUCell: _gru,
    layers.SimpleRNNCell: _elman,
}
