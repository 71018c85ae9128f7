# SPDX-License-Identifier: Apache-2.0
"""One direction of one layer as the functions take it, and what all layouts check.

Legend: I input features, H hidden units, P units of a projection (H without one), G gates (LSTM 4,
GRU 3, Elman 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Weights = dict[str, np.ndarray]
"""Arrays by the names of arguments, so that `lstm(x, **weights)` takes them: `input_kernel`
[I, G*H], `recurrent_kernel` [P, G*H] and, where there are any, `bias` [G*H], `recurrent_bias`
[G*H] (GRU), `peephole` [3*H] and `projection_kernel` [H, P] (LSTM; of `cells.ProjectedLSTM`)."""

Layers = Sequence[Sequence[Weights]]
"""`[layer][direction]`, forward first."""

ORDERS = {4: "ifgo", 3: "rzn", 1: "h"}  # of the functions' gates, by how many there are
NAMES = {4: "LSTM", 3: "GRU", 1: "Elman network"}
_OPTIONAL = ("bias", "recurrent_bias", "peephole", "projection_kernel")
_OF_A_CELL = {4: ("peephole", "projection_kernel"), 3: ("recurrent_bias",), 1: ()}


@dataclass(frozen=True)
class Sizes:
    """What the shapes of `Weights` say."""

    gates: int
    inputs: int
    hidden: int
    recurrent: int  # P

    @property
    def order(self) -> str:
        return ORDERS[self.gates]


def gates_of(name: str, shape: Sequence[int], columns: int, hidden: int) -> int:
    """How many gates of `hidden` units there are in `columns`; ValueError if no cell has so many.

    `name` and `shape` are those of the array that is to blame.
    """
    gates, rest = divmod(columns, max(hidden, 1))
    if rest or gates not in NAMES or hidden < 1:
        raise ValueError(
            f"{name}: expected G*H by H, with G = 4 gates (LSTM), 3 (GRU) or 1 (Elman); got shape "
            f"{tuple(shape)}"
        )
    return gates


def sizes_of(
    weights: Mapping[str, Any], holds: Sequence[str] = _OPTIONAL, where: str = ""
) -> Sizes:
    """Checks a set of weights against itself.

    Args:
      weights: as `Weights`; what is None counts as not given.
      holds: the optional arrays that the layout they are for can hold.
      where: the name of that layout, for the message.
    """
    if not isinstance(weights, Mapping):
        raise ValueError(
            "weights: expected the arrays of one layer and direction, by name; got a "
            f"{type(weights).__name__}. Of layers, pass layers[0][0] and so on"
        )
    given = {name: as_array(array) for name, array in weights.items() if array is not None}
    unknown = given.keys() - {"input_kernel", "recurrent_kernel", *_OPTIONAL}
    if unknown:
        raise ValueError(f"weights: expected the names of `lstm`, `gru`, `elman`; got {unknown}")
    for name in ("input_kernel", "recurrent_kernel"):
        expect_rank(name, named(given, name, as_array), 2)
    W, R = given["input_kernel"], given["recurrent_kernel"]
    projection = given.get("projection_kernel")
    hidden = R.shape[0] if projection is None else projection.shape[0]
    gates = gates_of("recurrent_kernel", R.shape, R.shape[1], hidden)
    for name in given.keys() & set(_OPTIONAL):
        if name != "bias" and name not in _OF_A_CELL[gates]:
            raise ValueError(f"{name}: expected none, which the {NAMES[gates]} has no use for")
        if name not in holds:
            raise ValueError(f"{name}: expected none, as {where} has no place for it")
    columns = gates * hidden
    shapes = {
        "input_kernel": (W.shape[0], columns),
        "bias": (columns,),
        "recurrent_bias": (columns,),
        "peephole": (3 * hidden,),
        "projection_kernel": (hidden, R.shape[0]),
    }
    for name, array in given.items():
        expect(name, array, shapes.get(name, array.shape))
        if array.dtype != W.dtype:
            raise ValueError(
                f"{name}: expected {W.dtype.name}, as input_kernel has; got {array.dtype.name}"
            )
    return Sizes(gates, W.shape[0], hidden, R.shape[0])


def expect(name: str, array: np.ndarray, shape: Sequence[int]) -> None:
    if array.shape != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}; got {array.shape}")


def expect_rank(name: str, array: np.ndarray, rank: int) -> None:
    if array.ndim != rank:
        raise ValueError(f"{name}: expected rank {rank}; got shape {array.shape}")


def as_array(array: Any) -> Any:
    """An array of jax, which may be traced, as it is; whatever else numpy can read as numpy's."""
    return array if isinstance(array, jax.Array) else np.asarray(array)


def named(tensors: Mapping[str, Any], name: str, read: Callable[[Any], Any] = np.asarray) -> Any:
    """An array by its name, of whatever numpy, or `read`, can read."""
    if tensors.get(name) is None:
        longer = [other for other in sorted(tensors) if other.endswith(name)]
        hint = f". If it is {longer[0]}: prefix={longer[0].removesuffix(name)!r}" if longer else ""
        raise ValueError(f"{name}: expected an array of this name; got {sorted(tensors)}{hint}")
    return read(tensors[name])


def without_none(**arrays: np.ndarray | None) -> Weights:
    return {name: array for name, array in arrays.items() if array is not None}


def bias_of(weights: Mapping[str, Any], sizes: Sizes, name: str = "bias") -> np.ndarray:
    """A bias for a layout that has to have one: zeros if the weights lack it."""
    if weights.get(name) is not None:
        return np.asarray(weights[name])
    return np.zeros(sizes.gates * sizes.hidden, np.asarray(weights["input_kernel"]).dtype)


def given_arrays(weights: Mapping[str, Any]) -> Weights:
    """The arrays that are not None, of whatever numpy can read."""
    return {name: np.asarray(array) for name, array in weights.items() if array is not None}


def check_directions(directions: Sequence[Any]) -> None:
    if len(directions) not in (1, 2):
        raise ValueError(
            f"directions: expected those of one layer, forward and perhaps backward; got "
            f"{len(directions)}"
        )
