# SPDX-License-Identifier: Apache-2.0
"""Tries the wheels in dist/ in fresh environments: `make test-wheels`.

Each interpreter gets one environment with the oldest supported jax and one with the newest that it
can have, both outside the checkout. Of the wheels for AArch64 the C library learns the C example's
task in the emulator, where a cross-compiler and the emulator are installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

from wheels import starts

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def oldest() -> str:
    """jax and jaxlib as old as pyproject.toml allows."""
    bounds = (re.fullmatch(r"(jax|jaxlib)>=([\d.]+)", one) for one in PROJECT["dependencies"])
    return " ".join(f"{bound[1]}=={bound[2]}.0" for bound in bounds if bound)


def emulate(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
        package, program = Path(place, "jax_persistent"), Path(place, "remember")
        library = package / "lib" / "libjax_persistent.so"
        source = ROOT / "examples" / "c" / "remember.c"
        compiler = ["aarch64-linux-gnu-gcc", "-O2", "-I", package / "include"]
        subprocess.run([*compiler, source, library, "-o", program], check=True)
        emulator = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
        search = ["-E", f"LD_LIBRARY_PATH={library.parent}"]
        print(f"{wheel.name}, its C library in the emulator:", flush=True)
        subprocess.run([*emulator, *search, program], check=True)


def main() -> None:
    folder, *pythons = sys.argv[1:]
    if shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64"):
        for one in Path(folder).glob("*aarch64.whl"):
            emulate(one)
    wheel = f"{PROJECT['name']}=={PROJECT['version']}"
    for python in filter(starts, pythons):
        for others in (oldest(), ""):
            with tempfile.TemporaryDirectory() as place:
                own = Path(place, "venv", "bin", "python")
                subprocess.run([python, "-m", "venv", own.parent.parent], check=True)
                pip = [own, "-m", "pip", "--quiet", "--disable-pip-version-check"]
                found = ["--find-links", Path(folder).resolve(), "--only-binary", ":all:"]
                subprocess.run([*pip, "install", *found, wheel, *others.split()], check=True)
                subprocess.run([own, ROOT / ".ci" / "smoke.py"], cwd=place, check=True)


if __name__ == "__main__":
    main()
