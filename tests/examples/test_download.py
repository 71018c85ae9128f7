# SPDX-License-Identifier: Apache-2.0
"""Files of packages are fetched once, checked and cached; what goes wrong is said."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from package_files import make_deb, make_tar, write_program

from examples.common.download import (
    DownloadError,
    cached,
    debian_files,
    default_cache,
    sdist_file,
)

FILES = {"usr/share/a/one.txt": b"first", "usr/share/b/two.bin": bytes(range(256)) * 40}

# A client that keeps its rules: private state, lists before packages, the package in the working
# directory. What it is asked goes to `log`, what it does follows `mode`.
APT_GET = """
import os, pathlib, signal, sys
here = pathlib.Path(__file__).parent
options = dict(word.split("=", 1) for word in sys.argv if "=" in word)
command = [word for word in sys.argv[1:] if word in ("update", "download")][0]
with open(here / "log", "a") as log:
    print(command, file=log)
mode = (here / "mode").read_text()
lists = pathlib.Path(options["Dir::State::lists"])
assert pathlib.Path(options["Dir::State::status"]).is_file()
assert (lists / "partial").is_dir()
assert pathlib.Path(options["Dir::Cache::archives"], "partial").is_dir()
if mode == "offline":
    sys.exit("E: Could not resolve 'deb.debian.org'")
if command == "update":
    (lists / "mirror_Packages").write_text(mode)
elif not (lists / "mirror_Packages").exists() or (lists / "mirror_Packages").read_text() != mode:
    sys.exit("E: 404 Not Found")
