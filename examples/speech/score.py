# SPDX-License-Identifier: Apache-2.0
"""Error rates: how many edits turn what was recognised into what was said."""

from __future__ import annotations

from collections.abc import Sequence


def edits(found: Sequence, expected: Sequence) -> int:
    """Levenshtein distance: fewest insertions, deletions and substitutions."""
    row = list(range(len(expected) + 1))
    for i, left in enumerate(found, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(expected, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def error_rate(found: Sequence[Sequence], expected: Sequence[Sequence]) -> float:
    """Edits over all pairs for each expected element; above 1 where much was made up."""
    total = sum(map(len, expected))
    return sum(edits(*pair) for pair in zip(found, expected, strict=True)) / total


def error_rates(found: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Of characters (cer) and of words (wer), as shares."""
    words = [[text.split() for text in texts] for texts in (found, expected)]
    return {"cer": round(error_rate(found, expected), 4), "wer": round(error_rate(*words), 4)}
