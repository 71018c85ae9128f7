# SPDX-License-Identifier: Apache-2.0
"""The model of data-parallel training at a fixed global batch. Pure functions of measured times.

A step of a network of L equal layers on D devices, each with N/D of the N sequences:

    step(D) = L * (forward + backward)(N/D) + exposed(D)

The gradients of a layer's weights are summed over the devices (all-reduce) once its backward pass
is done, while the layers below it go on; the reductions of different layers follow one another.
What lasts longer than the backward pass is exposed. The update of the weights is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.problem import DTYPES, Shape

DEVICES = tuple(2**power for power in range(11))


@dataclass(frozen=True)
class Link:
    """Between any two devices, each of which sends and receives at once."""

    latency: float  # seconds of a hop
    bandwidth: float  # bytes a second that a device sends, and as many that it receives
    reach: int | None  # devices it can connect; None: any number
    source: str


# Latencies are the hops of NCCL's own model (NVIDIA/nccl src/graph/tuning.cc, hwLat, ring with the
# Simple protocol), but for Ethernet's.
LINKS: Mapping[str, Link] = {
    "nvlink4": Link(3.4e-6, 450e9, 8, "H100 datasheet: 900 GB/s both ways; HGX: 8 GPUs"),
    "nvlink5": Link(3.4e-6, 900e9, 72, "GB200 NVL72 datasheet: 1.8 TB/s both ways, 72 GPUs"),
    "ndr": Link(9.6e-6, 50e9, None, "InfiniBand NDR, 400 Gb/s for each device, as in a DGX H100"),
    "fdr": Link(9.6e-6, 6.8e9, None, "InfiniBand FDR, 4 x 14.0625 Gb/s in 64b/66b code: of 2016"),
    "25gbe": Link(30e-6, 3.1e9, None, "Ethernet, 25 Gb/s; a hop through TCP: assumed"),
}


def ring(devices: int, size: float, link: Link) -> float:
    """Seconds of an all-reduce of `size` bytes: reduce-scatter, then all-gather, around a ring.

        2 (D-1) latency + 2 (D-1)/D size / bandwidth

    Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
    workstations", J. Parallel Distrib. Comput. 69, 2009.
    """
    hops = 2 * (devices - 1)
    return hops * link.latency + hops / devices * size / link.bandwidth


def tree(devices: int, size: float, link: Link) -> float:
    """The same up and down two binary trees, each with half of the bytes, in a pipeline.

        2 ceil(log2 D) latency + 2 size / bandwidth

    A device is inside one tree and a leaf of the other, so it receives, and sends, the bytes twice.
    The time to fill the pipeline beyond the hops' latency is left out. Source: Sanders, Speck and
    Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan", Parallel
    Computing 35, 2009; NCCL's trees since 2.4.
    """
    if devices == 1:
        return 0.0
    return 2 * math.ceil(math.log2(devices)) * link.latency + 2 * size / link.bandwidth


def faster(devices: int, size: float, link: Link) -> float:
    """Of ring and tree, as NCCL chooses for each message."""
    return min(ring(devices, size, link), tree(devices, size, link))


COLLECTIVES: Mapping[str, Callable[[int, float, Link], float]] = {
    "faster": faster,
    "ring": ring,
    "tree": tree,
}


def exposed(backward: Sequence[float], reductions: Sequence[float]) -> float:
    """Seconds from the end of the backward pass to that of the last reduction.

    Both are in the order of the backward pass: layer by layer, the last one first.
    """
    computed = reduced = 0.0
    for compute, reduce in zip(backward, reductions, strict=True):
        computed += compute
        reduced = max(reduced, computed) + reduce
    return max(reduced - computed, 0.0)


class Times(NamedTuple):
    """Seconds of one layer at one local batch."""

    forward: float
    backward: float  # what forward and backward together take longer than forward alone

    @property
    def both(self) -> float:
        return self.forward + self.backward


Kernel = Mapping[int, Times]  # one kernel's, by local batch


class Point(NamedTuple):
    devices: int
    local: int  # sequences of a device
    seconds: float  # of a step
    exposed: float  # seconds of those in which a device only waits for the link


@dataclass(frozen=True)
class Cluster:
    """What the model needs besides the measured times."""

    layers: int
    link: Link
    collective: str


def gradient_bytes(shape: Shape) -> int:
    """Of one layer: both kernels and the bias; the GRU's second bias too."""
    biases = 2 if shape.cell == "gru" else 1
    width = shape.gates * shape.hidden
    return (shape.inputs + shape.hidden + biases) * width * DTYPES[shape.dtype].itemsize


def parts(local: int, kernel: Kernel) -> tuple[int, int] | None:
    """(how many, of how many sequences each) a local batch is run in; None if none fits.

    One, if it was measured; else the largest measured that divides it, one after the other, their
    gradients added up before the devices' are.
    """
    size = max((batch for batch in kernel if local % batch == 0), default=None)
    return None if size is None else (local // size, size)


def step(kernel: Kernel, shape: Shape, total: int, devices: int, at: Cluster) -> Point | None:
    """A training step of `total` sequences; None where they don't split, or the link ends."""
    beyond = at.link.reach is not None and devices > at.link.reach
    found = None if total % devices or beyond else parts(total // devices, kernel)
    if found is None:
        return None
    count, size = found
    reduction = COLLECTIVES[at.collective](devices, gradient_bytes(shape), at.link)
    waiting = exposed([kernel[size].backward] * at.layers, [reduction] * at.layers)
    seconds = count * at.layers * kernel[size].both + waiting
    return Point(devices, total // devices, seconds, waiting)


def rate(kernel: Kernel, batch: int) -> float:
    """Sequences a second through one layer, on one device without a link."""
    return batch / kernel[batch].both


def best_rate(kernels: Mapping[str, Kernel]) -> float:
    """The highest of any kernel at any batch: what efficiencies are parts of."""
    return max(rate(kernel, batch) for kernel in kernels.values() for batch in kernel)


def efficiency(point: Point, layers: int, best: float) -> float:
    """A device's rate in a step, as a part of the best rate of one device. At most 1."""
    return point.local * layers / point.seconds / best


def shared_cores(
    kernel: Kernel, shape: Shape, total: int, devices: int, layers: int, bandwidth: float | None
) -> float | None:
    """Seconds of a step whose devices are virtual: all of them share the cores of one machine.

    `kernel` was timed with all cores, so the devices take turns at them: D times a device's step.
    Then each device's gradients are read and written once, at the memory's `bandwidth`; without
    one, that is left out.
    """
    found = None if total % devices else parts(total // devices, kernel)
    if found is None:
        return None
    count, size = found
    moved = 2 * devices * gradient_bytes(shape) if devices > 1 and bandwidth else 0
    return layers * (devices * count * kernel[size].both + moved / (bandwidth or 1.0))
