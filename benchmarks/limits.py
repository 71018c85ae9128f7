# SPDX-License-Identifier: Apache-2.0
"""The physical limit: how fast the machine could run a shape, from what it was measured to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.problem import DTYPES, Shape

SOURCE = Path(__file__).with_name("limits.cc")
COMPILERS = ("c++", "g++", "clang++")
AROUND_L2 = (0.5, 0.625, 0.75, 0.875, 1, 1.25, 1.5, 2, 3, 4)  # of its size, what is read


@dataclass(frozen=True)
class Limits:
    """What `threads` cores together were measured to do."""

    threads: int
    caches: Mapping[str, int]  # bytes of L1 and L2 (of a core) and of L3 (of all)
    bandwidth: Mapping[str, float]  # bytes a second read from L1, L2, L3, memory
    flops: Mapping[str, float]  # a second, by the factors' type, and of bfloat16's dot product
    # Bytes that each core reads again and again, and bytes a second of all: around the size of L2.
    around_l2: Sequence[tuple[int, float]] = ()
    # Of a vector of float32: its lanes; seconds of a core for a "store", to "divide", and for a
    # multiply-add on which the next one is "dependent".
    vector: Mapping[str, float] = field(default_factory=dict)
    meeting: float = 0.0  # seconds in which all cores learn that all have arrived


def measure(threads: int, caches: Mapping[str, int], seconds: float = 0.01) -> Limits:
    """Compiles limits.cc for this machine and runs it.

    Raises:
      RuntimeError: there is no C++ compiler, or it or the program failed.
    """
    asked = os.environ.get("CXX")
    compiler = next(filter(None, map(shutil.which, [asked] if asked else COMPILERS)), None)
    if compiler is None:
        looked = asked or ", ".join(COMPILERS)
        raise RuntimeError(f"no C++ compiler found (looked for {looked}); install one or set CXX")
    sizes = [int(caches["L2"] * part) for part in AROUND_L2] if "L2" in caches else []
    around = {f"{size}": size for size in sizes}
    reads = (buffers(threads, caches) | around).items()
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/limits"
        _run([compiler, "-O3", "-march=native", "-std=c++17", "-pthread", SOURCE, "-o", program])
        words = [word for read in reads for word in read]
        printed = json.loads(_run([program, threads, seconds, *words]))
    rates = printed["bandwidth"]
    around_l2 = [(size, rates.pop(name)) for name, size in around.items()]
    return Limits(
        threads,
        dict(caches),
        rates,
        printed["flops"],
        around_l2,
        printed["vector"],
        printed["meeting"],
    )


def of_one_and_all() -> list[dict[str, Any]]:
    """Limits of one core and of all, as a results file has them; none without a compiler."""
    try:
        all_cores = len(os.sched_getaffinity(0))
        found = [measure(cores, machine.caches(), 0.05) for cores in (1, all_cores)]
    except RuntimeError:
        return []
    return [asdict(each) for each in found]


def _run(command: list[object]) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def buffers(threads: int, caches: Mapping[str, int]) -> dict[str, int]:
    """Bytes for each thread to read so that they come from each level, and from no nearer one."""
    found = {level: caches[level] // 2 for level in ("L1", "L2") if level in caches}
    shared = caches.get("L3", 0)
    if shared:
        found["L3"] = max(2 * caches.get("L2", 0), shared // (2 * threads))
    found["memory"] = min(max(4 * shared, 64 << 20), 1 << 30) // threads
    return found


def resident_level(weight_bytes: int, limits: Limits) -> str:
    """The nearest level that holds the weights, each core its share of them."""
    for level in ("L1", "L2"):
        if weight_bytes / limits.threads <= limits.caches.get(level, 0):
            return level
    return "L3" if weight_bytes <= limits.caches.get("L3", 0) else "memory"


def read_seconds(weight_bytes: int, limits: Limits) -> float:
    """The least time to read weights that were read before, each core its share of them.

    By the level that holds them; but a cache that they fill, or outgrow by little, is neither as
    fast as one with room to spare nor as slow as the next: there, by what that many bytes took.
    """
    sizes = [size for size, _ in limits.around_l2]
    share = weight_bytes / limits.threads
    if not sizes or not sizes[0] <= share <= sizes[-1]:
        return weight_bytes / limits.bandwidth[resident_level(weight_bytes, limits)]
    times = [size / rate for size, rate in limits.around_l2]
    return float(np.interp(share, sizes, times)) * limits.threads


def limit_seconds(shape: Shape, direction: str, limits: Limits) -> float:
    """The least time for a shape.

    A step reads the recurrent weights once, from where they reside, and does their multiply-adds:
    the slower of the two is its time, for they overlap. What is not sequential (the projection of
    the inputs; with the backward pass also both kernels' and the inputs' gradients) goes at the
    peak rate of multiply-adds.
    """
    t, b, i, h = shape.steps, shape.batch, shape.inputs, shape.hidden
    width = shape.gates * h
    flops = limits.flops[shape.dtype]
    weight_bytes = h * width * DTYPES[shape.dtype].itemsize
    read = read_seconds(weight_bytes, limits)
    chain = t * max(read, 2 * b * h * width / flops)
    project = 2 * t * b * i * width / flops
    if direction == "forward":
        return chain + project
    recurrent_gradient = 2 * t * b * h * width / flops
    return 2 * chain + 3 * project + recurrent_gradient
