"""The physical limit: how fast the machine could run a shape, from what it was measured to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.problem import DTYPES, Shape

SOURCE = Path(__file__).with_name("limits.cc")
COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Limits:
    """What `threads` cores together were measured to do."""

    threads: int
    caches: Mapping[str, int]  # bytes of L1 and L2 (of a core) and of L3 (of all)
    bandwidth: Mapping[str, float]  # bytes a second read from L1, L2, L3, memory
    flops: Mapping[str, float]  # a second, by the factors' type, and of bfloat16's dot product


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
    levels = [f"{word}" for item in buffers(threads, caches).items() for word in item]
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/limits"
        _run([compiler, "-O3", "-march=native", "-std=c++17", "-pthread", SOURCE, "-o", program])
        printed = json.loads(_run([program, threads, seconds, *levels]))
    return Limits(threads, dict(caches), printed["bandwidth"], printed["flops"])


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


def limit_seconds(shape: Shape, direction: str, limits: Limits) -> float:
    """The least time for a shape.

    A step reads the recurrent weights once from the level where they reside and does their
    multiply-adds: the slower of the two is its time, for they overlap. What is not sequential (the
    projection of the inputs; with the backward pass also both kernels' and the inputs' gradients)
    goes at the peak rate of multiply-adds.
    """
    t, b, i, h = shape.steps, shape.batch, shape.inputs, shape.hidden
    width = shape.gates * h
    flops = limits.flops[shape.dtype]
    weight_bytes = h * width * DTYPES[shape.dtype].itemsize
    read = weight_bytes / limits.bandwidth[resident_level(weight_bytes, limits)]
    chain = t * max(read, 2 * b * h * width / flops)
    project = 2 * t * b * i * width / flops
    if direction == "forward":
        return chain + project
    recurrent_gradient = 2 * t * b * h * width / flops
    return 2 * chain + 3 * project + recurrent_gradient
