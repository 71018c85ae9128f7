# SPDX-License-Identifier: Apache-2.0
"""The cells that have kernels: a file each, with equations and nothing else.

A module in this folder that defines `CELLS`, a tuple of cells, adds them to `CELLS` here.
"""

from __future__ import annotations

import importlib
import pkgutil

from jax_persistent.cells.cell import Cell, States

__all__ = ["CELLS", "Cell", "States", "discovered"]


def discovered() -> dict[str, Cell]:
    """The cells of all modules in this folder, by name."""
    return {
        cell.name: cell
        for found in pkgutil.iter_modules(__path__)
        for cell in getattr(importlib.import_module(f"{__name__}.{found.name}"), "CELLS", ())
    }


CELLS = discovered()
