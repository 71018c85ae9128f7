# SPDX-License-Identifier: Apache-2.0
"""The command line of a run: options that every example has, and the exit status."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from examples.common import hosts
from examples.common.download import DownloadError, default_cache
from examples.common.settings import RunSettings, add_flags


def add_options(
    parser: argparse.ArgumentParser, presets: Mapping[str, RunSettings], output: Path
) -> None:
    """Those of a run on data, and on several hosts."""
    add_run_options(parser, presets, output)
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="folder of downloaded data"
    )
    hosts.add_options(parser)


def add_run_options(
    parser: argparse.ArgumentParser, presets: Mapping[str, RunSettings], output: Path | None
) -> None:
    """Where a run is kept (in `output` if not given), how it starts, and its settings."""
    parser.add_argument(
        "--output", type=Path, default=output, help="folder of checkpoints, metrics, pictures"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in --output"
    )
    start.add_argument(
        "--overwrite", action="store_true", help="replace an earlier run in --output"
    )
    add_flags(parser, presets)


def until_interrupted(run: Callable[[], None]) -> Callable[[], None]:
    """The same for what a user ends by Ctrl-C, which is no accident then."""

    def interruptible() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            run()

    return interruptible


def execute(begin: Callable[[], Callable[[], None]]) -> int:
    """Calls `begin`, then what it returns -> the exit status.

    An error of the former is the user's to mend, and gets one line; one of the latter is ours.
    """
    try:
        go_on = begin()
    except (ValueError, OSError, DownloadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        go_on()
    except KeyboardInterrupt:
        print("\ninterrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0
