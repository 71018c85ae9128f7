"""Everything a run depends on besides its data, and the two presets."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """Options of a run, each a flag of the command line. A value out of range is a ValueError."""

    steps: int = _option(1200, "training steps")
    batch: int = _option(32, "sentence pairs a step")
    hidden: int = _option(256, "hidden units of a layer, even (half for each encoder direction)")
    layers: int = _option(2, "layers of the encoder, and of the decoder")
    embedding: int = _option(192, "features of a subword")
    vocabulary: int = _option(6000, "most subwords of each language")
    max_length: int = _option(16, "longest sentence in subwords; longer pairs are left out")
    dtype: str = _option("float32", "float32 or bfloat16; parameters stay float32")
    dropout: float = _option(0.1, "share of features dropped")
    label_smoothing: float = _option(0.1, "probability spread over the vocabulary")
    learning_rate: float = _option(2e-3, "highest learning rate")
    warmup: int = _option(100, "steps until the learning rate is highest; then a cosine to zero")
    weight_decay: float = _option(1e-4, "decoupled weight decay")
    clip: float = _option(1.0, "largest global norm of a gradient")
    beam: int = _option(5, "hypotheses kept in the beam search; 1 is greedy")
    evaluate_every: int = _option(200, "steps between validation losses and checkpoints")
    test_sentences: int = _option(500, "held-out sentences that are translated and scored")
    seed: int = _option(0, "fixes everything random")

    def __post_init__(self) -> None:
        at_least = {
            "dropout": 0.0,
            "label_smoothing": 0.0,
            "weight_decay": 0.0,
            "seed": 0,
            "warmup": 0,
        }
        for item in dataclasses.fields(self):
            name, value = item.name, getattr(self, item.name)
            if name == "dtype":
                if value not in ("float32", "bfloat16"):
                    raise ValueError(f"dtype: expected float32 or bfloat16, got {value}")
            elif name in at_least and value < at_least[name]:
                raise ValueError(f"{name}: expected at least {at_least[name]}, got {value}")
            elif name not in at_least and value <= 0:
                raise ValueError(f"{name}: expected more than 0, got {value}")
        for name in ("dropout", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: expected less than 1, got {getattr(self, name)}")
        if self.hidden % 2:
            raise ValueError(
                f"hidden: expected an even number (two encoder directions), got {self.hidden}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Padded lengths of the batches, one compiled program each."""
        widths = [w for w in (8, 12, 16, 24, 32, 40, 48, 64) if w < self.max_length]
        return (*widths, self.max_length)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> Settings:
        return Settings(**json.loads(path.read_text()))


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
