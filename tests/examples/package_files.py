# SPDX-License-Identifier: Apache-2.0
"""Small packages and package clients for tests: made here, no network."""

from __future__ import annotations

import io
import stat
import struct
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path


def make_tar(files: Mapping[str, bytes], compression: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=f"w:{compression}") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def make_deb(files: Mapping[str, bytes], compression: str = "xz") -> bytes:
    """A .deb of files by path (`usr/...`); control.tar has an odd length: padding counts."""
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",
        f"data.tar.{compression}": make_tar(
            {f"./{path}": content for path, content in files.items()}, compression
        ),
    }
    return make_ar(members)


def make_ar(members: Mapping[str, bytes]) -> bytes:
    archive = b"!<arch>\n"
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        archive += header.encode() + content + b"\n" * (len(content) % 2)
    return archive


def make_catalog(messages: Mapping[str, str]) -> bytes:
    """A gettext .mo; its layout: https://www.gnu.org/software/gettext/manual/html_node/MO-Files.html"""
    entries = {"": "Content-Type: text/plain; charset=UTF-8\n", **messages}
    pairs = sorted((key.encode(), value.encode()) for key, value in entries.items())
    offset = 28 + 16 * len(pairs)
    tables: list[bytes] = []
    texts = b""
    for column in (0, 1):
        for pair in pairs:
            tables.append(struct.pack("<II", len(pair[column]), offset + len(texts)))
            texts += pair[column] + b"\0"
    start = 28, 28 + 8 * len(pairs)
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), *start, 0, 0)
    return header + b"".join(tables) + texts


def write_program(path: Path, source: str) -> None:
    """A Python program that can be called by its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
