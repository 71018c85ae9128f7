# SPDX-License-Identifier: Apache-2.0
"""What the model makes of measured times, in words and Markdown. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks import summary
from benchmarks.problem import PASSES
from benchmarks.scaling_claims import NONE, claims_table, markdown, percent, ratio
from benchmarks.scaling_measured import CPU_PEERS, NO_GPU, Measured, of_cpu
from benchmarks.scaling_model import (
    DEVICES,
    Cluster,
    best_rate,
    efficiency,
    rate,
    shared_cores,
)
from benchmarks.scaling_virtual import MAPPED, name_on
from benchmarks.summary import Results


def report(results: Results, gpu: Measured | None, totals: Iterable[int], at: Cluster) -> str:
    cpu = of_cpu(results)
    parts = [summary.heading(results), _model(at)]
    for label, measured in (("CPU", cpu), ("GPU", gpu)):
        if measured is None:
            parts.append(NO_GPU if label == "GPU" else "The CPU was not measured: no figure.")
            continue
        parts += [f"## {label}: {measured.name}", measured.warning, layer_table(measured)]
        parts += [scaling_table(measured, total, at) for total in totals]
    if results["virtual"]:
        parts += ["## Virtual devices", virtual_table(results)]
    parts += ["## The paper's claims, and what we get", claims_table(cpu, gpu, at)]
    return "\n\n".join(part for part in parts if part)


def layer_table(measured: Measured) -> str:
    """One layer on one device, forward and backward, at every batch that was measured."""
    best, kernels = best_rate(measured.kernels), measured.kernels
    heads = ["B"]
    for name in kernels:
        heads += [f"{name} ms", "efficiency", "of peak"]
    rows = []
    for batch in sorted({batch for kernel in kernels.values() for batch in kernel}):
        row = [str(batch)]
        for kernel in kernels.values():
            if batch not in kernel:
                row += [NONE] * 3
                continue
            each = rate(kernel, batch)
            row += [f"{1e3 * kernel[batch].both:.3g}", percent(each / best)]
            row.append(percent(measured.fraction_of_peak(each)))
        rows.append([*row, ratio(measured, batch)])
    shape = measured.shape
    title = f"One layer, {shape.cell} T={shape.steps} H={shape.hidden} I={shape.inputs} "
    title += f"{shape.dtype}, {PASSES[-1]}, one device:"
    return f"{title}\n\n{markdown([*heads, 'ratio'], rows)}"


def scaling_table(measured: Measured, total: int, at: Cluster) -> str:
    best = best_rate(measured.kernels)
    curves = {
        name: {point.devices: point for point in measured.curve(name, total, at)}
        for name in measured.kernels
    }
    heads = ["devices", "B each"]
    for name in curves:
        heads += [f"{name} ms", "waiting ms", "efficiency", "of peak"]
    rows = []
    for devices in DEVICES:
        points = [points.get(devices) for points in curves.values()]
        if not any(points):
            continue
        row = [str(devices), str(total // devices)]
        for point in points:
            if point is None:
                row += [NONE] * 4
                continue
            part = efficiency(point, at.layers, best)
            row += [f"{1e3 * point.seconds:.4g}", f"{1e3 * point.exposed:.3g}", percent(part)]
            row.append(percent(measured.fraction_of_peak(part * best)))
        rows.append(row)
    title = f"A step of {at.layers} layers, {total} sequences in all:"
    ends = []
    if total < DEVICES[-1]:
        ends.append(f"{total} sequences don't split over more than {total} devices.")
    if at.link.reach is not None and at.link.reach < min(total, DEVICES[-1]):
        ends.append(f"This link connects no more than {at.link.reach} devices.")
    return "\n\n".join([title, markdown(heads, rows), *ends])


def virtual_rows(results: Results) -> list[tuple[str, int, float, float | None]]:
    """(kernel, devices, measured seconds, the model's seconds) of the run on virtual devices."""
    entry, cpu = results["virtual"], of_cpu(results)
    labels = {peer: name for name, peer in CPU_PEERS.items()}
    bandwidth = results["limits"] and results["limits"]["bandwidth"]["memory"]
    rows = []
    for peer in entry["names"]:
        label = labels[peer.removesuffix(MAPPED)]
        name = f"{label}, shard_map" if peer.endswith(MAPPED) else label
        for devices in entry["devices"]:
            sizes = (entry["batch"], devices, entry["layers"])
            expected = None
            if cpu is not None:
                expected = shared_cores(cpu.kernels[label], cpu.shape, *sizes, bandwidth)
            middle = entry["peers"][name_on(peer, devices)]["median_ms"]
            rows.append((name, devices, middle / 1e3, expected))
    return rows


def virtual_table(results: Results) -> str:
    entry, rows = results["virtual"], []
    alone: dict[str, float] = {}
    for name, devices, seconds, expected in virtual_rows(results):
        alone.setdefault(name, seconds)
        row = [name, str(devices), str(entry["batch"] // devices), f"{1e3 * seconds:.4g}"]
        row += (
            [NONE, NONE]
            if expected is None
            else [f"{1e3 * expected:.4g}", f"{seconds / expected:.2f}"]
        )
        rows.append([*row, f"{seconds / alone[name]:.2f}"])
    first = entry["devices"][0]
    heads = ["kernel", "devices", "B each", "measured ms", "model ms", "measured/model"]
    return (
        f"A step of {entry['layers']} layers of {summary.shape_of(entry)} {entry['dtype']}, its "
        f"{entry['batch']} sequences split over devices that XLA makes of this one CPU. All of "
        f"them share its {results['threads']} threads, so nothing can get faster with more of "
        "them: what is seen is the price of smaller batches, of taking turns and of the "
        "reduction. The model: D times a device's step with all cores, then 2 D times the "
        "gradients' bytes through memory. Without shard_map, XLA partitions the step; it gathers "
        "a scan's arrays at every time step.\n\n"
        f"{markdown([*heads, f'against {first}'], rows, words=1)}"
    )


def _model(at: Cluster) -> str:
    return (
        f"The model: link {at.link.source}; {1e6 * at.link.latency:g} µs a hop, "
        f"{at.link.bandwidth / 1e9:g} GB/s each way; all-reduce: {at.collective}, behind the "
        "backward pass. A local batch that was not measured is run as several that were. "
        "Efficiency: sequences a second and device, as a part of the most that any kernel does "
        "on one device at any batch. A scan is taken to be partitioned without a gather."
    )
