# SPDX-License-Identifier: Apache-2.0
"""The order of gates: of the functions LSTM i, f, g, o and GRU r, z, n, elsewhere another."""

from __future__ import annotations

from typing import Any


def reordered(array: Any, given: str, wanted: str, axis: int = -1) -> Any:
    """An array whose `axis` has one part a gate, with those parts in another order.

    Args:
      array: of numpy or of jax, traced or not.
      given: the gates as they lie in `array`, a letter each: "zrn".
      wanted: the same letters as they are to lie: "rzn".
      axis: the axis of the gates.
    """
    if given == wanted:
        return array
    numpy = array.__array_namespace__()
    parts = numpy.split(array, len(given), axis=axis)
    return numpy.concat([parts[given.index(gate)] for gate in wanted], axis=axis)
