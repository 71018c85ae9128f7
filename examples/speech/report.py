# SPDX-License-Identifier: Apache-2.0
"""What was heard, as text and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from examples.speech.features import HOP, WINDOW
from examples.speech.model import steps
from examples.speech.recognize import Recognized
from examples.speech.score import error_rates
from examples.speech.text import ALPHABET

SHOWN = 12  # transcripts printed
SHOWN_LETTERS = 30  # of the utterance in the picture
_SPACE = "␣"


def show_and_score(found: Sequence[Recognized], output: Path) -> dict[str, dict[str, float]]:
    """Writes all transcripts to `transcripts.txt`, prints some, and returns the error rates."""
    blocks = [
        f"{each.utterance.text}\n  beam    {each.beam}\n  greedy  {each.greedy}" for each in found
    ]
    (output / "transcripts.txt").write_text("\n".join(blocks) + "\n", encoding="utf-8")
    print("\n".join(["", *blocks[:SHOWN], ""]), flush=True)
    said = [each.utterance.text for each in found]
    return {
        "greedy": error_rates([each.greedy for each in found], said),
        "beam": error_rates([each.beam for each in found], said),
    }


def pick(found: Sequence[Recognized]) -> Recognized:
    """An utterance for the picture: neither a word nor a speech."""
    return min(found, key=lambda each: abs(len(each.utterance.text) - SHOWN_LETTERS))


def plot_transcript(found: Recognized, path: Path) -> None:
    """The spectrogram over what the model made of it: probabilities of letters at each step."""
    features, seconds = found.utterance.features, len(found.utterance.features) * HOP
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(1, 1.4))
    upper.imshow(
        features.T,
        aspect="auto",
        origin="lower",
        extent=(0, seconds, 0, features.shape[1]),
        cmap="magma",
        vmin=-2.5,
        vmax=2.5,
    )
    upper.set(ylabel=f"mel filter ({WINDOW * 1e3:.0f} ms windows)")
    upper.set_title(
        f"said:  {found.utterance.text}\nheard: {found.beam}", loc="left", family="monospace"
    )
    letters = np.exp(found.log_probs[:, 1:])  # [S,V-1]
    step = HOP * len(features) / steps(len(features))
    lower.imshow(
        letters.T,
        aspect="auto",
        origin="lower",
        extent=(0, step * len(letters), -0.5, letters.shape[1] - 0.5),
        cmap="Blues",
        vmin=0,
        vmax=1,
    )
    lower.set_yticks(range(len(ALPHABET)), ALPHABET.replace(" ", _SPACE), fontsize=7)
    lower.set(xlabel="seconds", ylabel="probability of a letter; white: blank")
    figure.savefig(path, dpi=100)
