# SPDX-License-Identifier: Apache-2.0
"""The cells: a file each, with equations and nothing else.

Those in this folder have kernels: a module that defines `CELLS`, a tuple of cells, adds them to
`CELLS` here. Those in `library` are step functions for `jp.scan`, and names of this module too, as
in `cells.PeepholeLSTM`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from jax_persistent.cells.cell import Cell, States

__all__ = ["CELLS", "Cell", "States", "discovered"]


def discovered() -> dict[str, Cell]:
    """The cells of all modules in this folder, by name."""
    return {
        cell.name: cell
        for found in pkgutil.iter_modules(__path__)
        if not found.ispkg
        for cell in getattr(importlib.import_module(f"{__name__}.{found.name}"), "CELLS", ())
    }


CELLS = discovered()


def __getattr__(name: str) -> Any:
    """A cell of the library, which is imported when it is first asked for."""
    if name[0].isupper():
        library = importlib.import_module(f"{__name__}.library")
        if name in library.__all__:
            return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
