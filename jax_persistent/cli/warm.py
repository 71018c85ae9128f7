# SPDX-License-Identifier: Apache-2.0
"""Compiles GPU kernels into the cache on disk; needs NVRTC and no GPU.

    python -m jax_persistent warm --architecture sm_90 --cell lstm --dtype bfloat16

A cell of one dtype takes a minute or so.
"""

from __future__ import annotations

import argparse
import itertools
import time

from jax_persistent.backends import cuda
from jax_persistent.cells import CELLS
from jax_persistent.cli.report import Refused, Report, Table, progress

HELP = "compile GPU kernels ahead"


def add(command: argparse.ArgumentParser) -> None:
    known = {"cell": tuple(CELLS), "dtype": cuda.CudaBackend.dtypes}
    for name, choices in known.items():
        command.add_argument(
            f"--{name}",
            nargs="+",
            choices=choices,
            default=choices,
            metavar=name.upper(),
            help=f"of {', '.join(choices)}; all if not given",
        )
    command.add_argument("--architecture", nargs="+", help="sm_90 and the like; those here")


def run(options: argparse.Namespace) -> Report:
    architectures = options.architecture or sorted(
        {f"sm_{device.compute_capability.replace('.', '')}" for device in cuda.devices()}
    )
    if not architectures:
        raise Refused("no GPU is here: name an architecture, as in --architecture sm_90")
    rows = []
    asked = list(itertools.product(options.cell, options.dtype, architectures))
    for cell, dtype, architecture in progress(asked, "compiling"):
        began = time.perf_counter()
        try:
            done = cuda.compile_ahead(CELLS[cell], dtype, architecture)
        except (ImportError, RuntimeError, ValueError) as error:
            raise Refused(error) from error
        rows.append((cell, dtype, architecture, done, round(time.perf_counter() - began, 1)))
    columns = ("cell", "dtype", "architecture", "kernels", "seconds")
    data = [dict(zip(columns, row, strict=True)) for row in rows]
    return Report(data, [Table(columns, rows)])
