# SPDX-License-Identifier: Apache-2.0
"""enwik8, or any text, in parts and in chunks."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from examples.common.download import DownloadError, sdist_file

ENWIK8_MD5 = "a1fa5ffddb56f4953e226637dabbb36a"


def enwik8(cache: Path) -> bytes:
    """The first 100 MB of the English Wikipedia as of 2006, from a package that ships them."""
    packed = sdist_file("minGRU-pytorch", "0.2.1", "mingru_pytorch-0.2.1/data/enwik8.gz", cache)
    text = gzip.decompress(packed)
    if (md5 := hashlib.md5(text).hexdigest()) != ENWIK8_MD5:
        raise DownloadError(f"enwik8: expected md5 {ENWIK8_MD5}, got {md5}; empty {cache}/pypi")
    return text


def split(text: bytes) -> list[np.ndarray]:
    """Train 90 %, valid 5 % and test 5 %, in this order."""
    symbols = np.frombuffer(text, np.uint8)
    return np.split(symbols, [len(symbols) * 90 // 100, len(symbols) * 95 // 100])


def chunks(text: np.ndarray, batch: int, length: int) -> Iterator[np.ndarray]:
    """[B, T + 1] at a time: `batch` equal stretches of the text, read on in step, once through.

    The last symbol of a chunk is the first of the next: one is to be predicted, then seen.
    """
    columns = len(text) // batch
    if columns <= length:
        raise ValueError(
            f"a part of the text has {len(text)} bytes, too few for {batch} stretches of more than "
            f"{length}: give a longer text, or a smaller --batch or --length"
        )
    stretches = text[: batch * columns].reshape(batch, columns)
    for start in range(0, columns - length, length):
        yield stretches[:, start : start + length + 1]
