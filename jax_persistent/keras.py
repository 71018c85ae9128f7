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

from jax_persistent import masks, notices
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
    needs = "Keras 3 and its JAX backend, KERAS_BACKEND=jax,"
    raise notices.missing("keras", needs, error) from error

__all__ = ["install", "uninstall"]

_OWN: dict[Any, Callable[..., Any]] = {}  # what `install` has replaced
_KERNELS: dict[Any, Callable[..., Any]] = {
    layers.LSTMCell: lstm,
    layers.GRUCell: gru,
    layers.SimpleRNNCell: elman,
}
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
    for layer in {layers.RNN, layers.LSTM, layers.GRU} - _OWN.keys():
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
    known = cell.activation in (_ELMAN if _KERNELS[type(cell)] is elman else [activations.tanh])
    if gates is not activations.sigmoid or not known or not getattr(cell, "reset_after", True):
        return f"{type(cell).__name__}: its activations, or reset_after=False, have no kernel"
    of_gates = getattr(cell, "implementation", 2) == 1
    if training and (cell.recurrent_dropout or cell.dropout == 1 or (cell.dropout and of_gates)):
        return "recurrent_dropout, and a dropout of each gate, have no kernel"
    if layer.compute_dtype != cell.compute_dtype:
        return "the layer and its cell compute in two dtypes"
    if tree.is_nested(sequences) or len(sequences.shape) != 3 or 0 in sequences.shape[1:]:
        return "a kernel takes one array [B, T, I] with at least one step"
    steps = tuple(sequences.shape[:2])
    fits = mask is None or tuple(mask.shape) in (steps, (*steps, 1))
    return "" if fits else "a kernel takes a mask [B, T]"


def _on_a_kernel(layer: Any, sequences: Any, states: Any, mask: Any, training: bool) -> Any:
    cell, back = layer.cell, bool(layer.go_backwards)
    array = partial(ops.convert_to_tensor, dtype=cell.compute_dtype)
    x, states = array(sequences), tuple(map(array, states))
    if training and cell.dropout:
        x = x * cell.get_dropout_mask(sequences[:, 0, :])[:, None]
    lengths = None
    if mask is not None:
        mask = jnp.asarray(mask, bool).reshape(x.shape[:2])
        x, lengths = masks.valid_first(x, mask)
    run, how = _KERNELS[type(cell)], dict[str, Any](lengths=lengths, reverse=back)
    how["initial_state"] = states if run is lstm else states[0]
    weights = [
        None if w is None else array(w) for w in (cell.kernel, cell.recurrent_kernel, cell.bias)
    ]
    if run is gru:
        weights = [w if w is None else reordered(w, "zrn", "rzn") for w in weights]
        weights[2:] = (None, None) if weights[2] is None else weights[2]
    if run is elman:
        how["activation"] = _ELMAN[cell.activation]
    y, final = run(x, *weights, **how)
    if mask is not None:
        zeros = bool(layer.zero_output_for_mask)
        y = masks.at_their_steps(y, mask, states[0], reverse=back, zeros=zeros)
    if back:
        y = jnp.flip(y, axis=1)
    return y[:, -1], y, tree.flatten(final)
