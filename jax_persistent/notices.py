# SPDX-License-Identifier: Apache-2.0
"""What users are told where a kernel was to be expected and something else runs.

Through `logging.getLogger("jax_persistent")`, as jax itself says that it found no GPU:

- a warning, which Python shows unless told otherwise, where somebody may want to change something:
  a layer whose cell has no kernel, a GPU whose driver is too old, a platform without kernels;
- an info, which Python shows only when asked, where the plain scan is the right choice: a dtype
  that kernels have not, one or two steps.

Each reason is given once a process. Python's own `warnings` are not used: many test suites make
them errors, and a slower program is none.
"""

from __future__ import annotations

import logging

_LOGGER = logging.getLogger("jax_persistent")
_SAID: set[str] = set()


def warn(what: str, reason: str) -> None:
    """Something that somebody may want to change: what runs in place of a kernel, and why."""
    _say(logging.WARNING, what, reason)


def inform(what: str, reason: str) -> None:
    """A choice that is as it should be."""
    _say(logging.INFO, what, reason)


def _say(level: int, what: str, reason: str) -> None:
    # What nobody listened to may be said again.
    if reason not in _SAID and _LOGGER.isEnabledFor(level):
        _SAID.add(reason)
        _LOGGER.log(level, "%s: %s", what, reason)
