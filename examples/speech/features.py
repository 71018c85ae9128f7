# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms: what the ear keeps of a sound.

Short windows, their power spectra, triangular filters evenly spaced on the mel scale, the
logarithm; then each filter at mean 0 and variance 1 over the utterance, which takes the microphone
out.
"""

from __future__ import annotations

from functools import cache

import numpy as np

WINDOW, HOP = 0.025, 0.010  # seconds
_FLOOR = 1e-6  # of a filter's power: MP3 has exact silence


def frames(samples: int, rate: int) -> int:
    """How many windows fit in that many samples; a sound shorter than one is padded to one."""
    return 1 + max(0, samples - round(WINDOW * rate)) // round(HOP * rate)


def log_mel(samples: np.ndarray, rate: int, mels: int) -> np.ndarray:
    """samples [N] -> [frames, mels] float32, neither mean nor scale taken out."""
    window, hop = round(WINDOW * rate), round(HOP * rate)
    padded = np.pad(samples, (0, max(0, window - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    spectrum = np.fft.rfft(windows * np.hanning(window + 1)[:-1], _bins(window))
    power = (spectrum.real**2 + spectrum.imag**2) / window
    return np.log(power @ filters(rate, mels) + _FLOOR).astype(np.float32)


def normalized(log_mels: np.ndarray) -> np.ndarray:
    """[T, M] -> [T, M] with mean 0 and variance 1 over T."""
    centred = log_mels - log_mels.mean(0)
    return (centred / (centred.std(0) + 1e-3)).astype(np.float32)


@cache
def filters(rate: int, mels: int) -> np.ndarray:
    """[bins, mels]: triangles from 0 Hz to half the rate, each from one centre to the next but one.

    On the mel scale of O'Shaughnessy, 2595 log10(1 + f / 700), the centres are equally far apart.
    """
    bins = _bins(round(WINDOW * rate))
    highest = 2595 * np.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, mels + 2) / 2595) - 1)  # Hz
    frequencies = np.arange(bins // 2 + 1)[:, None] * rate / bins
    rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def _bins(window: int) -> int:
    """The next power of two."""
    return 1 << (window - 1).bit_length()
