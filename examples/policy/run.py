# SPDX-License-Identifier: Apache-2.0
"""A whole run: a policy with memory and one without, trained side by side, judged and timed."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from examples.common import speed
from examples.common.checkpoints import open_checkpoints, restore, save
from examples.common.metrics import read_metrics, recording
from examples.policy.ppo import update
from examples.policy.report import plot_returns
from examples.policy.rollout import Learner, evaluate, fresh_learner
from examples.policy.settings import Settings

COLUMNS = (
    "step",
    "return",
    "loss",
    "entropy",
    "memoryless_return",
    "memoryless_loss",
    "memoryless_entropy",
    "environment_steps",
    "seconds",
)


class Policies(NamedTuple):
    """They differ in one thing: the memoryless one's GRU begins with zeros at every step."""

    memory: Learner
    memoryless: Learner


def fresh_policies(settings: Settings) -> Policies:
    """On the device on which `restore` puts them, so that one program serves both."""
    learner = jax.device_put(fresh_learner(settings), jax.local_devices()[0])
    return Policies(learner, learner)


def train(settings: Settings, output: Path, *, resume: bool = False) -> Policies:
    """Trains both, writing `metrics.csv` and checkpoints below `output`.

    The settings and the update's number fix what an update computes: a resumed run goes on bitwise.
    """
    start, policies = 0, fresh_policies(settings)
    with open_checkpoints(output) as checkpoints:
        if resume:
            policies, start = restore(checkpoints, policies)
        with recording(output / "metrics.csv", COLUMNS, start, settings.updates) as record:
            for number in range(start, settings.updates):
                began = time.perf_counter()
                memory, found = update(policies.memory, number, False, settings=settings)
                memoryless, other = update(policies.memoryless, number, True, settings=settings)
                policies = Policies(memory, memoryless)
                row = {"step": number + 1} | {name: float(value) for name, value in found.items()}
                row |= {f"memoryless_{name}": float(value) for name, value in other.items()}
                row["environment_steps"] = 2 * settings.rollout_steps
                row["seconds"] = time.perf_counter() - began
                done = number + 1
                if done % settings.checkpoint_every == 0 or done == settings.updates:
                    save(checkpoints, done, policies)
                record(
                    row,
                    f"return {row['return']:.2f}, memoryless {row['memoryless_return']:.2f}, "
                    f"{row['environment_steps'] / row['seconds']:.0f} steps/s",
                )
    return policies


def train_and_report(settings: Settings, output: Path, *, resume: bool = False) -> None:
    """Trains, and leaves in `output` checkpoints, metrics, a picture and a summary."""
    policies = train(settings, output, resume=resume)
    metrics = output / "metrics.csv"
    returns = {
        name: np.asarray(evaluate(learner.params, name == "memoryless", settings=settings))
        for name, learner in policies._asdict().items()
    }
    plot_returns(
        metrics, output / "returns.png", rollout_steps=settings.rollout_steps, task=settings.task
    )
    measured = compare_scans(settings, policies.memory)
    steps_per_second = {
        "persistent": round(settings.rollout_steps / measured.seconds),
        "flax": round(settings.rollout_steps / measured.scan_seconds),
    }
    summary = {
        "returns": {name: round(float(found.mean()), 4) for name, found in returns.items()},
        "standard_errors": {
            name: round(float(found.std() / len(found) ** 0.5), 4)
            for name, found in returns.items()
        },
        "steps_per_second": steps_per_second,
        "speedup_over_scan": round(measured.ratio, 3),
        "speed": dataclasses.asdict(measured),
        "train_steps_per_second": round(speed.typical(read_metrics(metrics), "environment_steps")),
        "settings": dataclasses.asdict(settings),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(
        f"Return over {settings.episodes} new episodes of {settings.task}: "
        f"{returns['memory'].mean():.3f} with memory, {returns['memoryless'].mean():.3f} without\n"
        f"{measured}\n{steps_per_second['persistent']} environment steps a second in training, "
        f"{steps_per_second['flax']} over flax's scan\n"
        f"In {output}: returns.png, metrics.csv, summary.json, checkpoints"
    )


def compare_scans(settings: Settings, learner: Learner) -> speed.Speed:
    """Times an update over jax_persistent's scan and over flax's, in turn."""
    what = f"{settings.environments} environments of {settings.length} steps"
    ours, flax = (
        _step(dataclasses.replace(settings, scan=scan)) for scan in ("persistent", "flax")
    )
    state: Any = learner  # of a training step, for `speed`
    return speed.compare(ours, flax, state, None, what)


def _step(settings: Settings) -> Callable[[Any, Any, int], tuple[Any, jax.Array]]:
    def step(learner: Learner, batch: None, number: int) -> tuple[Learner, jax.Array]:
        learner, found = update(learner, number, False, settings=settings)
        return learner, found["loss"]

    return step
