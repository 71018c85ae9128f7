# SPDX-License-Identifier: Apache-2.0
"""The pictures of README and book that are drawn from benchmarks/results.

    python -m benchmarks.pictures     # writes docs/pictures/*.svg

A test draws them again and compares, so that a picture is always that of its file.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.machine import RESULTS, ROOT
from benchmarks.summary import geometric_mean, ratio
from benchmarks.svg import COLOURS, QUIET, STRONG, Picture

PICTURES = ROOT / "docs" / "pictures"

GRID = "cpu-intel-xeon-model-207-2-threads-2026-11-25-grid.json"
SCAN = "scan-amd-epyc-2-threads-2026-11-28.json"
SHORT = "short-amd-epyc-1-thread-2026-11-28.json"
CELLS = {"lstm": "LSTM", "gru": "GRU", "elman": "Elman"}
PEERS = {
    "jax_persistent": "jax_persistent",
    "pytorch": "PyTorch",
    "flax": "flax",
    "onnxruntime": "ONNX Runtime",
}
TRAINING, FORWARD = "forward+backward", "forward"


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text())


def training_step() -> Picture:
    """A layer's time in training and forward, beside the peers."""
    shape = {"steps": 128, "batch": 4, "hidden": 512}
    times: dict[tuple[str, str], dict[str, float]] = {}
    for entry in read(GRID)["entries"]:
        if all(entry[name] == size for name, size in shape.items()):
            peers = {name: found["median_ms"] for name, found in entry["peers"].items()}
            times[entry["cell"], entry["pass"]] = peers
    row, head = 22, 38
    picture = Picture(
        "Time of a layer, training and forward, in ms: jax_persistent beside the others",
        40 + len(CELLS) * (head + len(PEERS) * row) + 54,
    )
    columns = ((TRAINING, 140, 190, "training step, ms"), (FORWARD, 410, 160, "forward only, ms"))
    for _, x, _, name in columns:
        picture.text(x, 22, name, 17, bold=True)
    y = 30
    for cell, cell_name in CELLS.items():
        picture.text(0, y + 26, cell_name, 18, bold=True)
        y += head
        for peer, name in PEERS.items():
            ours = peer == "jax_persistent"
            picture.text(0, y + 14, name, 16, bold=ours)
            for which, x, width, _ in columns:
                found = times[cell, which]
                if peer not in found:
                    picture.text(x, y + 14, "does not train", 15)
                    continue
                length = width * found[peer] / max(found.values())
                picture.bar(x, y + 1, length, 15, STRONG if ours else QUIET)
                value = f"{found[peer]:.3g}"
                picture.text(x + max(length, 2) + 7, y + 14, value, 16, bold=ours)
            y += row
    picture.text(
        0, y + 32, "128 steps of 4 sequences, 512 units, float32, two cores of an Intel", 15
    )
    picture.text(0, y + 52, "Xeon. Each cell, and each column, has a scale of its own.", 15)
    return picture


def ratios() -> Picture:
    """Every shape of the grid against the best of the others."""
    entries = read(GRID)["entries"]
    picture = Picture("How many times faster than the best peer, at every shape", 560)
    picture.text(0, 20, "times as fast as the best of flax, PyTorch, ONNX Runtime", 17, bold=True)
    widths = sorted({entry["hidden"] for entry in entries})
    for number, name in enumerate(CELLS.values()):
        picture.dot(8 + 110 * number, 43, COLOURS[number])
        picture.text(20 + 110 * number, 48, name)
    for top, which, title in ((70, FORWARD, "forward"), (310, TRAINING, "forward and backward")):
        bottom, most = top + 190, 16
        height = (bottom - top - 24) / math.log2(most / 0.5)

        def place(value: float, bottom: float = bottom, height: float = height) -> float:
            return bottom - height * math.log2(value / 0.5)

        picture.text(44, top + 12, title, 16, bold=True)
        for value in (0.5, 1, 2, 4, 8, 16):
            picture.line(40, place(value), 635, place(value), QUIET, dashed=value != 1)
            picture.text(34, place(value) + 5, f"{value:g}", 15, anchor="end")
        for column, hidden in enumerate(widths):
            x = 85 + 72 * column
            picture.text(x, bottom + 20, str(hidden), 15, anchor="middle")
            for number, cell in enumerate(CELLS):
                chosen = (entry for entry in entries if _is(entry, cell, hidden, which))
                for found in filter(None, map(ratio, chosen)):
                    picture.dot(x + 16 * (number - 1), place(found), COLOURS[number])
    picture.text(
        0, 546, "hidden units; a dot is one length of 64, 128, 512 and batch of 1, 2, 4", 15
    )
    return picture


