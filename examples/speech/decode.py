# SPDX-License-Identifier: Apache-2.0
"""From a symbol's probability at each step to text: greedily, or by prefix beam search."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import groupby

import numpy as np

from examples.speech.text import BLANK

NEVER = -math.inf


def collapse(path: np.ndarray) -> list[int]:
    """A symbol for each step [S] -> what it reads: repeats are one symbol, blanks are none."""
    return [int(symbol) for symbol, _ in groupby(path) if symbol != BLANK]


def greedy(log_probs: np.ndarray) -> list[int]:
    """log_probs [S,V] -> what the likeliest path reads."""
    return collapse(log_probs.argmax(-1))


def beam_search(log_probs: np.ndarray, beam: int) -> tuple[list[int], float]:
    """log_probs [S,V] -> the likeliest symbols and their log-probability, over all their paths.

    At each step the `beam` likeliest prefixes stay, each with the probability of its paths that end
    in a blank and of those that don't: only after a blank is a repeated symbol a new one. Source:
    Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
    Recurrent DNNs", 2014, algorithm 1, without a language model.
    """
    found: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NEVER)}  # in a blank, not in one
    for step in log_probs.tolist():
        blanks: dict[tuple[int, ...], float] = defaultdict(lambda: NEVER)
        others: dict[tuple[int, ...], float] = defaultdict(lambda: NEVER)
        for prefix, (blank, other) in found.items():
            both = _add(blank, other)
            last = prefix[-1] if prefix else BLANK
            blanks[prefix] = _add(blanks[prefix], both + step[BLANK])
            for symbol, chance in enumerate(step):
                if symbol == BLANK:
                    continue
                if symbol == last:
                    others[prefix] = _add(others[prefix], other + chance)
                longer = (*prefix, symbol)
                others[longer] = _add(others[longer], (blank if symbol == last else both) + chance)
        reached = {prefix: (blanks[prefix], others[prefix]) for prefix in {*blanks, *others}}
        best = sorted(reached, key=lambda prefix: (-_add(*reached[prefix]), prefix))[:beam]
        found = {prefix: reached[prefix] for prefix in best}
    winner = next(iter(found))
    return list(winner), _add(*found[winner])


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
