# SPDX-License-Identifier: Apache-2.0
"""Debian packages unpacked without dpkg: an `ar` archive that holds a `tar`."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable

_MAGIC = b"!<arch>\n"
_HEADER = 60  # name 16, date 12, owner 6, group 6, mode 8, size 10, end mark 2


def unpack(deb: bytes, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The regular files of a `.deb` whose path (`usr/share/...`) is wanted, with their contents.

    Raises ValueError for anything that is not a whole `.deb`.
    """
    name, archive = _data_member(deb)
    if name.endswith(".zst"):
        archive = _unzstd(deb)
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                path = member.name.removeprefix("./")
                if member.isfile() and wanted(path):
                    content = tar.extractfile(member)
                    assert content is not None  # isfile() says so
                    files[path] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{name} inside the .deb is damaged: {error}") from error
    return files


def _data_member(deb: bytes) -> tuple[str, bytes]:
    if not deb.startswith(_MAGIC):
        raise ValueError(f"not a .deb: expected it to start with {_MAGIC!r}, got {deb[:8]!r}")
    offset = len(_MAGIC)
    while offset + _HEADER <= len(deb):
        header = deb[offset : offset + _HEADER]
        name = header[:16].decode("ascii", "replace").rstrip(" /")
        size = int(header[48:58])
        start = offset + _HEADER
        if name.startswith("data.tar"):
            if start + size > len(deb):
                raise ValueError(
                    f"cut-off .deb: {name} needs {size} bytes, {len(deb) - start} left"
                )
            return name, deb[start : start + size]
        offset = start + size + size % 2
    raise ValueError("cut-off .deb: it holds no data.tar")


def _unzstd(deb: bytes) -> bytes:
    # Ubuntu packs with zstd, which Python reads only from 3.14 on; Ubuntu always has dpkg.
    unpacked = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", "/dev/stdin"],
        input=deb,
        capture_output=True,
        check=False,
    )
    if unpacked.returncode:
        raise ValueError(f"dpkg-deb could not unpack the .deb: {unpacked.stderr.decode().strip()}")
    return unpacked.stdout
