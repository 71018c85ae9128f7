# SPDX-License-Identifier: Apache-2.0
"""What is written, as what is spoken: letters, apostrophes and spaces, and their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

BLANK = 0  # CTC's symbol for nothing
ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"
SYMBOLS = 1 + len(ALPHABET)

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NOT_SPEECH = re.compile(r"[^\W_]*\d|[<>()\[\]*$]|&#")  # numbers, sounds in brackets, curses


def spoken(text: str) -> str | None:
    """Lower case, without punctuation, digits in words; None for what can't be spelt out."""
    text = re.sub(r"\b\d\b", lambda digit: _DIGITS[int(digit[0])], text.lower().replace("’", "'"))
    if _NOT_SPEECH.search(text):
        return None
    return " ".join(re.findall(r"[a-z]+(?:'[a-z]+)*", text)) or None


def encode(text: str) -> list[int]:
    return [1 + ALPHABET.index(letter) for letter in text]


def decode(symbols: Iterable[int]) -> str:
    return "".join(ALPHABET[symbol - 1] for symbol in symbols)
