# SPDX-License-Identifier: Apache-2.0
"""What the model takes from results files: a machine's times of a layer, by kernel and batch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cycles, gpu_summary, summary
from benchmarks.peers import OURS
from benchmarks.problem import PASSES, Shape
from benchmarks.scaling_model import DEVICES, Cluster, Kernel, Point, Times, step
from benchmarks.summary import Entry, Results

# The names of what is compared, and the peers that they are in a results file.
PERSISTENT, SCAN = "persistent", "scan"
CPU_PEERS = {PERSISTENT: OURS, SCAN: "flax"}
GPU_PEERS = {PERSISTENT: OURS, SCAN: "scan"}
# The GPUs that the cycle model's peak is right for.
KNOWN_GPUS = ("H100", "H200")
NO_GPU = "No GPU has been measured: no figure."


@dataclass(frozen=True)
class Measured:
    """One machine, and one layer on it, whatever the batch."""

    name: str
    warning: str  # to be printed wherever a figure is; empty if it is as good as any
    shape: Shape  # its batch means nothing
    kernels: Mapping[str, Kernel]
    peak: float | None  # operations a second

    def fraction_of_peak(self, sequences: float) -> float | None:
        """Of a device that does so many sequences a second through one layer."""
        if self.peak is None:
            return None
        each = gpu_summary.operations(self.shape, PASSES[-1]) / self.shape.batch
        return sequences * each / self.peak

    def curve(self, kernel: str, total: int, at: Cluster) -> list[Point]:
        """For 1 to 1024 devices, as far as the global batch and the link go."""
        times = self.kernels[kernel]
        found = (step(times, self.shape, total, devices, at) for devices in DEVICES)
        return [point for point in found if point is not None]


def of_cpu(results: Results) -> Measured | None:
    """From a file of `benchmarks.scaling`; None where there are no times of both kernels."""
    facts, limits = results["machine"], results["limits"]
    for shape, kernels in _by_layer(results["entries"], CPU_PEERS):
        name = f"{facts['cpu']}, {facts['isa']}, {results['threads']} threads"
        return Measured(name, "", shape, kernels, limits and limits["flops"][shape.dtype])
    return None


def of_gpu(results: Results, cell: str, source: str) -> Measured | None:
    """From a file of `benchmarks.gpu`: the layer of a cell with the most batches, the first such.

    None where there are no times of both kernels.
    """
    layers = [each for each in _by_layer(results["entries"], GPU_PEERS) if each[0].cell == cell]
    if not layers:
        return None
    shape, kernels = max(layers, key=lambda layer: sum(map(len, layer[1].values())))
    facts = results["machine"]
    known = any(name in facts["gpu"] for name in KNOWN_GPUS) and not facts["dry_run"]
    warning = "A dry run on the CPU: no figure here means anything." if facts["dry_run"] else ""
    peak = cycles.peak_flops(shape.dtype) if known else None
    return Measured(f"{facts['gpu']} ({source})", warning, shape, kernels, peak)


def find_gpu(folder: Path, cell: str) -> Measured | None:
    """From the newest file in a folder that was measured on a GPU; None if there is none."""
    found = []
    for path in folder.glob("gpu-*.json"):
        results = json.loads(path.read_text())
        measured = of_gpu(results, cell, path.name)
        if measured is not None and not results["machine"]["dry_run"]:
            found.append((results["machine"]["date"], measured))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _by_layer(
    entries: Iterable[Entry], peers: Mapping[str, str]
) -> Iterable[tuple[Shape, dict[str, Kernel]]]:
    """The layers at which both kernels have both passes, in the order of the entries."""
    layers: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        names = ("cell", "steps", "hidden", "inputs", "dtype")
        layers[tuple(entry[name] for name in names)].append(entry)
    for chosen in layers.values():
        kernels = {label: _kernel(chosen, peer) for label, peer in peers.items()}
        if all(kernels.values()):
            yield summary.shape_of(chosen[0]), kernels


def _kernel(entries: Iterable[Entry], peer: str) -> Kernel:
    seconds: dict[int, dict[str, float]] = defaultdict(dict)
    for entry in entries:
        if peer in entry["peers"]:
            middle = entry["peers"][peer]["median_ms"]
            seconds[entry["batch"]][entry["pass"]] = middle / 1e3
    forward, both = PASSES
    return {
        batch: Times(found[forward], max(found[both] - found[forward], 0.0))
        for batch, found in sorted(seconds.items())
        if len(found) == len(PASSES)
    }
