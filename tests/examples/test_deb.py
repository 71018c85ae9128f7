# SPDX-License-Identifier: Apache-2.0
"""Debian packages are unpacked as dpkg does, and broken ones refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from package_files import make_ar, make_deb, make_tar, write_program

from examples.common.deb import unpack

FILES = {"usr/share/a/one.txt": b"first", "usr/share/b/two.bin": bytes(range(256)) * 40}


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_every_file_comes_out_as_it_went_in(compression: str) -> None:
    assert unpack(make_deb(FILES, compression), lambda path: True) == FILES


def test_only_wanted_files_come_out() -> None:
    found = unpack(make_deb(FILES), lambda path: path.endswith(".bin"))
    assert found == {"usr/share/b/two.bin": FILES["usr/share/b/two.bin"]}


def test_zstd_is_left_to_dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = tmp_path / "data.tar"
    tar.write_bytes(make_tar(FILES, ""))
    write_program(
        tmp_path / "dpkg-deb",
        f"import sys; sys.stdout.buffer.write(open({str(tar)!r}, 'rb').read())",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    deb = make_ar({"debian-binary": b"2.0\n", "data.tar.zst": b"compressed"})
    assert unpack(deb, lambda path: True) == FILES


def test_what_dpkg_refuses_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path / "dpkg-deb", "raise SystemExit('not a frame')")
    monkeypatch.setenv("PATH", str(tmp_path))
    deb = make_ar({"debian-binary": b"2.0\n", "data.tar.zst": b"compressed"})
    with pytest.raises(ValueError, match=r"dpkg-deb could not unpack the \.deb: not a frame"):
        unpack(deb, lambda path: True)


@pytest.mark.parametrize(
    ("deb", "message"),
    [
        (b"<html>404</html>", r"not a \.deb: expected it to start with b'!<arch>.*got b'<html>40'"),
        (make_deb(FILES)[:-100], r"cut-off \.deb: data\.tar\.xz needs \d+ bytes, \d+ left"),
        (make_deb(FILES)[:90], r"cut-off \.deb: it holds no data\.tar"),
        (make_ar({"data.tar.xz": b"not compressed"}), r"data\.tar\.xz inside the \.deb is damaged"),
    ],
)
def test_a_broken_package_is_refused(deb: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(deb, lambda path: True)


def test_a_flipped_bit_is_noticed() -> None:
    deb = bytearray(make_deb(FILES))
    deb[-120] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        unpack(bytes(deb), lambda path: True)
