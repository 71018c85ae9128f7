# SPDX-License-Identifier: Apache-2.0
"""What a cell is: one step forward, and the same step linearised.

Legend: T time steps, B batch, I input features, H hidden units, G gates.

A cell sees only what a kernel hands it: the input gates (x W + b) and the recurrent gates
(h R + b') of one step, and the states before it. `step_tangent` is linear in its tangents and needs
nothing but what `step` kept, so every derivative of the recurrence, of any order and in either
mode, follows from these two functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jax import Array

States = tuple[Array, ...]  # h [.., H] first, then the states that a unit keeps to itself


@dataclass(frozen=True)
class Cell:
    """What distinguishes one recurrent cell from another.

    Attributes:
      name: the name that native/cells/cells.def has for it.
      gates: G, the number of pre-activations per unit.
      residuals: the number of values per unit and step that the backward pass reads. The states
        after h are the last of them.
      states: names of the recurrent states, h first.
      reset_after: whether the recurrent gates enter the step apart from the input gates, as in a
        GRU that applies its reset gate after the product. Their gradients differ then, and a bias
        of theirs can't be folded into the inputs'.
      step: (input_gates [.., G*H], recurrent_gates [.., G*H], states before) ->
        (states after, residuals [.., residuals*H]).
      step_tangent: (residuals, states before, h after [.., H], d_input_gates, d_recurrent_gates,
        d_states before) -> (d_states after, d_residuals).
    """

    name: str
    gates: int
    residuals: int
    states: tuple[str, ...]
    reset_after: bool
    step: Callable[..., tuple[States, Array]] = field(repr=False)
    step_tangent: Callable[..., tuple[States, Array]] = field(repr=False)
