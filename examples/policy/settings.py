# SPDX-License-Identifier: Apache-2.0
"""Everything a run depends on, and the presets."""

from __future__ import annotations

from dataclasses import dataclass

from examples.common.settings import RunSettings, option


@dataclass(frozen=True)
class Settings(RunSettings):
    """Options of a run, each a flag of the command line."""

    task: str = option("recall", "recall or pole", choices=("recall", "pole"))
    symbols: int = option(4, "recall: symbols that a cue is one of", least=2)
    delay: int = option(24, "recall: distractors between cue and answer", least=0)
    limit: int = option(200, "pole: longest episode in steps")
    updates: int = option(100, "updates of a policy; each follows a rollout")
    environments: int = option(64, "environments side by side")
    length: int = option(104, "steps of a rollout, in each environment")
    epochs: int = option(4, "passes over a rollout")
    minibatches: int = option(4, "optimiser steps a pass; each takes its share of environments")
    hidden: int = option(128, "hidden units")
    scan: str = option(
        "persistent", "what runs the GRU: persistent or flax", choices=("persistent", "flax")
    )
    learning_rate: float = option(2e-3, "first learning rate; falls to zero linearly")
    discount: float = option(0.99, "of a later reward, for each step", below=1)
    gae_lambda: float = option(0.95, "of generalised advantage estimates", least=0.0, below=1)
    ratio_clip: float = option(0.2, "largest change of a probability that is rewarded")
    value_weight: float = option(0.5, "weight of the value's loss", least=0.0)
    entropy_weight: float = option(0.01, "weight of the entropy", least=0.0)
    clip: float = option(0.5, "largest global norm of a gradient")
    checkpoint_every: int = option(25, "updates between checkpoints")
    episodes: int = option(512, "episodes of the evaluation at the end")
    seed: int = option(0, "fixes everything random", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.environments % self.minibatches:
            raise ValueError(
                f"environments: expected a multiple of the {self.minibatches} minibatches, got "
                f"{self.environments}"
            )

    @property
    def rollout_steps(self) -> int:
        """Steps in all environments together."""
        return self.environments * self.length


PRESETS = {
    "recall": Settings(),
    "pole": Settings(task="pole", updates=150, length=64),
    "quick": Settings(
        delay=3,
        updates=80,
        environments=16,
        length=20,
        hidden=16,
        learning_rate=5e-3,
        checkpoint_every=40,
        episodes=128,
    ),
}
