"""The training loop. What it computes depends on the settings, the data and the step alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from examples.common import checkpoints, hosts
from examples.common.metrics import recording
from examples.common.step import TrainStep, learning_rate
from examples.translate.batches import Batch, Batches
from examples.translate.model import ModelConfig
from examples.translate.settings import Settings
from examples.translate.step import initial_state, make_evaluate
from examples.translate.tokens import PAD

COLUMNS = ("step", "loss", "learning_rate", "tokens", "seconds", "valid_loss")


def train(
    config: ModelConfig,
    settings: Settings,
    train_step: TrainStep,
    batches: Batches,
    valid: Sequence[Batch],
    output: Path,
    mesh: Mesh,
    *,
    resume: bool = False,
) -> Any:
    """Trains, writing `metrics.csv` and checkpoints below `output`; returns the parameters.

    Every step is one of the whole mesh: the rows of its batch are spread over the devices.
    """
    start = 0
    fresh = partial(initial_state, config, settings)
    state = jax.eval_shape(fresh) if resume else hosts.copy(mesh, fresh())
    valid = [hosts.split(mesh, batch) for batch in valid]
    evaluate, rate = make_evaluate(config), learning_rate(settings)
    with checkpoints.open_checkpoints(output) as manager:
        if resume:
            state, start = checkpoints.restore(manager, state, hosts.everywhere(mesh))
        with recording(output / "metrics.csv", COLUMNS, start, settings.steps) as record:
            for step in range(start, settings.steps):
                batch = batches.at(step)
                began = time.perf_counter()
                state, loss = train_step(state, hosts.split(mesh, batch), step)
                row = {"step": step + 1, "loss": float(loss), "learning_rate": float(rate(step))}
                row["seconds"] = time.perf_counter() - began
                row["tokens"] = int((batch.targets != PAD).sum())
                if (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps:
                    row["valid_loss"] = evaluate(state.params, valid)
                    checkpoints.save(manager, step + 1, state)
                speed = row["tokens"] / row["seconds"]
                record(row, f"loss {row['loss']:.3f}, {speed:.0f} tokens/s")
    return state.params
