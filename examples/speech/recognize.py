# SPDX-License-Identifier: Apache-2.0
"""The trained model applied: validation errors, and the text of utterances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from examples.common import hosts
from examples.speech import decode, score, text
from examples.speech.batches import Batch, Batches
from examples.speech.corpus import Utterance
from examples.speech.model import ModelConfig, Recognizer, steps
from examples.speech.step import ctc

MEASURES = ("valid_loss", "valid_cer")
DECODE_BATCH = 16


class Recognized(NamedTuple):
    """An utterance, what the model heard at each step, and the text made of it in two ways."""

    utterance: Utterance
    log_probs: np.ndarray  # [S,V]
    greedy: str
    beam: str


def make_evaluate(
    config: ModelConfig, batches: Sequence[Batch], mesh: Mesh
) -> Callable[[Any], dict[str, float]]:
    """Loss in nats a letter, and the character error rate of greedy decoding, over all batches."""
    expected = [
        text.decode(row[:count])
        for batch in batches
        for row, count in zip(batch.symbols, batch.counts, strict=True)
        if count
    ]

    def judge(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        log_probs = Recognizer(config).apply({"params": params}, batch.features, batch.frames)
        return *ctc(log_probs, batch), log_probs.argmax(-1)

    judge = jax.jit(judge, out_shardings=hosts.everywhere(mesh))
    placed = [hosts.split(mesh, batch) for batch in batches]

    def evaluate(params: Any) -> dict[str, float]:
        total, letters, found = 0.0, 0, []
        for batch, rows in zip(batches, placed, strict=True):
            loss, count, paths = hosts.local(judge(params, rows))
            total, letters = total + float(loss), letters + int(count)
            for row in np.flatnonzero(batch.counts):
                path = np.asarray(paths[row])[: steps(batch.frames[row])]
                found.append(text.decode(decode.collapse(path)))
        return dict(
            zip(MEASURES, (total / letters, score.error_rate(found, expected)), strict=True)
        )

    return evaluate


def recognize(
    params: Any,
    config: ModelConfig,
    utterances: Sequence[Utterance],
    widths: Sequence[int],
    beam: int,
) -> list[Recognized]:
    """The utterances that are not too long for the last width, in their order."""
    apply = jax.jit(Recognizer(config).apply)
    batches = Batches(utterances, DECODE_BATCH, widths, seed=0)
    found: dict[int, Recognized] = {}
    for positions, batch in batches.once():
        log_probs = np.asarray(apply({"params": params}, batch.features, batch.frames))
        for position, row, frames in zip(positions, log_probs, batch.frames, strict=False):
            heard = row[: steps(frames)]
            greedy = text.decode(decode.greedy(heard))
            likeliest = text.decode(decode.beam_search(heard, beam)[0])
            found[position] = Recognized(utterances[position], heard, greedy, likeliest)
    return [found[position] for position in sorted(found)]
