# SPDX-License-Identifier: Apache-2.0
"""The picture: efficiency against devices for each global batch, and the virtual devices' run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import mul
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, StrMethodFormatter

from benchmarks.plot import COLOURS, log_scales
from benchmarks.scaling_measured import NO_GPU, PERSISTENT, SCAN, Measured, of_cpu
from benchmarks.scaling_model import DEVICES, Cluster, Link, best_rate, efficiency
from benchmarks.scaling_summary import virtual_rows
from benchmarks.summary import Results

KERNELS = {PERSISTENT: COLOURS["jax_persistent"], SCAN: COLOURS["scan"]}
MAPPED = "tab:cyan"
NO_LINK = Link(0.0, float("inf"), None, "none")


def plot(
    results: Results, gpu: Measured | None, totals: Sequence[int], at: Cluster, stem: Path
) -> Path:
    """Draws the PNG; returns its path."""
    halves = [("CPU", of_cpu(results)), ("GPU", gpu)]
    rows = [(label, measured) for label, measured in halves if measured is not None]
    columns = len(totals) + 1
    figure = Figure(figsize=(3.6 * columns, 1.6 + 3.2 * max(len(rows), 1)), layout="constrained")
    panels = figure.subplots(max(len(rows), 1), columns, squeeze=False)
    for line, (label, measured) in zip(panels, rows, strict=False):
        for axes, total in zip(line, totals, strict=False):
            _efficiency(axes, measured, total, at)
            axes.set_title(f"{label}: {total} sequences", fontsize=10)
        line[0].set_ylabel("efficiency, %")
    _virtual(panels[0][-1], results)
    for line in panels[1:]:
        line[-1].set_axis_off()
    legend = {e.get_label(): e for axes in panels.flat for e in axes.get_lines()}
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4)
    names = [f"{label}: {each.name}, {_layer(each)}" for label, each in rows]
    names += [NO_GPU] if gpu is None else []
    facts = results["machine"]
    figure.suptitle(
        "\n".join([*names, f"{_link(at)}; commit {facts['commit']}, {facts['date'][:10]}"]),
        fontsize=9,
    )
    path = stem.with_name(f"{stem.name}.png")
    figure.savefig(path, dpi=110)
    return path


def _efficiency(axes: Axes, measured: Measured, total: int, at: Cluster) -> None:
    best = best_rate(measured.kernels)
    for name, colour in KERNELS.items():
        for cluster, style in ((at, "o-"), (replace(at, link=NO_LINK), ":")):
            points = measured.curve(name, total, cluster)
            parts = [100 * efficiency(point, at.layers, best) for point in points]
            label = name if cluster is at else f"{name}, without the link"
            axes.plot([p.devices for p in points], parts, style, ms=3, color=colour, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlim(DEVICES[0] / 1.3, DEVICES[-1] * 1.3)
    axes.set_ylim(0, 105)
    axes.xaxis.set_major_locator(FixedLocator(DEVICES[::2]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("devices")
    axes.grid(alpha=0.3)
    middle: Any = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, measured.warning.replace(": ", ":\n"), color="tab:red", **middle)
    whole = measured.fraction_of_peak(best)
    if whole is not None:
        of_peak = axes.secondary_yaxis("right", (partial(mul, whole), partial(mul, 1 / whole)))
        of_peak.set_ylabel("% of peak", fontsize=8)
        of_peak.tick_params(labelsize=8)


def _virtual(axes: Axes, results: Results) -> None:
    entry = results["virtual"]
    if not entry:
        axes.set_axis_off()
        return
    lines = defaultdict(list)
    for name, devices, seconds, expected in virtual_rows(results):
        lines[name].append((devices, 1e3 * seconds, None if expected is None else 1e3 * expected))
    for name, found in lines.items():
        kernel = name.split(",")[0]
        at, measured, modelled = zip(*found, strict=True)
        colour = KERNELS[kernel] if name == kernel else MAPPED
        axes.plot(at, measured, "s-", ms=4, color=colour, label=f"{name}, virtual devices")
        if name == kernel and None not in modelled:
            axes.plot(at, modelled, "--", color=colour, label=f"{name}, model on shared cores")
    log_scales(axes, entry["devices"])
    axes.set_title(
        f"virtual devices on {results['threads']} shared threads:\n{entry['batch']} sequences, "
        f"{entry['layers']} layers",
        fontsize=10,
    )
    axes.set_xlabel("devices")
    axes.set_ylabel("ms a step")
    axes.grid(alpha=0.3)


def _layer(measured: Measured) -> str:
    shape = measured.shape
    return f"{shape.cell} T={shape.steps} H={shape.hidden} {shape.dtype}"


def _link(at: Cluster) -> str:
    return (
        f"{at.layers} layers; {1e6 * at.link.latency:g} µs a hop, {at.link.bandwidth / 1e9:g} GB/s "
        f"({at.link.source}); all-reduce: {at.collective}"
    )
