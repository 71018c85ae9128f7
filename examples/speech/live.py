# SPDX-License-Identifier: Apache-2.0
"""Sound transcribed as it comes in, by a model that listens in both directions.

Such a model cannot run step by step. It hears the stream through windows instead: each piece of
`CHUNK` seconds, with what was heard before it and `AHEAD` seconds of what comes after it, the
look-ahead that the backward layers need. So a letter appears `AHEAD` to `AHEAD + CHUNK` seconds
after it is spoken, and the model is the one that was trained, on windows of an utterance's length.
"""

from __future__ import annotations

import wave
from collections.abc import Callable
from io import BufferedReader
from typing import Any

import jax
import numpy as np

from examples.speech import features, text
from examples.speech.model import ModelConfig, Recognizer, steps

BACK, CHUNK, AHEAD = 2.0, 0.8, 0.6  # seconds
_READ = 0.1  # seconds of sound that are read at a time
_STRIDE = 4  # frames to a step of the model
_SCALE = np.float32(1 / 32768)  # of 16-bit samples


def _frames(seconds: float) -> int:
    return round(seconds / features.HOP / _STRIDE) * _STRIDE


class Listener:
    """Gives the text of a stream of samples, as far as it is certain; greedily."""

    def __init__(self, params: Any, config: ModelConfig, rate: int) -> None:
        self.rate, self.mels, self.variables = rate, config.mels, {"params": params}
        self.back, self.chunk, self.ahead = map(_frames, (BACK, CHUNK, AHEAD))
        self._apply = jax.jit(Recognizer(config).apply)
        self._samples = np.zeros(0, np.float32)  # from the next frame's first on
        self._frames = np.zeros((0, config.mels), np.float32)  # of the window, not normalised
        self._told = 0  # of those frames
        self._last = text.BLANK
        self._path(np.zeros((self.chunk, config.mels), np.float32))  # compiles

    def hear(self, samples: np.ndarray) -> str:
        """Takes samples [N] float32 in -1..1 -> what is certain now."""
        self._samples = np.concatenate((self._samples, samples))
        hop, window = round(features.HOP * self.rate), round(features.WINDOW * self.rate)
        if len(self._samples) >= window:
            found = features.log_mel(self._samples, self.rate, self.mels)
            self._frames = np.concatenate((self._frames, found))
            self._samples = self._samples[len(found) * hop :]
        told = ""
        while len(self._frames) - self._told >= self.chunk + self.ahead:
            told += self._tell(self.chunk)
        return told

    def end(self) -> str:
        """What is left where the stream ends."""
        told = ""
        while len(self._frames) > self._told:
            told += self._tell(min(self.chunk, len(self._frames) - self._told))
        return told

    def _tell(self, count: int) -> str:
        """The text of the next `count` frames, with what is there around them."""
        first = self._told
        path = self._path(self._frames[: first + count + self.ahead])
        path = path[first // _STRIDE : steps(first + count)]
        before = [self._last, *path[:-1]]
        new = [s for s, b in zip(path, before, strict=True) if s not in (b, text.BLANK)]
        self._told, self._last = first + count, path[-1]
        drop = max(0, self._told - self.back) // _STRIDE * _STRIDE
        self._frames, self._told = self._frames[drop:], self._told - drop
        return text.decode(new)

    def _path(self, frames: np.ndarray) -> list[int]:
        """frames [T, M] -> the likeliest symbol of each step, from windows of one width."""
        width = self.back + self.chunk + self.ahead
        window = np.zeros((1, width, self.mels), np.float32)
        window[0, : len(frames)] = features.normalized(frames)
        log_probs = self._apply(self.variables, window, np.array([len(frames)], np.int32))
        return np.asarray(log_probs[0]).argmax(-1).tolist()[: steps(len(frames))]


def transcribe(
    sound: Callable[[int], bytes], listener: Listener, show: Callable[[str], None]
) -> None:
    """Shows the text of 16-bit samples, of which `sound` gives the next so many, until the end."""
    while block := sound(round(_READ * listener.rate)):
        samples = np.frombuffer(block[: len(block) // 2 * 2], "<i2").astype(np.float32) * _SCALE
        if new := listener.hear(samples):
            show(new)
    show(listener.end() + "\n")


def opened(file: BufferedReader, rate: int) -> Callable[[int], bytes]:
    """What gives the next so many samples of a stream, WAV or raw: 16 bits, of one channel.

    Raises ValueError for a WAV stream of another kind; a raw one does not say of which it is.
    """
    if file.peek(4)[:4] != b"RIFF":
        return lambda count: file.read(2 * count)
    try:
        sound = wave.open(file)  # noqa: SIM115  the caller's file
    except (wave.Error, EOFError) as error:
        raise ValueError(f"standard input: not a WAV stream that can be read: {error}") from error
    got = sound.getnchannels(), 8 * sound.getsampwidth(), sound.getframerate()
    if got != (1, 16, rate):
        raise ValueError(
            f"standard input: expected one channel of {rate} samples of 16 bits a second, got "
            f"{got[0]} of {got[2]} of {got[1]} bits: convert it, for example with sox or ffmpeg"
        )
    return sound.readframes
