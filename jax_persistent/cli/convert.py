# SPDX-License-Identifier: Apache-2.0
"""Writes the weights of a safetensors file in another framework's layout.

python -m jax_persistent convert --from pytorch --to keras --prefix rnn. old.st new.st
"""

from __future__ import annotations

import argparse
from typing import Any

from jax_persistent.cli.report import Refused, Report
from jax_persistent.weights import files

HELP = "weights in another framework's layout"


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", help="a safetensors file")
    command.add_argument("target", help="the safetensors file to write")
    known: dict[str, Any] = {"required": True, "choices": tuple(files.LAYOUTS), "metavar": "LAYOUT"}
    command.add_argument("--from", dest="given", help=f"of {', '.join(files.LAYOUTS)}", **known)
    command.add_argument("--to", dest="wanted", help="likewise", **known)
    command.add_argument("--prefix", default="", help="of the names in the source: encoder.rnn.")
    for name in ("--input-size", "--hidden-size", "--num-layers"):
        command.add_argument(name, type=int, help="of a cuDNN vector, which does not say")
    command.add_argument("--bidirectional", action="store_true", help="likewise")


def run(options: argparse.Namespace) -> Report:
    sizes = {n: getattr(options, n) for n in ("input_size", "hidden_size", "num_layers")}
    given = {name: size for name, size in sizes.items() if size is not None}
    if options.bidirectional:
        given["bidirectional"] = True
    if (options.given == "cudnn") != ({"input_size", "hidden_size"} <= given.keys()):
        raise Refused("--input-size and --hidden-size are for --from cudnn, which needs both")
    paths = options.source, options.target, options.given, options.wanted
    try:
        written = files.convert(*paths, options.prefix, **given)
    except (OSError, ValueError) as error:
        raise Refused(error) from error
    data = {"file": options.target, "arrays": written}
    return Report(data, [f"{options.target}: {', '.join(written)}"])
