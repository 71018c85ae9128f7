# SPDX-License-Identifier: Apache-2.0
"""Where a recurrence's weights live, drawn in characters.

A worker of a CPU is a line, with its units and how much of its L2 their weights fill. A GPU is a
grid of its SMs, lettered by team; a team's blocks share the units, and what a warp of a block keeps
where is a line below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WIDTH = 32  # characters of a bar
_MOST_WORKERS = 64  # lines
_SMS_A_LINE = 44
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def draw(numbers: Mapping[str, Any], facts: Mapping[str, int], hidden: int) -> str:
    """The picture of one pass; "" for a planner that says too little for one.

    Args:
      numbers: the planner's own, of that pass.
      facts: of the machine.
      hidden: H.
    """
    if "worker_bytes" in numbers and "l2_bytes" in facts:
        return _cpu(numbers, facts, hidden)
    if "teams" in numbers and "processors" in facts:
        return _gpu(numbers, facts, hidden)
    return ""


def _cpu(numbers: Mapping[str, Any], facts: Mapping[str, int], hidden: int) -> str:
    workers, own, l2 = numbers["workers"], numbers["worker_bytes"], facts["l2_bytes"]
    filled = min(_WIDTH, max(1, round(_WIDTH * own / l2)))
    bar = f"[{'#' * filled}{'.' * (_WIDTH - filled)}]"
    what = f"{own >> 10} KiB of a core's L2 of {l2 >> 10} KiB"
    if own > l2:
        what = f"{own >> 10} KiB through a core's L2 of {l2 >> 10} KiB once a step"
    if numbers["splits_batch"]:
        lines = [f"worker {n}: all units {bar} {what}" for n in range(min(workers, _MOST_WORKERS))]
        return "\n".join(["the workers divide the rows; each has all weights", *lines])
    lanes = facts["lanes"]
    vectors = -(-hidden // lanes)
    lines = []
    for n in range(min(workers, _MOST_WORKERS)):
        first, last = (min(hidden, vectors * k // workers * lanes) for k in (n, n + 1))
        lines.append(f"worker {n}: units {first:4} to {last - 1:4} {bar} {what}")
    if workers > _MOST_WORKERS:
        lines.append(f"and {workers - _MOST_WORKERS} workers more, likewise")
    return "\n".join(lines)


def _gpu(numbers: Mapping[str, Any], facts: Mapping[str, int], hidden: int) -> str:
    blocks, teams, total = numbers["workers"], numbers["teams"], facts["processors"]
    sms = [_LETTERS[n // blocks % len(_LETTERS)] for n in range(min(blocks * teams, total))]
    sms += ["."] * (total - len(sms))
    lines = [" ".join(sms[first : first + _SMS_A_LINE]) for first in range(0, total, _SMS_A_LINE)]
    chunks, shared = numbers["chunks"], numbers["shared_chunks"]
    streamed = numbers["streamed_chunks"]
    kept = chunks - shared - streamed
    units = -(-hidden // blocks)
    what = f"{total} SMs; a letter is a block of that team, at most {units} units of {hidden} each"
    held = f"[{'r' * kept}{'s' * shared}{'-' * streamed}]"
    names = f"{kept} in registers (r), {shared} in shared memory (s), {streamed} from L2 (-)"
    return "\n".join([what, *lines, f"weights of a warp, in chunks: {held} {names}"])
