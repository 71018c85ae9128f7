# SPDX-License-Identifier: Apache-2.0
"""Tries the wheels in dist/ in fresh environments: `make test-wheels`.

Each interpreter gets one environment with the oldest supported jax and one with the newest that it
can have, both outside the checkout.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from wheels import starts

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def oldest() -> str:
    """jax and jaxlib as old as pyproject.toml allows."""
    bounds = (re.fullmatch(r"(jax|jaxlib)>=([\d.]+)", one) for one in PROJECT["dependencies"])
    return " ".join(f"{bound[1]}=={bound[2]}.0" for bound in bounds if bound)


def main() -> None:
    folder, *pythons = sys.argv[1:]
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
