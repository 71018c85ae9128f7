# SPDX-License-Identifier: Apache-2.0
"""A made-up language: each word has one hanzi, and the order is reversed."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

# Thirty made-up words, one hanzi each: fewer would make every sentence a near copy of another.
WORDS = {
    f"{first}{last}": chr(ord("一") + 7 * number)
    for number, (first, last) in enumerate(
        itertools.product("bdfgk", ("al", "en", "ip", "os", "un", "y"))
    )
}


def write(path: Path) -> None:
    """800 sentences with their translations."""
    draw = random.Random(4)
    sentences = {tuple(draw.choices(list(WORDS), k=draw.randint(3, 7))) for _ in range(800)}
    lines = (
        f"{' '.join(words)}\t{''.join(WORDS[word] for word in reversed(words))}\n"
        for words in sorted(sentences)
    )
    path.write_text("".join(lines), encoding="utf-8")
