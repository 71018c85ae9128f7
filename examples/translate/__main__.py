# SPDX-License-Identifier: Apache-2.0
"""Trains an English to Chinese translator: `python -m examples.translate --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from examples.common import command, hosts
from examples.common.settings import from_flags
from examples.translate import run
from examples.translate.settings import PRESETS, Settings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.translate",
        description="Learns to translate English to Chinese with LSTMs on persistent kernels.",
    )
    parser.add_argument(
        "--data", type=Path, help="own pairs: a UTF-8 file of english<TAB>chinese lines"
    )
    parser.add_argument(
        "--translate",
        metavar="TEXT",
        nargs="+",
        help="only translate, with the model trained in --output",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="only translate lines of standard input as they come, with the model in --output",
    )
    command.add_options(parser, PRESETS, Path("runs/translate"))
    return parser.parse_args(arguments)


def settings_from(options: argparse.Namespace) -> Settings:
    """The preset with the flags that were given; a resumed run's settings can't change."""
    return from_flags(
        options, PRESETS, earlier=options.resume or options.live or bool(options.translate)
    )


def begin(options: argparse.Namespace) -> Callable[[], None]:
    settings, places = settings_from(options), (options.cache, options.output)
    if options.translate:
        found = run.translate_texts(options.translate, settings, options.output)
        return partial(print, *found, sep="\n")
    if options.live:
        return command.until_interrupted(run.translate_live(settings, options.output))
    hosts.join(options)
    mesh = hosts.make_mesh(settings.batch, options.devices)
    kept = {"resume": options.resume, "overwrite": options.overwrite}
    prepared = run.start(settings, options.data, *places, mesh, **kept)
    return partial(run.train_and_report, prepared, settings, *places, mesh, resume=options.resume)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    return command.execute(partial(begin, parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
