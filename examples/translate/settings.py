# SPDX-License-Identifier: Apache-2.0
"""Everything a run depends on besides its data, and the two presets."""

from __future__ import annotations

from dataclasses import dataclass

from examples.common.settings import RunSettings, option


@dataclass(frozen=True)
class Settings(RunSettings):
    """Options of a run, each a flag of the command line."""

    steps: int = option(1200, "training steps")
    batch: int = option(32, "sentence pairs a step")
    hidden: int = option(256, "hidden units of a layer, even (half for each encoder direction)")
    layers: int = option(2, "layers of the encoder, and of the decoder")
    embedding: int = option(192, "features of a subword")
    vocabulary: int = option(6000, "most subwords of each language")
    max_length: int = option(16, "longest sentence in subwords; longer pairs are left out")
    dtype: str = option(
        "float32", "float32 or bfloat16; parameters stay float32", choices=("float32", "bfloat16")
    )
    dropout: float = option(0.1, "share of features dropped", least=0.0, below=1)
    label_smoothing: float = option(
        0.1, "probability spread over the vocabulary", least=0.0, below=1
    )
    learning_rate: float = option(2e-3, "highest learning rate")
    warmup: int = option(
        100, "steps until the learning rate is highest; then a cosine to zero", least=0
    )
    weight_decay: float = option(1e-4, "decoupled weight decay", least=0.0)
    clip: float = option(1.0, "largest global norm of a gradient")
    beam: int = option(5, "hypotheses kept in the beam search; 1 is greedy")
    evaluate_every: int = option(200, "steps between validation losses and checkpoints")
    test_sentences: int = option(500, "held-out sentences that are translated and scored")
    seed: int = option(0, "fixes everything random", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % 2:
            raise ValueError(
                f"hidden: expected an even number (two encoder directions), got {self.hidden}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Padded lengths of the batches, one compiled program each."""
        widths = [w for w in (8, 12, 16, 24, 32, 40, 48, 64) if w < self.max_length]
        return (*widths, self.max_length)


PRESETS = {
    "quick": Settings(),
    "long": Settings(
        steps=4000,
        batch=64,
        max_length=40,
        dropout=0.2,
        warmup=400,
        evaluate_every=400,
        test_sentences=2000,
    ),
}
