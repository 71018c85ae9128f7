# SPDX-License-Identifier: Apache-2.0
"""Trains policies with memory and without: `python -m examples.policy --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from examples.common import command
from examples.common.output import begin_anew, check_free
from examples.common.settings import from_flags
from examples.policy import run
from examples.policy.settings import PRESETS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.policy",
        description="Learns tasks that need memory: recurrent PPO, beside a memoryless policy.",
    )
    command.add_run_options(parser, PRESETS, None)
    options = parser.parse_args(arguments)
    options.output = options.output or Path("runs/policy", options.preset)
    return options


def begin(options: argparse.Namespace) -> Callable[[], None]:
    settings = from_flags(options, PRESETS, earlier=options.resume)
    check_free(options.output, resume=options.resume, overwrite=options.overwrite)
    if not options.resume:
        begin_anew(options.output, settings)
    return partial(run.train_and_report, settings, options.output, resume=options.resume)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    return command.execute(partial(begin, parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
