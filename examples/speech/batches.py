# SPDX-License-Identifier: Apache-2.0
"""Utterances as padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from examples.common.buckets import Buckets
from examples.speech import text
from examples.speech.corpus import Utterance
from examples.speech.model import steps


class Batch(NamedTuple):
    """B rows, T frames, as many symbols as their steps can hold. Rows without symbols only fill."""

    features: np.ndarray  # [B,T,M] float32
    frames: np.ndarray  # [B] int32, at least 1
    symbols: np.ndarray  # [B,steps(T)] int32
    counts: np.ndarray  # [B] int32


def room(utterance: Utterance) -> int:
    """Frames that a batch must have to hold it: CTC parts equal neighbours by a blank."""
    letters = utterance.text
    least = len(letters) + sum(a == b for a, b in pairwise(letters))
    frames = len(utterance.features)
    return frames if least <= steps(frames) else 1 << 30


def collate(utterances: Sequence[Utterance], size: int, width: int) -> Batch:
    """At most `size` utterances as one batch of `size` rows and `width` frames."""
    features = np.zeros((size, width, utterances[0].features.shape[1]), np.float32)
    symbols = np.full((size, steps(width)), text.BLANK, np.int32)
    frames, counts = np.ones(size, np.int32), np.zeros(size, np.int32)
    for row, utterance in enumerate(utterances):
        frames[row], counts[row] = len(utterance.features), len(utterance.text)
        features[row, : frames[row]] = utterance.features
        symbols[row, : counts[row]] = text.encode(utterance.text)
    return Batch(features, frames, symbols, counts)


class Batches(Buckets[Utterance, Batch]):
    """The utterances in batches, in the first epoch short ones first (Amodei et al. 2016, 3.3).

    Raises ValueError where none is short enough for the last width.
    """

    length = staticmethod(room)
    collate = staticmethod(collate)
    ascending = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kept:
            raise ValueError(
                f"expected utterances of at most {max(self.widths)} frames, got none in "
                f"{len(self.examples)}; raise --max-seconds or give more data"
            )
