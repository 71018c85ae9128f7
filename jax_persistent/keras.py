# SPDX-License-Identifier: Apache-2.0
"""Keras 3 on JAX: its recurrent layers, persistent once `install()` has been called.

What is replaced is their loop over time. Layers, models and saved files stay Keras's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from typing import Any

from jax_persistent import masks, notices
from jax_persistent.fallback import NoKernel, check_sequences, kernel_of, kernel_or, loops
from jax_persistent.functions import elman, gru, lstm
from jax_persistent.rehosted import Rehosted, lax_with
from jax_persistent.weights import from_keras

_ON_JAX = "KERAS_BACKEND=jax in the environment before Keras is imported"

with notices.needed("keras", "Keras 3 on its JAX backend", f"set {_ON_JAX}"):
    from keras import activations, backend, layers, ops, tree

    # In their packages a function has the name of the module.
    backend_rnn = import_module("keras.src.backend.jax.rnn")
    layer_rnn = import_module("keras.src.layers.rnn.rnn")

__all__ = ["install", "uninstall"]

_OWN_CODE = "jax_persistent.keras runs Keras's own code"
_OWN: dict[Any, Callable[..., Any]] = {}  # what `install` has replaced
_RELU = partial(elman, activation="relu")
_KERNELS = {  # of each cell, by its activation
    layers.LSTMCell: ((activations.tanh, lstm),),
    layers.GRUCell: ((activations.tanh, gru),),
    layers.SimpleRNNCell: ((activations.tanh, elman), (activations.relu, _RELU)),
}


def install() -> None:
    """Has `RNN`, `LSTM`, `GRU`, `SimpleRNN`, and what is made of them, run persistently.

    In this process, until `uninstall`, layers that were made before too. Call it before the first
    call of a model: what jax has compiled by then stays as it is. The logger "jax_persistent" says
    what runs without a kernel and why: a warning where that is a plain `lax.scan`, otherwise at
    level INFO.

    Raises:
      RuntimeError: Keras runs on another backend than JAX.
    """
    if backend.backend() != "jax":
        expected = f"expected Keras on JAX; it runs on {backend.backend()!r}"
        raise RuntimeError(f"{__name__}: {expected}. Set {_ON_JAX}")
    for layer in {layers.RNN, layers.LSTM, layers.GRU} - _OWN.keys():
        _OWN[layer] = layer.inner_loop
        layer.inner_loop = _persistent(layer.inner_loop)


def uninstall() -> None:
    """Gives the layers their own loop back."""
    while _OWN:
        layer, own = _OWN.popitem()
        layer.inner_loop = own


def _over(scan: Callable[..., Any]) -> Callable[..., Any]:
    """Keras's loop over the calls of any cell, with this scan in place of `lax.scan`."""
    looped = Rehosted(backend_rnn, lax=lax_with(scan))
    named = Rehosted(layer_rnn, backend=Rehosted(layer_rnn.backend, rnn=looped.rnn))
    return named.copied(layers.RNN.inner_loop)


_SCAN = "jax_persistent.keras runs a jax_persistent.scan"
_loops = partial(loops, _OWN_CODE, "Keras's loop", layers.RNN.inner_loop, _over)
_scan_of_calls = _loops()[None]


def _persistent(own: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's `inner_loop`, of which `own` is Keras's: (last output, outputs, states)."""

    @wraps(own)
    def inner_loop(
        self: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        if self.unroll or getattr(self, "use_cudnn", False) is True:
            notices.inform(_OWN_CODE, "unroll=True and use_cudnn=True ask for other loops")
            return own(self, sequences, initial_state, mask=mask, training=training)
        mask = mask[0] if tree.is_nested(mask) else mask
        call = self, sequences, initial_state, mask, training
        return kernel_or(_scan_of_calls, _SCAN, _on_a_kernel, *call)

    return inner_loop


def _function_of(layer: Any, training: bool) -> Callable[..., Any]:
    """The function that does what the layer's cell does, or NoKernel."""
    cell = layer.cell
    found = [run for own, run in kernel_of(cell, _KERNELS) if cell.activation is own]
    gates = getattr(cell, "recurrent_activation", activations.sigmoid)
    if not found or gates is not activations.sigmoid or not getattr(cell, "reset_after", True):
        raise NoKernel(f"{type(cell).__name__}: its activations, or reset_after=False, have none")
    of_gates = getattr(cell, "implementation", 2) == 1
    if training and (cell.recurrent_dropout or cell.dropout == 1 or (cell.dropout and of_gates)):
        raise NoKernel("recurrent_dropout, and a dropout of each gate, have no kernel")
    if layer.compute_dtype != cell.compute_dtype:
        raise NoKernel("the layer and its cell compute in two dtypes")
    return found[0]


def _on_a_kernel(layer: Any, sequences: Any, states: Any, mask: Any, training: bool) -> Any:
    """What `inner_loop` returns, or NoKernel."""
    cell, back, run = layer.cell, bool(layer.go_backwards), _function_of(layer, training)
    check_sequences(sequences, "[B, T, I]")
    array = partial(ops.convert_to_tensor, dtype=cell.compute_dtype)
    x, states = array(sequences), tuple(map(array, tree.flatten(states)))
    if training and cell.dropout:
        x = x * cell.get_dropout_mask(sequences[:, 0, :])[:, None]
    arrays = (cell.kernel, cell.recurrent_kernel, cell.bias)
    (weights,) = from_keras([array(a) for a in arrays if a is not None])
    run = partial(run, **weights, initial_state=states if len(states) > 1 else states[0])
    zeros = bool(layer.zero_output_for_mask)
    y, final = masks.run_valid_steps(run, x, mask, states[0], reverse=back, zeros=zeros)
    y = ops.flip(y, axis=1) if back else y
    return y[:, -1], y, tree.flatten(final)
