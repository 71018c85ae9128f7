# SPDX-License-Identifier: Apache-2.0
"""The pictures: time against batch, log-log, a panel for each cell and hidden size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from benchmarks.problem import GATES

COLOURS = {
    "jax_persistent": "tab:red",
    "jax_persistent.linen": "tab:pink",
    "jax_persistent.grid": "tab:pink",
    "jax_persistent.grid-barrier": "tab:purple",
    "jax_persistent.cluster": "tab:brown",
    "scan": "tab:blue",
    "jax.experimental.rnn": "tab:cyan",
    "cudnn": "tab:orange",
    "cudnn-float16": "tab:olive",
    "flashrnn": "tab:green",
    "flax": "tab:blue",
    "pytorch": "tab:orange",
    "onnxruntime": "tab:green",
}


def plot(results: dict[str, Any], stem: Path) -> list[Path]:
    """A PNG for each dtype, T, input size (I=H is one) and pass; returns their paths."""
    figures: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for entry in results["entries"]:
        inputs = [] if entry["inputs"] == entry["hidden"] else [f"I{entry['inputs']}"]
        figures[(entry["dtype"], f"T{entry['steps']}", *inputs, entry["pass"])].append(entry)
    paths = []
    for parts, entries in figures.items():
        name = "-".join((stem.name, *parts)).replace("+", "-")
        path = stem.with_name(f"{name}.png")
        _figure(results, ", ".join(parts), entries).savefig(path, dpi=110)
        paths.append(path)
    return paths


def _figure(results: dict[str, Any], title: str, entries: list[dict[str, Any]]) -> Figure:
    cells = [cell for cell in GATES if any(entry["cell"] == cell for entry in entries)]
    sizes = sorted({entry["hidden"] for entry in entries})
    size = max(2 + 2.8 * len(sizes), 8.5), 1.4 + 2.5 * len(cells)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(cells), len(sizes), sharex=True, squeeze=False)
    for row, cell in enumerate(cells):
        for column, hidden in enumerate(sizes):
            chosen = [e for e in entries if (e["cell"], e["hidden"]) == (cell, hidden)]
            axes = panels[row][column]
            axes.set_title(f"{cell}, H={hidden}", fontsize=10)
            _panel(axes, results["peers"], sorted(chosen, key=lambda entry: entry["batch"]))
        panels[row][0].set_ylabel("ms")
    for axes in panels[-1]:
        axes.set_xlabel("batch")
    lines = {line.get_label(): line for axes in panels.flat for line in axes.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines) or 1)
    machine = results["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['isa']}"
    threads = f", threads: {results['threads']}" if "threads" in results else ""
    figure.suptitle(
        f"{title}\n{where}{threads}; commit {machine['commit']}, {machine['date'][:10]}",
        fontsize=10,
    )
    return figure


def _panel(axes: Axes, peers: list[str], entries: list[dict[str, Any]]) -> None:
    for peer in peers:
        timed = [entry for entry in entries if peer in entry["peers"]]
        if not timed:
            continue
        batches = [entry["batch"] for entry in timed]
        measured = [entry["peers"][peer] for entry in timed]
        lower, upper = zip(*(each["quartiles_ms"] for each in measured), strict=True)
        medians = [each["median_ms"] for each in measured]
        axes.plot(batches, medians, marker="o", ms=3, color=COLOURS[peer], label=peer)
        axes.fill_between(batches, lower, upper, color=COLOURS[peer], alpha=0.15, linewidth=0)
    limited = [(e["batch"], e["limit_ms"]) for e in entries if e.get("limit_ms") is not None]
    if limited:
        axes.plot(*zip(*limited, strict=True), "k--", linewidth=1, label="physical limit")
    log_scales(axes, sorted({entry["batch"] for entry in entries}))
    axes.grid(alpha=0.3)


def log_scales(axes: Axes, ticks: Sequence[int]) -> None:
    """Both scales in plain numbers, that below with these ticks. To be called after plotting."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if axes.get_lines() and not _spans_a_decade(axes):
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())


def _spans_a_decade(axes: Axes) -> bool:
    lower, upper = axes.get_ylim()
    return upper >= 10 * lower
