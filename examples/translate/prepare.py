# SPDX-License-Identifier: Apache-2.0
"""From sentence pairs to what the training loop takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from examples.common import hosts
from examples.common.loop import Task
from examples.common.step import TrainStep
from examples.translate.batches import Batch, Batches, Example, width
from examples.translate.corpus import Corpus
from examples.translate.model import ModelConfig
from examples.translate.settings import Settings
from examples.translate.sources import Pair
from examples.translate.step import initial_state, make_evaluate
from examples.translate.tokens import PAD, Tokenizer, train_tokenizer

TOKENIZERS = ("english.model", "chinese.model")


class Prepared(NamedTuple):
    """Everything that the training loop takes, and the test pairs short enough for the model."""

    english: Tokenizer
    chinese: Tokenizer
    config: ModelConfig
    batches: Batches
    valid: list[Batch]
    test: list[Pair]


def model_config(settings: Settings, english: Tokenizer, chinese: Tokenizer) -> ModelConfig:
    return ModelConfig(
        english.size,
        chinese.size,
        hidden=settings.hidden,
        layers=settings.layers,
        embedding=settings.embedding,
        dropout=settings.dropout,
        dtype=settings.dtype,
    )


def prepare(settings: Settings, pairs: Corpus, cache: Path) -> Prepared:
    """Tokenizers from the training pairs, and every split cut to `max_length` subwords."""
    english, chinese = (
        train_tokenizer(
            [pair[side] for pair in pairs.train], settings.vocabulary, fold=not side, cache=cache
        )
        for side in (0, 1)
    )

    def examples(split: Sequence[Pair]) -> list[Example]:
        sides = (
            english.encode([p.english for p in split]),
            chinese.encode([p.chinese for p in split]),
        )
        return [Example(*both) for both in zip(*sides, strict=True)]

    valid = Batches(examples(pairs.valid), settings.batch, settings.widths, seed=0)
    test = [
        pair
        for pair, example in zip(pairs.test, examples(pairs.test), strict=True)
        if width(example) <= settings.max_length
    ]
    return Prepared(
        english,
        chinese,
        model_config(settings, english, chinese),
        Batches(examples(pairs.train), settings.batch, settings.widths, settings.seed),
        [valid.at(step) for step in range(valid.steps_per_epoch)],
        test[: settings.test_sentences],
    )


def make_task(prepared: Prepared, settings: Settings, train_step: TrainStep, mesh: Mesh) -> Task:
    evaluate = make_evaluate(prepared.config)
    valid = [hosts.split(mesh, batch) for batch in prepared.valid]
    return Task(
        lambda: initial_state(prepared.config, settings),
        train_step,
        prepared.batches,
        lambda params: {"valid_loss": evaluate(params, valid)},
        ("valid_loss",),
        "tokens",
        lambda batch: int((batch.targets != PAD).sum()),
    )


def save_tokenizers(prepared: Prepared, output: Path) -> None:
    """Keeps them beside the checkpoints."""
    for name, tokenizer in zip(TOKENIZERS, (prepared.english, prepared.chinese), strict=True):
        (output / name).write_bytes(tokenizer.model)


def check_tokenizers(prepared: Prepared, output: Path) -> None:
    """Raises ValueError where an earlier run has other subwords, that is other training pairs."""
    for name, tokenizer in zip(TOKENIZERS, (prepared.english, prepared.chinese), strict=True):
        if (output / name).read_bytes() != tokenizer.model:
            raise ValueError(
                f"{output / name} differs from the subwords of the data given: resume with the "
                "data that the run started with"
            )
