# SPDX-License-Identifier: Apache-2.0
"""The course of a training run as a picture.

matplotlib takes a second to import, and is where something is drawn: most hosts draw nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.common.metrics import read_metrics


def plot_loss(
    metrics: Path, path: Path, *, unit: str, training: str = "training", error: str = ""
) -> None:
    """Losses in nats a `unit`; `error` names a share among the metrics, drawn against the right."""
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    steps = np.array([int(row["step"]) for row in rows])
    losses = np.array([float(row["loss"]) for row in rows])
    window = max(1, len(rows) // 50)
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    judged = [row for row in rows if row["valid_loss"]]
    at = [int(row["step"]) for row in judged]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="tab:blue", alpha=0.2, linewidth=0.5)
    axes.plot(steps[window - 1 :], smooth, color="tab:blue", label=training)
    marked = {"marker": "o", "markersize": 3}
    valid = [float(row["valid_loss"]) for row in judged]
    axes.plot(at, valid, color="tab:orange", label="validation", **marked)
    axes.set(xlabel="step", ylabel=f"loss, nats a {unit}")
    axes.grid(alpha=0.3)
    if error:
        right = axes.twinx()
        shares = [float(row[error]) for row in judged]
        right.plot(at, shares, color="tab:red", linestyle="--", **marked)
        right.set_ylabel(f"{error} (dashed)", color="tab:red")
        right.set_ylim(0, max(1.0, *shares))
    axes.legend()
    figure.savefig(path, dpi=150)
