"""Persistent recurrent networks for JAX: the recurrent weights stay on the chip."""

from jax_persistent.ops.api import elman, gru, lstm

__all__ = ["elman", "gru", "lstm"]
__version__ = "0.1.0"
