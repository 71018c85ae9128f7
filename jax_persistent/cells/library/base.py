# SPDX-License-Identifier: Apache-2.0
"""What a library cell is: one step of one row, its parameters and its carry.

Legend: I input features, H hidden units, P units of a projection, K heads. The gates of an LSTM lie
in the order i, f, g, o, those of a GRU in the order r, z, n; a cell without one of them leaves it
out. Unless a cell says otherwise, W is `input_kernel` [I, G*H], R `recurrent_kernel` [H, G*H] and b
`bias` [G*H], for G gates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.nn import initializers

from jax_persistent.cells.library.operations import widened

Initializer = Callable[..., Array]
Parameters = dict[str, tuple[tuple[int, ...], Initializer]]
Weights = Mapping[str, Array]

lecun = initializers.lecun_normal()
zeros = initializers.zeros
ones = initializers.ones


@dataclass(frozen=True)
class StepCell(ABC):
    """A recurrent cell as a step function: `cell(weights, carry, x) -> (carry, y)`.

    Any number of axes of rows may come before the features.

        >>> weights = cell.init(key, inputs, hidden)
        >>> carry, ys = jp.scan(partial(cell, weights), cell.start(hidden, batch), xs)  # xs [T,B,I]

    A cell that draws masks or noise takes them as xs; without them it is the cell of evaluation.

        >>> noise = cell.draw(key, (T, B), hidden)
        >>> jp.scan(lambda carry, xs: cell(weights, carry, *xs), carry, (xs, noise))

    Products are in the kernels' dtype and sum in float32, which narrow types are widened to for
    everything else; each array of the carry keeps its own dtype.

    Attributes:
      gates, states: how many of each a unit has, where that says all of `parameters` and `sizes`.
    """

    gates: ClassVar[int]
    states: ClassVar[int] = 1

    def parameters(self, inputs: int, hidden: int) -> Parameters:
        """The shape and the initialiser of each. Factors of products have "kernel" in the name."""
        return gated(self.gates, inputs, hidden)

    def sizes(self, hidden: int) -> Any:
        """How many units each array of the carry has, in the carry's tree; those of y first."""
        return hidden if self.states == 1 else (hidden,) * self.states

    @abstractmethod
    def step(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        """The equations, of one row: x [I], each array of the carry [H]."""

    def draw(self, key: Array, lead: tuple[int, ...], hidden: int) -> Any:
        """What `step` takes as noise while training, with the leading axes `lead`; None if it
        draws nothing."""
        del key, lead, hidden

    def draws(self) -> bool:
        """Whether training draws masks or noise."""
        return bool(jax.tree.leaves(jax.eval_shape(lambda k: self.draw(k, (), 1), random.key(0))))

    def init(self, key: Array, inputs: int, hidden: int, dtype: Any = jnp.float32) -> Weights:
        """New weights, by name."""
        of = self.parameters(inputs, hidden)
        keys = random.split(key, len(of))
        return {n: new(k, s, dtype) for k, (n, (s, new)) in zip(keys, of.items(), strict=True)}

    def start(self, hidden: int, batch: int | tuple[int, ...] = (), dtype: Any = None) -> Any:
        """A carry of zeros."""
        lead = batch if isinstance(batch, tuple) else (batch,)
        return jax.tree.map(lambda n: jnp.zeros((*lead, n), dtype), self.sizes(hidden))

    def drawn_start(
        self, new: Initializer, key: Array, hidden: int, lead: tuple[int, ...], dtype: Any
    ) -> Any:
        """A carry of which `new` draws each array, with the leading axes `lead`."""
        sizes, tree = jax.tree.flatten(self.sizes(hidden))
        keys = random.split(key, len(sizes))
        drawn = [new(k, (*lead, size), dtype) for k, size in zip(keys, sizes, strict=True)]
        return jax.tree.unflatten(tree, drawn)

    def __call__(self, p: Weights, carry: Any, x: Array, noise: Any = None) -> tuple[Any, Array]:
        wide = widened(x.dtype)
        of_units = {name: a if "kernel" in name else a.astype(wide) for name, a in p.items()}

        def row(carry: Any, x: Array, noise: Any) -> tuple[Any, Array]:
            given = jax.tree.map(lambda a: a.astype(wide), (carry, x, noise))
            after, y = self.step(of_units, *given)
            return jax.tree.map(lambda a, c: a.astype(c.dtype), after, carry), y.astype(x.dtype)

        run = row
        for _ in range(jnp.ndim(x) - 1):
            run = jax.vmap(run)
        return run(carry, x, noise)


def orthogonal(gates: int) -> Initializer:
    """An orthogonal matrix for each gate, side by side."""
    one = initializers.orthogonal()

    def new(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        shape = (*shape[:-1], shape[-1] // gates)
        exact = widened(dtype)
        parts = [one(k, shape, exact) for k in random.split(key, gates)]
        return jnp.concatenate(parts, axis=-1).astype(dtype)

    return new


def gated(gates: int, inputs: int, hidden: int, recurrent: int | None = None) -> Parameters:
    """Both kernels and the bias of gates that lie side by side; `recurrent` units come back."""
    back = hidden if recurrent is None else recurrent
    return {
        "input_kernel": ((inputs, gates * hidden), lecun),
        "recurrent_kernel": ((back, gates * hidden), orthogonal(gates)),
        "bias": ((gates * hidden,), zeros),
    }


def gated_by_heads(gates: int, inputs: int, hidden: int, heads: int) -> Parameters:
    """The same with a recurrence within each head: its kernel is [G, K, H/K, H/K]."""
    if hidden % heads:
        raise ValueError(f"heads: expected a divisor of the {hidden} hidden units; got {heads}")
    head = hidden // heads
    blocks = initializers.lecun_normal(batch_axis=(0, 1))
    return gated(gates, inputs, hidden) | {"recurrent_kernel": ((gates, heads, head, head), blocks)}
