# SPDX-License-Identifier: Apache-2.0
"""Everything a run depends on, and the two presets."""

from __future__ import annotations

from dataclasses import dataclass

from examples.common.settings import RunSettings, option
from examples.speech.features import HOP
from examples.speech.sources import SOURCES


@dataclass(frozen=True)
class Settings(RunSettings):
    """Options of a run, each a flag of the command line."""

    corpus: str = option("asterisk", " or ".join(SOURCES), choices=tuple(SOURCES))
    steps: int = option(400, "training steps")
    batch: int = option(16, "utterances a step")
    mels: int = option(40, "filters of a spectrogram")
    channels: int = option(16, "channels of a convolution")
    hidden: int = option(96, "hidden units of a layer, for each direction")
    layers: int = option(2, "bidirectional layers")
    max_seconds: float = option(5.0, "longest utterance; longer ones are left out")
    dtype: str = option(
        "float32", "float32 or bfloat16; parameters stay float32", choices=("float32", "bfloat16")
    )
    dropout: float = option(0.2, "share of features dropped", least=0.0, below=1)
    learning_rate: float = option(4e-3, "highest learning rate")
    warmup: int = option(
        50, "steps until the learning rate is highest; then a cosine to zero", least=0
    )
    weight_decay: float = option(1e-4, "decoupled weight decay", least=0.0)
    clip: float = option(1.0, "largest global norm of a gradient")
    beam: int = option(16, "prefixes kept in the beam search")
    evaluate_every: int = option(100, "steps between validation errors and checkpoints")
    seed: int = option(0, "fixes everything random", least=0)

    @property
    def widths(self) -> tuple[int, ...]:
        """Padded lengths of the batches in frames, one compiled program each."""
        longest = max(1, int(self.max_seconds / HOP))
        return (*(w for w in (150, 250, 400, 650) if w < longest), longest)


PRESETS = {
    "quick": Settings(),
    "long": Settings(
        corpus="amazon-queen",
        steps=1000,
        hidden=128,
        learning_rate=3e-3,
        warmup=100,
        evaluate_every=250,
    ),
}
