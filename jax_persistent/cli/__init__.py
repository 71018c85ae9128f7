# SPDX-License-Identifier: Apache-2.0
"""`python -m jax_persistent`: a file for each command, each with `add` and `run`.

info      what is installed here, and whether it works
plan      where a recurrence's weights would live
explain   what of a function or a layer runs on a kernel, and why the rest does not
bench     one shape, against what else is installed here
convert   weights in a safetensors file, from one framework's layout to another's
warm      fills the cache of GPU kernels, for programs that start later

In a terminal, and with `rich` installed, tables are drawn; else the text is plain. Each command has
--json, which prints one JSON document in its place.
"""

from __future__ import annotations

import argparse
import os
import sys

from jax_persistent.cli import bench, convert, explain, info, plan, warm
from jax_persistent.cli.report import Refused, show

_COMMANDS = {
    "info": info,
    "plan": plan,
    "explain": explain,
    "bench": bench,
    "convert": convert,
    "warm": warm,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; the exit status is 1 where it can't do what it is asked for."""
    options = _parser().parse_args(arguments)
    try:
        report = _COMMANDS[options.command].run(options)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    try:
        show(report, options.json)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads it has read enough, as `head` does
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # for what is flushed at exit
    return report.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jax_persistent",
        description=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add(command)
        command.add_argument("--json", action="store_true", help="print one JSON document")
    return parser
