# SPDX-License-Identifier: Apache-2.0
"""Where and with what a measurement was made, and how many cores it may use."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("jax", "jaxlib", "flax", "torch", "onnxruntime", "numpy")
GPU_PACKAGES = ("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "flashrnn")
GPU_FACTS = {
    "gpu": "name",
    "driver": "driver_version",
    "megabytes": "memory.total",
    "clock_mhz": "clocks.sm",
    "most_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "watts": "power.draw",
    "most_watts": "power.limit",
    "celsius": "temperature.gpu",
}


def limit_cores(threads: int | None) -> int:
    """Keeps this process to `threads` of its cores (all if None); returns how many it then has.

    XLA sizes its pool of CPU threads by the cores that the process may use when it starts, and has
    no setting for it: call this before jax is imported.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if threads is None:
        return len(allowed)
    if not 1 <= threads <= len(allowed):
        raise ValueError(f"threads: expected 1 to {len(allowed)} on this machine; got {threads}")
    os.sched_setaffinity(0, allowed[:threads])
    return threads


def xla_threads() -> int:
    """Threads of the pool that XLA started for its CPU client."""
    names = (_first_line(task / "comm") for task in Path("/proc/self/task").iterdir())
    return sum(name.startswith("tf_XLAEigen") for name in names)


def caches() -> dict[str, int]:
    """Bytes of the data caches that the first core uses: {"L1": .., "L2": .., "L3": ..}."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _first_line(folder / "type") != "Instruction":
            kibibytes = int(_first_line(folder / "size").removesuffix("K") or 0)
            found[f"L{_first_line(folder / 'level')}"] = kibibytes << 10
    return {level: size for level, size in found.items() if size}


def cpu_model() -> str:
    """The processor's name; with its numbers, for virtual machines shorten the name."""
    facts: dict[str, str] = {}
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts and "model" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def describe(isa: str) -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "caches": caches(),
        "isa": isa,
        **software(),
    }


def software() -> dict[str, Any]:
    """What is the same to say of every machine."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions((*PACKAGES, *GPU_PACKAGES)),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_at_start": load(),
    }


def gpu() -> dict[str, str]:
    """What nvidia-smi says of the first GPU at this moment; nothing where it isn't."""
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_FACTS.values())}"]
    command += ["--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.split(",")]
    return dict(zip(GPU_FACTS, values, strict=True)) if len(values) == len(GPU_FACTS) else {}


def cuda_compiler() -> str:
    """The last line of `nvcc --version`, or "none"."""
    try:
        done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return (done.stdout.strip().splitlines() or ["none"])[-1]


def versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def load() -> float:
    """Processes that wanted a core, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


def commit() -> str:
    """The checkout's commit, with "-dirty" where a tracked file differs; "unknown" without git.

    A copy that has no .git may be told by the environment.
    """
    if "JAX_PERSISTENT_COMMIT" in os.environ:
        return os.environ["JAX_PERSISTENT_COMMIT"]
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "")
