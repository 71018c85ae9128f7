# SPDX-License-Identifier: Apache-2.0
"""Spoken English out of Debian packages: a telephone exchange's prompts, or a game's voices."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from examples.common.download import DownloadError, debian_files
from examples.speech.queen import spoken


class Clip(NamedTuple):
    """One sound file, still packed, and its words as they were written."""

    name: str
    text: str
    sound: bytes


class Source(NamedTuple):
    """Where clips come from: `read` gives all of them, sounds of `rate` samples a second.

    `clips` and `digest` are what Debian 12 gives; a newer version may move both a little.
    """

    title: str
    licence: str
    rate: int
    clips: int
    digest: str
    read: Callable[[Path], Iterator[Clip]]


def read(source: Source, cache: Path) -> list[Clip]:
    """All clips of a source. Raises DownloadError where it gives far fewer than it should."""
    clips = sorted(source.read(cache))
    print(f"{source.title}: {len(clips)} clips, licence {source.licence}", flush=True)
    if len(clips) < 0.8 * source.clips:
        raise DownloadError(
            f"{source.title}: expected about {source.clips} clips, got {len(clips)}: the package "
            "no longer looks as this program knows it"
        )
    if _digest(clips) != source.digest:
        print("  not the version that published figures are from: yours may differ a little")
    return clips


def samples(sound: bytes, rate: int) -> np.ndarray:
    """A sound file (WAV, MP3, FLAC, ...) as [N] float32 in -1..1.

    Raises ValueError for one of another rate, of more than one channel, or that is none.
    """
    try:
        found, found_rate = soundfile.read(io.BytesIO(sound), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"not a sound that can be read: {error}") from error
    if found_rate != rate or found.shape[1] != 1:
        raise ValueError(
            f"expected one channel of {rate} samples a second, got {found.shape[1]} of "
            f"{found_rate}: convert it, for example with sox or ffmpeg"
        )
    return found[:, 0]


def _digest(clips: Iterable[Clip]) -> str:
    digest = hashlib.sha256()
    for name, text, sound in clips:
        digest.update("\0".join((name, text, hashlib.sha256(sound).hexdigest(), "")).encode())
    return digest.hexdigest()[:16]


def _prompts(cache: Path) -> Iterator[Clip]:
    """The list of texts has `name: text` lines; in brackets is what is no speech."""
    documents = debian_files(
        "asterisk-core-sounds-en", lambda path: path.endswith("/core-sounds-en.txt.gz"), cache
    )
    listed = b"".join(gzip.decompress(content) for content in documents.values()).decode()
    texts = dict(re.findall(r"^([\w./-]+)[ ]*:[ ]*(.+?)[ ]*$", listed, re.MULTILINE))
    sounds = debian_files("asterisk-core-sounds-en-wav", lambda path: path.endswith(".wav"), cache)
    for path, sound in sounds.items():
        name = path.partition("/en_US_f_Allison/")[2].removesuffix(".wav")
        if name in texts:
            yield Clip(name, texts[name], sound)


def _voices(cache: Path) -> Iterator[Clip]:
    archives = debian_files(
        "flight-of-the-amazon-queen", lambda path: path.endswith("/queen.1c"), cache
    )
    for archive in archives.values():
        yield from (Clip(*found) for found in spoken(archive))


SOURCES = {
    "asterisk": Source(
        "Asterisk's prompts (asterisk-core-sounds-en, asterisk-core-sounds-en-wav)",
        "CC-BY-SA-3.0, recorded by Allison Smith",
        8000,
        568,
        "5300c8ed35ce2435",
        _prompts,
    ),
    "amazon-queen": Source(
        "Flight of the Amazon Queen (flight-of-the-amazon-queen)",
        "its own, which allows all but selling the game",
        11025,
        6316,
        "624b3d99d1736ad4",
        _voices,
    ),
}
