# SPDX-License-Identifier: Apache-2.0
"""From utterances to what the training loop takes."""

from __future__ import annotations

from typing import NamedTuple

from jax.sharding import Mesh

from examples.common.loop import Task
from examples.speech.batches import Batch, Batches
from examples.speech.corpus import Corpus, Utterance
from examples.speech.model import ModelConfig
from examples.speech.recognize import MEASURES, make_evaluate
from examples.speech.settings import Settings
from examples.speech.step import TrainStep, initial_state, model_config


class Prepared(NamedTuple):
    """Everything that training takes, and the test utterances short enough for the model."""

    config: ModelConfig
    batches: Batches
    valid: list[Batch]
    test: list[Utterance]


def prepare(settings: Settings, corpus: Corpus) -> Prepared:
    valid, test = (
        Batches(side, settings.batch, settings.widths, seed=0)
        for side in (corpus.valid, corpus.test)
    )
    return Prepared(
        model_config(settings),
        Batches(corpus.train, settings.batch, settings.widths, settings.seed),
        [batch for _, batch in valid.once()],
        [corpus.test[position] for position in sorted(i for rows, _ in test.once() for i in rows)],
    )


def make_task(prepared: Prepared, settings: Settings, train_step: TrainStep, mesh: Mesh) -> Task:
    return Task(
        lambda: initial_state(prepared.config, settings),
        train_step,
        prepared.batches,
        make_evaluate(prepared.config, prepared.valid, mesh),
        MEASURES,
        "frames",
        lambda batch: int(batch.frames[batch.counts > 0].sum()),
    )