def _is(entry: dict[str, Any], cell: str, hidden: int, which: str) -> bool:
    return (entry["cell"], entry["hidden"], entry["pass"]) == (cell, hidden, which)


def any_step() -> Picture:
    """`lax.scan` against `jp.scan`, step by step."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read(SCAN)["rows"]:
        found[row["step"]].append(row)
    mean: Callable[[str, str], float] = lambda step, which: geometric_mean(  # noqa: E731
        row[which]["lax_over_scan"] for row in found[step]
    )
    steps = sorted(found, key=lambda step: -mean(step, "gradients"))
    names = {"lstm": "LSTM", "gru": "GRU", "elman": "Elman", "policy": "policy's GRU, 1 row"}
    columns = (("gradients", 205, 150, "with gradients"), ("forward", 435, 150, "forward"))
    return _columns(
        "How many times as long lax.scan takes as jp.scan",
        [(names.get(step, step), {c[0]: mean(step, c[0]) for c in columns}) for step in steps],
        columns,
        "geometric means over batches of 1, 4, 16 and 128 to 512 units",
    )


def short_calls() -> Picture:
    """flax against calls of a few steps."""
    found: dict[tuple[int, int], list[dict[str, float]]] = defaultdict(list)
    for row in read(SHORT)["rows"]:
        found[row["steps"], row["batch"]].append(row["flax_over"])
    columns = (("chosen", 205, 150, "weights as they are"), ("packed", 435, 150, "packed"))
    rows = [
        (
            f"{steps} step{'s' * (steps > 1)}, batch {batch}",
            {c[0]: geometric_mean(each[c[0]] for each in shapes) for c in columns},
        )
        for (steps, batch), shapes in sorted(found.items())
    ]
    title = "How many times as long flax takes for a few steps, forward"
    return _columns(title, rows, columns, "geometric means over three cells, 64 to 1024 units")


def _columns(
    title: str,
    rows: list[tuple[str, dict[str, float]]],
    columns: Iterable[tuple[str, int, int, str]],
    note: str,
) -> Picture:
    """Bars in columns (key, place, width, name), with a line where both take as long."""
    row = 24
    picture = Picture(title, 62 + row * len(rows) + 36)
    picture.text(0, 20, title, 17, bold=True)
    most = max(max(values.values()) for _, values in rows)
    for key, x, width, name in columns:
        picture.text(x, 48, name, 16, bold=True)
        for number, (_, values) in enumerate(rows):
            y, length = 62 + row * number, width * values[key] / most
            picture.bar(x, y, length, 16, STRONG)
            picture.text(x + length + 7, y + 14, f"{values[key]:.2f}", 16)
        one = x + width / most
        picture.line(one, 56, one, 62 + row * len(rows))
    for number, (name, _) in enumerate(rows):
        picture.text(0, 76 + row * number, name)
    picture.text(0, picture.height - 10, f"{note}; the line is 1", 15)
    return picture


DRAWN: dict[str, Callable[[], Picture]] = {
    "training-step.svg": training_step,
    "ratios.svg": ratios,
    "any-step.svg": any_step,
    "short-calls.svg": short_calls,
}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, draw in DRAWN.items():
        (PICTURES / name).write_text(str(draw()))


if __name__ == "__main__":
    main()
