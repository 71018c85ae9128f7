# SPDX-License-Identifier: Apache-2.0
"""Loads the native module and registers its targets with XLA, once."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import jax

from jax_persistent import compat

HOW_TO_FIX = (
    "Reinstall it beside the jaxlib you run: pip install --force-reinstall --no-deps "
    "jax-persistent (from a checkout: pip install -e .). backend='reference' runs without it"
)


@functools.cache
def native_module() -> ModuleType:
    """The native module, its targets registered.

    Raises:
      ImportError: it is missing, broken, or built against another version of XLA's FFI; says which,
        and how to mend it.
    """
    try:
        _native = importlib.import_module("jax_persistent._native")
    except ImportError as error:
        message = f"jax_persistent's native module can't be loaded: {error}. {HOW_TO_FIX}"
        raise ImportError(message) from error
    built, runs = tuple(_native.ffi_version()), compat.runtime_ffi_version()
    if runs is not None and (built[0] != runs[0] or built[1] > runs[1]):
        raise ImportError(
            "jax_persistent's native module was built against XLA FFI "
            f"{built[0]}.{built[1]}, but jaxlib {jax.lib.__version__} "
            f"has {runs[0]}.{runs[1]}. {HOW_TO_FIX}"
        )
    _native.search_for("CUDA", compat.nvrtc_files())
    for platform, targets in _native.targets().items():
        for name, stages in targets.items():
            jax.ffi.register_ffi_target(name, stages, platform=platform)
    return _native
