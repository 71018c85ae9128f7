"""Trains a speech recogniser: `python -m examples.speech --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from examples.common import hosts
from examples.common.download import DownloadError, default_cache
from examples.common.settings import add_flags, from_flags
from examples.speech import run
from examples.speech.settings import PRESETS, Settings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.speech",
        description="Learns to write down spoken English: CTC over LSTMs on persistent kernels.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/speech"),
        help="folder of checkpoints, metrics, pictures",
    )
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="folder of downloaded data"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in --output"
    )
    start.add_argument(
        "--overwrite", action="store_true", help="replace an earlier run in --output"
    )
    parser.add_argument(
        "--transcribe",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="only transcribe sound files, with the model trained in --output",
    )
    add_flags(parser, PRESETS)
    hosts.add_options(parser)
    return parser.parse_args(arguments)


def settings_from(options: argparse.Namespace) -> Settings:
    """The preset with the flags that were given; a resumed run's settings can't change."""
    return from_flags(options, PRESETS, earlier=bool(options.resume or options.transcribe))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        settings = settings_from(options)
        if options.transcribe:
            print("\n".join(run.transcribe_files(options.transcribe, settings, options.output)))
            return 0
        hosts.join(options)
        mesh = hosts.make_mesh(settings.batch, options.devices)
        kept = {"resume": options.resume, "overwrite": options.overwrite}
        prepared = run.start(settings, options.cache, options.output, mesh, **kept)
    except (ValueError, OSError, DownloadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        run.train_and_report(prepared, settings, options.output, mesh, resume=options.resume)
    except KeyboardInterrupt:
        print("\ninterrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
