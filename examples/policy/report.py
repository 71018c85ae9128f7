# SPDX-License-Identifier: Apache-2.0
"""The returns of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from examples.common.metrics import read_metrics


def plot_returns(metrics: Path, path: Path, *, rollout_steps: int, task: str) -> None:
    """Returns with memory and without, against steps of a policy's environments together."""
    rows = read_metrics(metrics)
    steps = [int(row["step"]) * rollout_steps for row in rows]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for column, label, color in (
        ("return", "with memory", "tab:blue"),
        ("memoryless_return", "memoryless", "tab:orange"),
    ):
        axes.plot(steps, [float(row[column]) for row in rows], color=color, label=label)
    axes.set(xlabel="environment steps", ylabel="return of an episode", title=task, ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
