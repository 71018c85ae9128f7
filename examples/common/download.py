# SPDX-License-Identifier: Apache-2.0
"""Data that ships inside Debian and PyPI packages: fetched once, as an ordinary user, and cached.

A cached file carries the sha256 of its content in its name and appears by one rename, so a run
that is cut off leaves nothing that a later run could take for whole, and a damaged file is fetched
again.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.common.deb import unpack


class DownloadError(RuntimeError):
    """Data could not be fetched; the message says why."""


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/jax_persistent`, or `~/.cache/jax_persistent`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jax_persistent"


def debian_files(package: str, predicate: Callable[[str], bool], cache: Path) -> dict[str, bytes]:
    """The files of a Debian package whose path (`usr/share/...`) fits the predicate.

    Needs `apt-get` and no privileges. apt checks the package against Debian's signed index.
    """
    folder = cache / "debian"
    deb = cached(folder, package, lambda partial: _apt_download(package, cache, partial))
    try:
        return unpack(deb, predicate)
    except ValueError as error:
        raise _unusable(folder, package, str(error)) from error


def sdist_file(project: str, version: str, member: str, cache: Path) -> bytes:
    """One file out of a PyPI source distribution; `member` is its path inside the archive."""
    name = f"{project}-{version}"
    folder = cache / "pypi"
    sdist = cached(folder, name, lambda partial: _pip_download(project, version, partial))
    try:
        with tarfile.open(fileobj=io.BytesIO(sdist)) as tar:
            content = tar.extractfile(member)
            if content is None:
                raise KeyError(f"{member} is no regular file")
            return content.read()
    except (KeyError, tarfile.TarError, EOFError, OSError) as error:
        raise _unusable(folder, name, str(error)) from error


def cached(folder: Path, name: str, make: Callable[[Path], Path]) -> bytes:
    """The content of `folder/name.<sha256>`; `make` writes it first where it is missing or damaged.

    `make` gets an empty folder to work in and returns the file it wrote there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        for path in _versions(folder, name):
            content = path.read_bytes()
            if path.suffix == f".{hashlib.sha256(content).hexdigest()}":
                return content
            print(f"{path} is damaged: making it again", flush=True)
            path.unlink()
        partial = folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        made = make(partial)
        content = made.read_bytes()
        os.replace(made, folder / f"{name}.{hashlib.sha256(content).hexdigest()}")
        shutil.rmtree(partial)
        return content


def _versions(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}.{'[0-9a-f]' * 64}"))


def _unusable(folder: Path, name: str, why: str) -> DownloadError:
    """Takes a package that can't be used out of the cache, so that the next run asks anew."""
    for path in _versions(folder, name):
        path.unlink()
    return DownloadError(f"package {name} can't be used and has left the cache {folder}: {why}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _apt_download(package: str, cache: Path, partial: Path) -> Path:
    if shutil.which("apt-get") is None:
        raise DownloadError(
            f"apt-get is not on PATH, and Debian package {package} comes through it"
        )
    print(f"Fetching Debian package {package}", flush=True)
    state = (cache / "apt").resolve()
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    # The system's sources and keys, but every file that apt writes is ours: no root needed. As
    # root, apt would hand the download to a user who may not enter the cache.
    settings = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    download = ["apt-get", *options, "download", package]
    # Lists age: a version they name may have left the mirror, so a failed download renews them.
    if any((state / "lists").glob("*Packages*")) and _run(download, partial).returncode == 0:
        return _only_file(partial, package)
    update = _run(["apt-get", "-q", *options, "update"], partial)
    result = _run(download, partial)
    if result.returncode:
        raise DownloadError(
            f"apt-get could not fetch Debian package {package}:\n"
            f"{update.stderr}{result.stderr}".rstrip()
        )
    return _only_file(partial, package)


def _pip_download(project: str, version: str, partial: Path) -> Path:
    print(f"Fetching {project} {version} from PyPI", flush=True)
    requirement = f"{project}=={version}"
    # Of this project alone the source: pip reads its metadata with build tools that come as wheels.
    options = ["--no-deps", "--no-binary", project]
    result = _run([sys.executable, "-m", "pip", "download", *options, requirement], partial)
    if result.returncode:
        raise DownloadError(f"pip could not fetch {requirement}:\n{result.stderr}".rstrip())
    return _only_file(partial, requirement)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Progress goes to the terminal as it comes; errors are kept for the message."""
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )


def _only_file(partial: Path, what: str) -> Path:
    files = [path for path in partial.iterdir() if path.is_file()]
    if len(files) != 1:
        names = sorted(path.name for path in files)
        raise DownloadError(f"{what}: expected one downloaded file, got {names}")
    return files[0]
