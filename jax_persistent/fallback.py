# SPDX-License-Identifier: Apache-2.0
"""What runs a cell without a kernel of its own: its framework's own loop, over our scan.

A layer that raises `NoKernel` runs one of its `loops` instead, as `kernel_or` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from jax import Array

from jax_persistent import notices
from jax_persistent.programs.functions import scan, scan_that_tells

Loop = Callable[..., Any]
Loops = dict[str | None, Loop]  # for each word of `backend`


class NoKernel(Exception):
    """Raised where a framework's own code has to run; says why."""


def kernel_of(cell: Any, kernels: Mapping[type, Any]) -> Any:
    """What there is for this very class of cell, or NoKernel."""
    if type(cell) not in kernels:
        names = ", ".join(known.__name__ for known in kernels)
        raise NoKernel(f"{type(cell).__name__} has no kernel; {names} have, without subclasses")
    return kernels[type(cell)]


def check_sequences(x: Any, letters: str) -> None:
    """Raises NoKernel unless x is one array of three axes, of which none is empty."""
    if not hasattr(x, "shape") or len(x.shape) != 3 or 0 in x.shape:
        raise NoKernel(f"a kernel takes one array {letters} with a step and a row")


def kernel_or(instead: Loop, what: str, kernel: Loop, *args: Any, **kwargs: Any) -> Any:
    """What `kernel` returns, or `instead` where there is none; the logger is told `what` runs."""
    try:
        return kernel(*args, **kwargs)
    except (NoKernel, ValueError) as reason:  # of shapes and dtypes that a cell may be able to take
        notices.inform(what, str(reason))
    return instead(*args, **kwargs)


def scan_of_cell(cell: Loop, xs: Any, state: Any, **how: Any) -> tuple[Array, Any]:
    """(ys, final state) of `cell(x, state) -> state`, whose output is the state's first array."""

    def step(state: Any, x: Any) -> tuple[Any, Array]:
        after = cell(x, state)
        return after, jax.tree.leaves(after)[0]

    final, ys = scan(step, state, xs, **how)
    return ys, final


def loops(what: str, name: str, own: Loop, over: Callable[[Loop], Loop], tell: Any = None) -> Loops:
    """A framework's loop over our scan; its own for "reference".

    Args:
      what: what the logger is told runs where there is no kernel: "... runs Keras's own code".
      name: of the loop: "Keras's loop".
      own: the loop.
      over: makes the loop over another scan; AttributeError if this release's is made differently.
      tell: is given the reason where our scan runs as `lax.scan`; a warning of `what` if None.
    """
    warn = partial(notices.warn, what)
    try:
        ours = {word: over(scan_that_tells(tell or warn, word)) for word in (None, "native")}
    except AttributeError as error:
        reason = f"this {name} is another: {error}"
        warn(reason)
        ours = {None: own, "native": _never(reason)}
    return ours | {"reference": own}


def _never(reason: str) -> Loop:
    """The loop of `backend="native"` where it can't be over our scan."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"backend='native': {reason}. Use backend=None or 'reference'")

    return refuse
