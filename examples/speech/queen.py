# SPDX-License-Identifier: Apache-2.0
"""Flight of the Amazon Queen: which words each of its sounds speaks, out of its one data file.

The layout of `queen.1c` was learnt from ScummVM, whose engine plays the game. All numbers are
big-endian; texts are in code page 437.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

_MAGIC = b"QTBL"
_HEADER, _ROW = 15, 21  # bytes; a row is name 12, bundle 1, offset 4, size 4
_FILE_HEADER = 20  # of dialogues and cut scenes
_CHOICES = 96  # bytes of a dialogue's table of choices, for each of its levels
_DESCRIPTIONS = range(41, 801)  # Joe's remarks on things, a line each
_PAUSE = re.compile(r"\*(?:XY.{11}|..)")  # between sounds: a gesture, or where to stand


def spoken(archive: bytes) -> Iterator[tuple[str, str, bytes]]:
    """The name, the words and the MP3 of every sound whose words are known.

    A sound `<line><n>.SB`, n a hexadecimal digit, is the n-th part of a line of text.
    """
    files = _files(archive)
    lines = dict(_lines(files))
    for name in sorted(files):
        if sound := re.fullmatch(r"(\w+)([1-9A-F])\.SB", name):
            parts = _PAUSE.split(lines.get(sound[1], ""))
            part = int(sound[2], 16) - 1
            if part < len(parts) and parts[part].strip():
                yield name, parts[part].strip(), bytes(files[name])


def _files(archive: bytes) -> dict[str, memoryview]:
    if not archive.startswith(_MAGIC):
        raise ValueError(f"not queen.1c: expected {_MAGIC!r} first, got {archive[:4]!r}")
    view, files = memoryview(archive), {}
    (count,) = struct.unpack_from(">H", archive, _HEADER - 2)
    for row in range(count):
        name, _, offset, size = struct.unpack_from(">12sBII", archive, _HEADER + row * _ROW)
        files[name.split(b"\0")[0].decode("ascii").strip().upper()] = view[offset : offset + size]
    return files


def _lines(files: dict[str, memoryview]) -> Iterator[tuple[str, str]]:
    """What sounds are named after, and the text."""
    for name, content in files.items():
        stem, _, kind = name.rpartition(".")
        body = bytes(content[_FILE_HEADER:])
        if kind == "DOG":
            yield from _dialogue(body)
        elif kind == "CUT":
            yield from ((f"{stem:_<5}{number:02}", text) for number, text in _cut_scene(body))
    for number, text in zip(_DESCRIPTIONS, bytes(files["QUEEN2.JAS"]).split(b"\r\n"), strict=False):
        yield f"JOE{number:04}", text.decode("cp437")


def _dialogue(body: bytes) -> Iterator[tuple[str, str]]:
    """Two lists of numbered texts: what the other person says, and what Joe does."""
    levels, _, room, joes, others = struct.unpack_from(">hhhhh", body)
    (others_start,) = struct.unpack_from(">H", body, 22)
    for count, offset, speaker in (
        (others, others_start, "P"),
        (joes, 32 + _CHOICES * abs(levels), "J"),
    ):
        for _ in range(count):
            number, length = struct.unpack_from(">HB", body, offset + 2)
            offset += 5
            if length:
                text = body[offset : offset + length].decode("cp437")
                yield f"{room:02}{number:04X}{speaker}", text
                offset = _aligned(offset + length, 4)


def _cut_scene(body: bytes) -> Iterator[tuple[int, str]]:
    """Numbered texts, after one that is no speech."""
    (count,) = struct.unpack_from(">h", body, 2)
    (offset,) = struct.unpack_from(">H", body, 8)
    for number in range(abs(count) + 1):
        length = body[offset]
        offset += 1
        if length:
            if number:
                yield number, body[offset : offset + length].decode("cp437")
            offset = _aligned(offset + length, 2)


def _aligned(offset: int, to: int) -> int:
    return -(-offset // to) * to
