# SPDX-License-Identifier: Apache-2.0
"""The measured speed of a training step against the same model over lax.scan."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from examples.common.step import State, TrainStep

ROUNDS = 9


@dataclass(frozen=True)
class Speed:
    """Medians over interleaved steps on one batch."""

    batch: str  # what is in it
    seconds: float
    scan_seconds: float

    @property
    def ratio(self) -> float:
        return self.scan_seconds / self.seconds

    def __str__(self) -> str:
        return (
            f"A training step on {self.batch}: {self.seconds * 1e3:.0f} ms; the same model over "
            f"lax.scan: {self.scan_seconds * 1e3:.0f} ms ({self.ratio:.2f}x)"
        )


def typical(metrics: Sequence[Mapping[str, str]], unit: str) -> float:
    """That many a second in training: the median over steps leaves compilation out."""
    return statistics.median(float(row[unit]) / float(row["seconds"]) for row in metrics)


def compare(
    train_step: TrainStep, scan_step: TrainStep, state: State, batch: Any, what: str
) -> Speed:
    """Times the two in turn, so that a busy machine slows both; `what` says what the batch is."""
    print("Measuring speed against the same model over lax.scan", flush=True)
    runs = [(step, [jax.tree.map(jnp.copy, state)], []) for step in (train_step, scan_step)]
    for number in range(ROUNDS + 1):
        for step, current, seconds in runs:
            began = time.perf_counter()
            current[0], loss = step(current[0], batch, number)
            jax.block_until_ready((current[0], loss))
            if number:  # the first one compiles
                seconds.append(time.perf_counter() - began)
    ours, scan = (statistics.median(seconds) for _, _, seconds in runs)
    return Speed(what, ours, scan)
