"""Persistent recurrent networks for JAX: the recurrent weights stay on the chip."""

from jax_persistent.ops.api import elman, gru, lstm
from jax_persistent.ops.plan import Plan, plan

__all__ = ["Plan", "elman", "gru", "lstm", "plan"]
__version__ = "0.1.0"
