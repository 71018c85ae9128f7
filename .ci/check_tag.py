# SPDX-License-Identifier: Apache-2.0
"""Fails unless a tag is the version of pyproject.toml, and CHANGELOG.md has that version."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problem(tag: str, version: str, changelog: str) -> str | None:
    """What is wrong with a tag; None if nothing is."""
    if tag != f"v{version}":
        return f"tag: expected v{version}, as pyproject.toml has it; got {tag}"
    if f"## [{version}]" not in changelog:
        return f"CHANGELOG.md: expected a section '## [{version}]'; rename [Unreleased]"
    return None


if __name__ == "__main__":
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sys.exit(
        problem(sys.argv[1], settings["project"]["version"], (ROOT / "CHANGELOG.md").read_text())
    )
