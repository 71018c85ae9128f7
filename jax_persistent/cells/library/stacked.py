# SPDX-License-Identifier: Apache-2.0
"""Several cells in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array, random

from jax_persistent.cells.library.base import Parameters, StepCell, Weights


@dataclass(frozen=True)
class Stacked(StepCell):
    """Several cells in one step, residual between them if asked for (as in Wu et al., 2016).

        y_0 = cell_0(x)
        y_n = cell_n(y_{n-1}), and + y_{n-1} if residual

    All have H hidden units. Weights are named "0_bias" and so on; carry: a tuple of theirs.
    """

    cells: tuple[StepCell, ...]
    residual: bool = False

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        found: Parameters = {}
        for n, cell in enumerate(self.cells):
            found |= {f"{n}_{name}": of for name, of in cell.parameters(inputs, hidden).items()}
            inputs = jax.tree.leaves(cell.sizes(hidden))[0]
        return found

    def sizes(self, hidden: int) -> Any:
        return tuple(cell.sizes(hidden) for cell in self.cells)

    def draw(self, key: Array, lead: tuple[int, ...], hidden: int) -> Any:
        keys = random.split(key, len(self.cells))
        return tuple(c.draw(k, lead, hidden) for c, k in zip(self.cells, keys, strict=True))

    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        after, noise = [], noise or [None] * len(self.cells)
        for n, (cell, own, drawn) in enumerate(zip(self.cells, carry, noise, strict=True)):
            of_cell = {
                name.removeprefix(f"{n}_"): p[name] for name in p if name.startswith(f"{n}_")
            }
            moved, y = cell.step(of_cell, own, x, drawn)
            after.append(moved)
            x = y + x if self.residual and n else y
        return tuple(after), x
