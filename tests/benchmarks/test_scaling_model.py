# SPDX-License-Identifier: Apache-2.0
"""The scaling model against sums done by hand, and what must hold of it whatever the link."""

from __future__ import annotations

import pytest

from benchmarks.problem import Shape
from benchmarks.scaling_model import (
    COLLECTIVES,
    DEVICES,
    Cluster,
    Link,
    Times,
    best_rate,
    efficiency,
    exposed,
    faster,
    gradient_bytes,
    parts,
    ring,
    shared_cores,
    step,
    tree,
)

NO_LINK = Link(0.0, float("inf"), None, "none")
GRU = Shape("gru", 5, 3, 6, 4, "float32")  # 864 bytes of gradients
KERNEL = {2: Times(1.0, 2.0), 8: Times(2.0, 4.0)}


@pytest.mark.parametrize(
    ("devices", "size", "rings", "trees"),
    [
        (1, 40, 0, 0),
        (2, 40, 4 + 4, 4 + 8),
        (4, 40, 12 + 6, 8 + 8),
        (4, 80, 12 + 12, 8 + 16),  # where the two cross
        (4, 800, 12 + 120, 8 + 160),
        (5, 40, 16 + 6.4, 12 + 8),
        (64, 0, 252, 24),
    ],
)
def test_all_reduce(devices, size, rings, trees):
    link = Link(latency=2.0, bandwidth=10.0, reach=None, source="")
    assert ring(devices, size, link) == pytest.approx(rings)
    assert tree(devices, size, link) == pytest.approx(trees)
    assert faster(devices, size, link) == pytest.approx(min(rings, trees))


@pytest.mark.parametrize(
    ("backward", "reductions", "left"),
    [
        ([3, 3], [2, 5], 5),  # the first hides behind the second layer
        ([3, 3], [10, 1], 8),  # the second waits for the first
        ([3, 5], [5, 0], 0),
        ([3], [2], 2),  # one layer hides nothing
        ([3, 3], [0, 0], 0),
    ],
)
def test_what_the_backward_pass_does_not_hide(backward, reductions, left):
    assert exposed(backward, reductions) == pytest.approx(left)


def test_gradients_of_a_layer():
    assert gradient_bytes(GRU) == (4 + 6 + 2) * 18 * 4
    assert gradient_bytes(Shape("lstm", 5, 3, 6, 4, "bfloat16")) == (4 + 6 + 1) * 24 * 2
    assert gradient_bytes(Shape("elman", 5, 3, 6, 4, "float32")) == (4 + 6 + 1) * 6 * 4


def test_a_batch_that_was_not_measured_is_run_in_parts():
    assert parts(8, KERNEL) == (1, 8)
    assert parts(24, KERNEL) == (3, 8)
    assert parts(6, KERNEL) == (3, 2)
    assert parts(3, KERNEL) is None


def test_steps_without_a_link_only_compute():
    at = Cluster(3, NO_LINK, "ring")
    seconds = {1: 2 * 18, 2: 18, 4: 2 * 9, 8: 9}
    for devices, expected in seconds.items():
        point = step(KERNEL, GRU, 16, devices, at)
        assert point == (devices, 16 // devices, pytest.approx(expected), 0.0)
    assert step(KERNEL, GRU, 16, 16, at) is None  # one sequence each: not measured
    assert step(KERNEL, GRU, 16, 3, at) is None
    assert step(KERNEL, GRU, 16, 32, at) is None


def test_steps_with_a_link():
    # Two hops and the 864 bytes of each of the 3 layers, each behind 4 seconds of the next one.
    at = Cluster(3, Link(0.5, 864.0, 2, ""), "ring")
    assert step(KERNEL, GRU, 16, 2, at) == (2, 8, pytest.approx(18 + 2), pytest.approx(2.0))
    assert step(KERNEL, GRU, 16, 4, at) is None  # the link reaches two
    slow = Cluster(3, Link(0.5, 86.4, None, ""), "ring")
    # 1 + 10 each: 4 + 3 * 11, less 12 of computing.
    assert step(KERNEL, GRU, 16, 2, slow) == (2, 8, pytest.approx(18 + 25), pytest.approx(25.0))
    assert step(KERNEL, GRU, 16, 1, slow) == (1, 16, pytest.approx(36.0), 0.0)


def test_efficiency_is_of_the_best_on_one_device():
    kernels = {"persistent": KERNEL, "scan": {4: Times(3.0, 5.0)}}
    best = best_rate(kernels)
    assert best == pytest.approx(8 / 6)
    found = [step(KERNEL, GRU, 16, devices, Cluster(3, NO_LINK, "tree")) for devices in (1, 2, 8)]
    assert [efficiency(point, 3, best) for point in found] == pytest.approx([1, 1, 2 / 3 / best])


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_a_link_only_costs(collective):
    """Less with more bandwidth; efficiency is never above that of computing alone, nor above 1."""
    kernel = {batch: Times(1e-3 + 2e-4 * batch, 2e-3 + 3e-4 * batch) for batch in DEVICES[:8]}
    links = [NO_LINK, *(Link(1e-5, bandwidth, None, "") for bandwidth in (1e9, 1e7, 1e5))]
    best = best_rate({"scan": kernel})
    for devices in DEVICES:
        points = [step(kernel, GRU, 1024, devices, Cluster(4, link, collective)) for link in links]
        found = [efficiency(point, 4, best) for point in points]
        assert found == sorted(found, reverse=True)
        assert found[0] <= 1 + 1e-12
        assert found[-1] > 0
        assert (devices == 1) == (len(set(found)) == 1)


def test_virtual_devices_take_turns():
    # 3 layers; the gradients of two devices are read and written in a second.
    assert shared_cores(KERNEL, GRU, 16, 2, 3, 2 * 2 * 864) == pytest.approx(3 * (2 * 6 + 1))
    assert shared_cores(KERNEL, GRU, 16, 2, 3, None) == pytest.approx(36)
    assert shared_cores(KERNEL, GRU, 16, 1, 3, 1.0) == pytest.approx(36)
    assert shared_cores(KERNEL, GRU, 16, 3, 3, 1.0) is None
