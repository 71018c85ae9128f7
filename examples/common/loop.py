# SPDX-License-Identifier: Apache-2.0
"""The training loop. What it computes depends on the settings, the data and the step alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from examples.common import checkpoints, hosts
from examples.common.buckets import Buckets
from examples.common.metrics import recording
from examples.common.step import Optimized, State, TrainStep, learning_rate


class Scheduled(Optimized, Protocol):
    evaluate_every: int


class Task(NamedTuple):
    """What is trained, on what, and how it is judged."""

    initial_state: Callable[[], State]
    train_step: TrainStep
    batches: Buckets
    evaluate: Callable[[Any], dict[str, float]]  # parameters -> measures
    measures: tuple[str, ...]  # their names
    unit: str  # what speed is counted in
    count: Callable[[Any], int]  # how much of that a batch has


def train(
    task: Task, settings: Scheduled, output: Path, mesh: Mesh, *, resume: bool = False
) -> Any:
    """Trains, writing `metrics.csv` and checkpoints below `output`; returns the parameters.

    Every step is one of the whole mesh: the rows of its batch are spread over the devices.
    """
    start, fresh = 0, task.initial_state
    state = jax.eval_shape(fresh) if resume else hosts.copy(mesh, fresh())
    rate = learning_rate(settings)
    columns = ("step", "loss", "learning_rate", task.unit, "seconds", *task.measures)
    with checkpoints.open_checkpoints(output) as manager:
        if resume:
            state, start = checkpoints.restore(manager, state, hosts.everywhere(mesh))
        with recording(output / "metrics.csv", columns, start, settings.steps) as record:
            for step in range(start, settings.steps):
                batch = task.batches.at(step)
                began = time.perf_counter()
                state, loss = task.train_step(state, hosts.split(mesh, batch), step)
                row = {"step": step + 1, "loss": float(loss), "learning_rate": float(rate(step))}
                row["seconds"] = time.perf_counter() - began
                row[task.unit] = task.count(batch)
                if (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps:
                    row |= task.evaluate(state.params)
                    checkpoints.save(manager, step + 1, state)
                speed = row[task.unit] / row["seconds"]
                record(row, f"loss {row['loss']:.3f}, {speed:.0f} {task.unit}/s")
    return state.params
