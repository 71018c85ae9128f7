# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: its settings, and below it checkpoints, metrics and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from examples.common import hosts
from examples.common.settings import RunSettings


def check_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises FileExistsError where there is a run that is neither resumed nor to be replaced."""
    if not (resume or overwrite) and (output / "checkpoints").exists():
        raise FileExistsError(
            f"{output} holds an earlier run: go on with --resume, replace it with --overwrite, or "
            "give another --output"
        )


def make_ready(
    output: Path,
    settings: RunSettings,
    mesh: Mesh,
    data: Any,
    *,
    resume: bool,
    save: Callable[[], None] = lambda: None,
) -> None:
    """Removes an earlier run that isn't resumed, and saves the settings and what else there is.

    Raises ValueError where the hosts differ in options or, by its `repr`, in `data`.
    """
    hosts.agree("data or options", settings, mesh.size, resume, data)
    if hosts.is_first() and not resume:
        begin_anew(output, settings, save)
    hosts.share(output)


def begin_anew(
    output: Path, settings: RunSettings, save: Callable[[], None] = lambda: None
) -> None:
    """Removes an earlier run's checkpoints, and saves the settings and what else there is."""
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    save()
    settings.save(output / "settings.json")
