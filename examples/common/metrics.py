# SPDX-License-Identifier: Apache-2.0
"""What a training run leaves at every step: a row of `metrics.csv`, and a line of progress."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from examples.common import hosts

Record = Callable[[Mapping[str, Any], str], None]


@contextmanager
def recording(path: Path, columns: Sequence[str], start: int, steps: int) -> Iterator[Record]:
    """To be called once a step, with its row and what to show beside the progress bar.

    The first `start` rows of a file that is there stay, the others are replaced. The first host
    writes and shows; the others do nothing.
    """
    if not hosts.is_first():
        yield lambda row, shown: None
        return
    rows = read_metrics(path)[:start] if start else []
    with (
        path.open("w", newline="") as file,
        tqdm(
            total=steps, initial=start, desc="training", unit="step", dynamic_ncols=True
        ) as progress,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)

        def record(row: Mapping[str, Any], shown: str) -> None:
            writer.writerow(row)
            file.flush()
            progress.set_postfix_str(shown, refresh=False)
            progress.update()

        yield record


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, one for each step in order."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
