# SPDX-License-Identifier: Apache-2.0
"""Tells users where something else runs in place of a kernel that they could expect.

Through `logging.getLogger("jax_persistent")`, as jax itself says that it found no GPU:

- a warning, which Python shows unless told otherwise, where somebody may want to change something:
  a layer whose cell has no kernel, a GPU whose driver is too old, a platform without kernels;
- an info, which Python shows only when asked, where the plain scan is the right choice: a dtype
  without kernels, one or two steps.

Each reason is given once a process, whatever sizes are in it. Python's own `warnings` are not used:
many test suites make them errors, and a slower program is no error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

_LOGGER = logging.getLogger("jax_persistent")
_SAID: set[str] = set()
_LISTENERS: list[list[str]] = []


def warn(what: str, reason: str) -> None:
    """Something that somebody may want to change: what runs in place of a kernel, and why."""
    _say(logging.WARNING, what, reason)


def inform(what: str, reason: str) -> None:
    """A fallback that needs no action."""
    _say(logging.INFO, what, reason)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What is said meanwhile, at either level and for the first time or not; in order, once."""
    said: list[str] = []
    _LISTENERS.append(said)
    try:
        yield said
    finally:
        _LISTENERS[:] = [each for each in _LISTENERS if each is not said]


@contextmanager
def needed(extra: str, what: str, installed: str = "") -> Iterator[None]:
    """Around an adapter's imports: without its framework, the error says how to install it.

    `installed` is what to do where the framework is there and can't be imported.
    """
    try:
        yield
    except ImportError as error:
        install = f"install it with pip install 'jax-persistent[{extra}]'"
        if installed and find_spec(extra) is not None:
            install = installed
        raise ImportError(f"jax_persistent.{extra} needs {what}; {install}: {error}") from error


def _say(level: int, what: str, reason: str) -> None:
    for said in _LISTENERS:
        if (message := f"{what}: {reason}") not in said:
            said.append(message)
    # A message that its level hides is not marked as said.
    kind = re.sub(r"\d+", "#", reason)
    if kind not in _SAID and _LOGGER.isEnabledFor(level):
        _SAID.add(kind)
        _LOGGER.log(level, "%s: %s", what, reason)
