"""The training loop. What it computes depends on the settings, the data and the step alone."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from tqdm import tqdm

from examples.translate.batches import Batch, Batches
from examples.translate.model import ModelConfig
from examples.translate.settings import Settings
from examples.translate.step import (
    State,
    TrainStep,
    initial_state,
    learning_rate,
    make_evaluate,
)
from examples.translate.tokens import PAD

COLUMNS = ("step", "loss", "learning_rate", "tokens", "seconds", "valid_loss")


def open_checkpoints(output: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager((output / "checkpoints").resolve(), options=options)


def restore(checkpoints: ocp.CheckpointManager, like: State) -> tuple[State, int]:
    """The newest checkpoint, of the structure `like` (arrays or shapes), and its step.

    Raises FileNotFoundError where there is none.
    """
    step = checkpoints.latest_step()
    if step is None:
        raise FileNotFoundError(
            f"no checkpoint in {checkpoints.directory}; start without --resume, or give the "
            "--output of a run that saved one"
        )
    return State(**checkpoints.restore(step, args=ocp.args.StandardRestore(like._asdict()))), step


def train(
    config: ModelConfig,
    settings: Settings,
    train_step: TrainStep,
    batches: Batches,
    valid: Sequence[Batch],
    output: Path,
    *,
    resume: bool = False,
) -> Any:
    """Trains, writing `metrics.csv` and checkpoints below `output`; returns the parameters."""
    start = 0
    fresh = partial(initial_state, config, settings)
    state = jax.eval_shape(fresh) if resume else fresh()
    evaluate, rate = make_evaluate(config), learning_rate(settings)
    with open_checkpoints(output) as checkpoints:
        if resume:
            state, start = restore(checkpoints, state)
        metrics = output / "metrics.csv"
        rows = read_metrics(metrics)[:start] if resume else []
        with metrics.open("w", newline="") as file, _progress(start, settings.steps) as progress:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
            for step in range(start, settings.steps):
                batch = batches.at(step)
                began = time.perf_counter()
                state, loss = train_step(state, batch, step)
                row = {"step": step + 1, "loss": float(loss), "learning_rate": float(rate(step))}
                row["seconds"] = time.perf_counter() - began
                row["tokens"] = int((batch.targets != PAD).sum())
                if (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps:
                    row["valid_loss"] = evaluate(state.params, valid)
                    checkpoints.save(step + 1, args=ocp.args.StandardSave(state._asdict()))
                writer.writerow(row)
                file.flush()
                progress.set_postfix_str(
                    f"loss {row['loss']:.3f}, {row['tokens'] / row['seconds']:.0f} tokens/s",
                    refresh=False,
                )
                progress.update()
    return state.params


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, one for each step in order."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _progress(start: int, steps: int) -> tqdm:
    return tqdm(total=steps, initial=start, desc="training", unit="step", dynamic_ncols=True)
