# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one call, measured in a process of its own.

    python -m benchmarks.memory '{"peer": "flax", "threads": 2, "direction": .., "shape": {..}}'

prints {"peak_bytes": the high-water mark of resident memory over what it was before the call} and,
for the peers in JAX, what XLA planned: {"temporary_bytes": .., "argument_bytes": ..,
"output_bytes": ..}.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import SOURCES
from benchmarks.problem import Shape, draw

# Every large array is mapped by itself, so that freed ones don't hide in the heap.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_HIGH_WATER = "5"  # see proc(5), clear_refs


def measure(peer: str, shape: Shape, direction: str, threads: int) -> dict[str, int]:
    """Raises RuntimeError with what the process said if it failed."""
    asked = {"peer": peer, "threads": threads, "direction": direction}
    asked |= {"shape": dataclasses.asdict(shape)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", json.dumps(asked)],
        cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | ALLOCATION,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"memory of {peer}, {shape}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(entries: list[dict[str, Any]]) -> str:
    """MiB, in Markdown: the measured peak and, where XLA planned one, its temporary arrays."""
    peers = list(dict.fromkeys(name for entry in entries for name in entry["peak"]))
    rows = [["cell TxBxH", "pass", *(f"{peer} MiB" for peer in peers)]]
    rows.append(["---"] * 2 + ["---:"] * len(peers))
    for entry in entries:
        cells = [_text(entry["peak"].get(peer)) for peer in peers]
        rows.append([entry["shape"], entry["pass"], *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(found: dict[str, int] | None) -> str:
    if found is None:
        return "–"
    planned = found.get("temporary_bytes")
    text = f"{found['peak_bytes'] / 2**20:.1f}"
    return text if planned is None else f"{text} (temporary {planned / 2**20:.1f})"


def peak_of_call(asked: dict[str, Any]) -> dict[str, int]:
    shape = Shape(**asked["shape"])
    peer_class: Any = SOURCES[asked["peer"]].load()
    # A small call first: what libraries and thread pools take when they start is not this call's.
    small = dataclasses.replace(
        shape, steps=2, hidden=min(shape.hidden, 64), inputs=min(shape.inputs, 64)
    )
    _prepare(peer_class, small, asked)[1]()
    program, call = _prepare(peer_class, shape, asked)
    planned = {}
    if program is not None:
        analysis = program.memory_analysis()
        names = {"temporary": "temp", "argument": "argument", "output": "output"}
        planned = {
            f"{ours}_bytes": getattr(analysis, f"{theirs}_size_in_bytes")
            for ours, theirs in names.items()
        }
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text(RESET_HIGH_WATER)
    before = _status_bytes("VmRSS")
    result = call()  # kept: the outputs count
    peak = _status_bytes("VmHWM") - before
    del result
    return {"peak_bytes": peak, **planned}


def _prepare(peer_class: Any, shape: Shape, asked: dict[str, Any]) -> tuple[Any, Any]:
    """The compiled program, None for the peers outside JAX, and a call of it."""
    peer = peer_class(shape, draw(shape), asked["threads"])
    if hasattr(peer, "compiled"):
        return peer.compiled(asked["direction"])
    return None, peer.forward if asked["direction"] == "forward" else peer.backward


def _status_bytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    print(json.dumps(peak_of_call(json.loads(sys.argv[1]))))
