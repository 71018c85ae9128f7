# SPDX-License-Identifier: Apache-2.0
"""Other packages' functions over our scan: copies that read some names of their module elsewhere.

Those packages' own modules stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from types import FunctionType, ModuleType
from typing import Any

import jax


class Rehosted:
    """A module in which some names mean something else, to its own functions too.

    Those are copies: the module itself is left alone, so that nobody else's calls change.
    """

    def __init__(self, module: ModuleType, **names: Any) -> None:
        own = vars(module)
        missing = sorted(names.keys() - own.keys())
        if missing:
            raise AttributeError(f"{module.__name__} has no {', '.join(missing)}")
        self._module, self._globals = module, dict(own)
        for name, function in own.items():
            if isinstance(function, FunctionType) and function.__globals__ is own:
                self._globals[name] = self.copied(function)
        self._globals |= names

    def copied(self, function: FunctionType) -> FunctionType:
        """A function of the module that reads its names here."""
        copy = FunctionType(
            function.__code__,
            self._globals,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        copy.__kwdefaults__ = function.__kwdefaults__
        update_wrapper(copy, function)
        copy.__dict__.pop("__wrapped__")
        return copy

    def __getattr__(self, name: str) -> Any:
        found = self._globals
        return found[name] if name in found else getattr(self._module, name)


def lax_with(scan: Callable[..., Any]) -> Any:
    """`jax.lax` with another scan."""
    return Rehosted(jax.lax, scan=scan)
