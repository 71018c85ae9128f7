# SPDX-License-Identifier: Apache-2.0
"""Utterances of one source, split so that no held-out text is nearly one in training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from examples.common import held_out
from examples.common.download import DownloadError
from examples.speech import features, sources, text
from examples.speech.sources import Clip

HELD_OUT = 300  # texts, for each of validation and test
SHORTEST = 0.3  # seconds
# Letters a second outside these mean another text, or mostly silence.
SLOWEST, FASTEST = 1.0, 22.0


class Utterance(NamedTuple):
    """What was said, and how it sounds."""

    name: str
    text: str  # as `text.spoken` has it
    features: np.ndarray  # [T, M] float32, normalised


@dataclass(frozen=True)
class Corpus:
    rate: int
    train: tuple[Utterance, ...]
    valid: tuple[Utterance, ...]
    test: tuple[Utterance, ...]


def load(name: str, mels: int, cache: Path) -> Corpus:
    """The corpus of one of `sources.SOURCES`. Raises DownloadError where it can't be had."""
    source = sources.SOURCES[name]
    clips = sources.read(source, cache)
    print("Computing spectrograms", flush=True)
    try:
        found = list(utterances(clips, source.rate, mels))
        return split(found, source.rate)
    except ValueError as error:
        raise DownloadError(f"{source.title}: {error}") from error


def utterances(clips: Iterable[Clip], rate: int, mels: int) -> Iterator[Utterance]:
    """Of the clips that are speech, whose words can be spelt and belong to them by their length."""
    for clip in clips:
        words = text.spoken(clip.text)
        if words is None:
            continue
        samples = sources.samples(clip.sound, rate)
        seconds = len(samples) / rate
        if seconds >= SHORTEST and SLOWEST <= len(words) / seconds <= FASTEST:
            yield Utterance(clip.name, words, spectrogram(samples, rate, mels))


def spectrogram(samples: np.ndarray, rate: int, mels: int) -> np.ndarray:
    """samples [N] -> what the model hears, [T, mels] float32."""
    return features.normalized(features.log_mel(samples, rate, mels))


def split(found: Sequence[Utterance], rate: int) -> Corpus:
    """By text, not by clip: the same words in two voices are on one side, and so are near copies.

    Raises ValueError if there are too few.
    """
    spoken: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in found:
        spoken[utterance.text].append(utterance)
    texts = sorted(spoken)
    sides = held_out.split(texts, max(1, min(HELD_OUT, len(texts) // 10)))
    train, valid, test = (
        tuple(utterance for position in side for utterance in spoken[texts[position]])
        for side in sides
    )
    return Corpus(rate, train, valid, test)
