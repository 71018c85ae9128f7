# SPDX-License-Identifier: Apache-2.0
"""Persistent recurrent networks for JAX: the recurrent weights stay on the chip."""

import contextlib
from importlib.metadata import version

from jax_persistent.backends.base import Plan
from jax_persistent.c_library import CInterface, c_interface
from jax_persistent.explaining.explain import explain
from jax_persistent.explaining.explanation import Explanation, Recurrence
from jax_persistent.ffi.registration import native_module
from jax_persistent.functions import elman, gru, lstm
from jax_persistent.ops.packing import pack
from jax_persistent.ops.plan import plan
from jax_persistent.problem import PackedKernel
from jax_persistent.programs.functions import scan
from jax_persistent.streaming import Stream, stream

__all__ = [
    "CInterface",
    "Explanation",
    "PackedKernel",
    "Plan",
    "Recurrence",
    "Stream",
    "c_interface",
    "elman",
    "explain",
    "gru",
    "lstm",
    "pack",
    "plan",
    "scan",
    "stream",
]
__version__ = version("jax-persistent")  # pyproject.toml has it

# Programs that jax.export serialised elsewhere find the kernels once this package is imported. A
# module that can't be loaded is reported by whatever needs it first.
with contextlib.suppress(ImportError):
    native_module()
