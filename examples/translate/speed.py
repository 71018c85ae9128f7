"""The measured speed of a training step against the same model over lax.scan."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from examples.common.step import State, TrainStep, make_optimizer
from examples.translate.batches import Batch
from examples.translate.model import ModelConfig
from examples.translate.settings import Settings
from examples.translate.step import make_train_step
from examples.translate.tokens import PAD

ROUNDS = 9


@dataclass(frozen=True)
class Speed:
    """Medians over interleaved steps on one batch."""

    batch: int
    width: int
    seconds: float
    scan_seconds: float
    tokens: int  # target subwords in the batch

    @property
    def ratio(self) -> float:
        return self.scan_seconds / self.seconds

    def __str__(self) -> str:
        return (
            f"A training step on {self.batch} pairs of width {self.width}: "
            f"{self.seconds * 1e3:.0f} ms; the same model over lax.scan: "
            f"{self.scan_seconds * 1e3:.0f} ms ({self.ratio:.2f}x)"
        )


def typical(metrics: Sequence[Mapping[str, str]]) -> float:
    """Target subwords a second in training: the median over steps leaves compilation out."""
    return statistics.median(float(row["tokens"]) / float(row["seconds"]) for row in metrics)


def compare(
    config: ModelConfig, settings: Settings, train_step: TrainStep, params: Any, batch: Batch
) -> Speed:
    """Times `train_step` and its twin over lax.scan in turn, so that a busy machine slows both."""
    state = State(params, make_optimizer(settings).init(params))
    scan_step = make_train_step(dataclasses.replace(config, scan=True), settings)
    runs = [(step, [jax.tree.map(jnp.copy, state)], []) for step in (train_step, scan_step)]
    for number in range(ROUNDS + 1):
        for step, current, seconds in runs:
            began = time.perf_counter()
            current[0], loss = step(current[0], batch, number)
            jax.block_until_ready((current[0], loss))
            if number:  # the first one compiles
                seconds.append(time.perf_counter() - began)
    ours, scan = (statistics.median(seconds) for _, _, seconds in runs)
    size, width = batch.source.shape
    return Speed(size, width, ours, scan, int((batch.targets != PAD).sum()))