else:
    deb = (here / "deb").read_bytes()
    target = pathlib.Path(sys.argv[-1] + "_1_all.deb")
    if mode == "killed":
        target.write_bytes(deb[: len(deb) // 2])
        os.kill(os.getppid(), signal.SIGKILL)
        sys.exit(1)
    target.write_bytes(deb)
"""


class Apt:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_program(folder / "apt-get", APT_GET)
        (folder / "deb").write_bytes(make_deb(FILES))
        self.mode("works")

    def mode(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    def asked(self) -> list[str]:
        log = self.folder / "log"
        asked = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return asked


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return Apt(tmp_path / "bin")


def everything(path: str) -> bool:
    return True


def test_a_package_is_fetched_once(apt: Apt, tmp_path: Path) -> None:
    for _ in range(2):
        assert debian_files("words", everything, tmp_path / "cache") == FILES
    assert apt.asked() == ["update", "download"]


def test_lists_are_fetched_once_for_two_packages(apt: Apt, tmp_path: Path) -> None:
    debian_files("words", everything, tmp_path / "cache")
    debian_files("pictures", everything, tmp_path / "cache")
    assert apt.asked() == ["update", "download", "download"]


def test_lists_that_name_a_lost_version_are_renewed(apt: Apt, tmp_path: Path) -> None:
    debian_files("words", everything, tmp_path / "cache")
    apt.mode("security update")
    assert debian_files("pictures", everything, tmp_path / "cache") == FILES
    assert apt.asked() == ["update", "download", "download", "update", "download"]


def test_a_process_killed_in_a_download_leaves_nothing_behind(apt: Apt, tmp_path: Path) -> None:
    apt.mode("killed")
    program = (
        "from pathlib import Path; from examples.common.download import debian_files;"
        f"debian_files('words', lambda path: True, Path({str(tmp_path / 'cache')!r}))"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    half = tmp_path / "cache" / "debian" / "partial" / "words_1_all.deb"
    assert half.stat().st_size == len(make_deb(FILES)) // 2

    apt.mode("works")
    assert debian_files("words", everything, tmp_path / "cache") == FILES
    assert not half.parent.exists()


@pytest.mark.parametrize("damage", [lambda deb: deb[:-7], lambda deb: deb[:-7] + b"Z" + deb[-6:]])
def test_a_damaged_cache_is_fetched_again(apt: Apt, tmp_path: Path, damage, capsys) -> None:
    debian_files("words", everything, tmp_path)
    (deb,) = (tmp_path / "debian").glob("words.*")
    deb.write_bytes(damage(deb.read_bytes()))
    assert debian_files("words", everything, tmp_path) == FILES
    assert apt.asked() == ["update", "download", "download"]
    assert f"{deb} is damaged: making it again" in capsys.readouterr().out


def test_a_package_that_is_none_leaves_the_cache(apt: Apt, tmp_path: Path) -> None:
    (apt.folder / "deb").write_bytes(b"<html>sorry</html>")
    with pytest.raises(DownloadError, match=r"package words can't be used.*not a \.deb"):
        debian_files("words", everything, tmp_path)
    (apt.folder / "deb").write_bytes(make_deb(FILES))
    assert debian_files("words", everything, tmp_path) == FILES


def test_without_apt_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DownloadError, match="apt-get is not on PATH, and Debian package words"):
        debian_files("words", everything, tmp_path / "cache")


def test_the_client_s_own_words_are_in_the_message(apt: Apt, tmp_path: Path) -> None:
    apt.mode("offline")
    with pytest.raises(DownloadError, match=r"package words:\nE: Could not resolve 'deb.debian"):
        debian_files("words", everything, tmp_path)


PIP = """
import pathlib, sys
here = pathlib.Path(__file__).parent
with open(here / "log", "a") as log:
    print(*sys.argv[1:], file=log)
if not (here / "sdist").exists():
    sys.exit("ERROR: No matching distribution found")
pathlib.Path("small_words-1.2.tar.gz").write_bytes((here / "sdist").read_bytes())
"""


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a Python whose pip serves the file `sdist` and logs its calls."""
    write_program(tmp_path / "bin" / "python", PIP)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    return tmp_path / "bin"


def test_a_file_of_a_source_distribution_is_fetched_once(pip: Path, tmp_path: Path) -> None:
    files = {"small_words-1.2/data/words.txt": b"some words", "small_words-1.2/setup.py": b""}
    (pip / "sdist").write_bytes(make_tar(files, "gz"))
    for _ in range(2):
        found = sdist_file("small-words", "1.2", "small_words-1.2/data/words.txt", tmp_path)
        assert found == b"some words"
    asked = "-m pip download --no-deps --no-binary small-words small-words==1.2\n"
    assert (pip / "log").read_text() == asked


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (make_tar({"other.txt": b""}, "gz"), "package small-words-1.2 can't be used.*words.txt"),
        (make_tar({"words.txt": b"w" * 9000}, "gz")[:-40], "package small-words-1.2 can't be used"),
        (b"no archive", "package small-words-1.2 can't be used"),
    ],
    # Not the bytes, which hold the time: two workers would not find the same tests.
    ids=["another file", "cut off", "no archive"],
)
def test_a_source_distribution_without_the_file(
    pip: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    (pip / "sdist").write_bytes(content)
    with pytest.raises(DownloadError, match=message):
        sdist_file("small-words", "1.2", "words.txt", tmp_path)


def test_pip_s_own_words_are_in_the_message(pip: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"fetch small-words==1\.2:\nERROR: No matching"):
        sdist_file("small-words", "1.2", "words.txt", tmp_path)


def test_cached_names_a_file_by_its_content(tmp_path: Path) -> None:
    def make(folder: Path) -> Path:
        (folder / "scrap").write_text("left over")
        (folder / "made").write_text("content")
        return folder / "made"

    assert cached(tmp_path / "new" / "folder", "thing", make) == b"content"
    digest = hashlib.sha256(b"content").hexdigest()
    assert (tmp_path / "new" / "folder" / f"thing.{digest}").read_text() == "content"
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["lock", f"thing.{digest}"]


def test_cached_does_not_take_a_longer_name_for_its_own(tmp_path: Path) -> None:
    def maker(text: str):
        def make(folder: Path) -> Path:
            (folder / "made").write_text(text)
            return folder / "made"

        return make

    assert cached(tmp_path, "thing.one", maker("other")) == b"other"
    assert cached(tmp_path, "thing", maker("mine")) == b"mine"


def test_the_default_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "jax_persistent"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "jax_persistent"
