# SPDX-License-Identifier: Apache-2.0
"""Trains a speech recogniser: `python -m examples.speech --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from examples.common import command, hosts
from examples.common.settings import from_flags
from examples.speech import run
from examples.speech.settings import PRESETS, Settings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.speech",
        description="Learns to write down spoken English: CTC over LSTMs on persistent kernels.",
    )
    parser.add_argument(
        "--transcribe",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="only transcribe sound files, with the model trained in --output",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="only transcribe sound from standard input as it comes, with the model in --output: "
        "16-bit samples of one channel, raw or a WAV stream",
    )
    command.add_options(parser, PRESETS, Path("runs/speech"))
    return parser.parse_args(arguments)


def settings_from(options: argparse.Namespace) -> Settings:
    """The preset with the flags that were given; a resumed run's settings can't change."""
    return from_flags(
        options, PRESETS, earlier=options.resume or options.live or bool(options.transcribe)
    )


def begin(options: argparse.Namespace) -> Callable[[], None]:
    settings = settings_from(options)
    if options.transcribe:
        heard = run.transcribe_files(options.transcribe, settings, options.output)
        return partial(print, *heard, sep="\n")
    if options.live:
        return command.until_interrupted(run.transcribe_live(settings, options.output))
    hosts.join(options)
    mesh = hosts.make_mesh(settings.batch, options.devices)
    kept = {"resume": options.resume, "overwrite": options.overwrite}
    prepared = run.start(settings, options.cache, options.output, mesh, **kept)
    return partial(
        run.train_and_report, prepared, settings, options.output, mesh, resume=options.resume
    )


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    return command.execute(partial(begin, parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
