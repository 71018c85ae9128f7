# SPDX-License-Identifier: Apache-2.0
"""The program's options: what is measured, and the cluster that the model supposes."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from benchmarks.options import DTYPES, numbers, positive
from benchmarks.problem import GATES, Shape
from benchmarks.scaling_measured import CPU_PEERS
from benchmarks.scaling_model import COLLECTIVES, LINKS, Cluster

BATCH = [1, 2, 4, 8, 16, 32, 64, 128]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description="Efficiency against devices at a fixed global batch: measured times of a "
        "layer on this CPU, and on a GPU where one was measured, with a model of the link.",
        epilog="Lists are separated by commas. The model's options go with --table and --plot too.",
    )
    measure = parser.add_argument_group("what is measured")
    measure.add_argument("--cell", choices=GATES, default="lstm")
    measure.add_argument("--steps", type=positive, default=64, metavar="T", help="(64)")
    measure.add_argument("--hidden", type=positive, default=512, metavar="H", help="and I (512)")
    measure.add_argument("--dtype", choices=DTYPES, default="float32")
    measure.add_argument("--batch", type=numbers, default=BATCH, metavar="B", help="of a device")
    measure.add_argument("--threads", type=positive, help="cores of a device; all if not given")
    measure.add_argument("--rounds", type=positive, default=7, help="at most (7)")
    measure.add_argument(
        "--minutes", type=float, default=3.0, help="for the layer's times, aimed at (3)"
    )
    measure.add_argument(
        "--virtual-devices", type=numbers, default=[1, 2, 4, 8], metavar="D", help="(1,2,4,8)"
    )
    measure.add_argument(
        "--virtual-batch", type=positive, default=32, metavar="N", help="of all of them (32)"
    )
    measure.add_argument("--virtual-layers", type=positive, default=2, metavar="L", help="(2)")
    measure.add_argument(
        "--virtual-minutes", type=float, default=1.5, help="for those, aimed at (1.5)"
    )
    measure.add_argument("--output", type=Path, help="the results file; the picture goes beside it")
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--global-batch", type=numbers, default=[128, 512, 1024], metavar="N", help="(128,512,1024)"
    )
    model.add_argument("--layers", type=positive, default=8, metavar="L", help="(8)")
    model.add_argument("--link", choices=LINKS, default="ndr", help="(ndr)")
    model.add_argument(
        "--latency", type=float, metavar="µs", help="of a hop: instead of the link's"
    )
    model.add_argument("--bandwidth", type=float, metavar="GB/s", help="each way; likewise")
    model.add_argument("--collective", choices=COLLECTIVES, default="faster", help="(faster)")
    model.add_argument(
        "--gpu", type=Path, metavar="FILE", help="instead of the newest gpu-*.json in the results"
    )
    stored = parser.add_mutually_exclusive_group()
    stored.add_argument("--table", type=Path, metavar="FILE", help="only print a file's tables")
    stored.add_argument("--plot", type=Path, metavar="FILE", help="only draw a file's picture")
    options = parser.parse_args(arguments)
    total, devices = options.virtual_batch, options.virtual_devices
    if any(total % count for count in devices):
        got = ",".join(map(str, devices))
        parser.error(f"--virtual-devices: expected divisors of --virtual-batch, {total}; got {got}")
    if options.latency is not None and options.latency < 0:
        parser.error(f"--latency: expected 0 or more; got {options.latency:g}")
    if options.bandwidth is not None and options.bandwidth <= 0:
        parser.error(f"--bandwidth: expected more than 0; got {options.bandwidth:g}")
    return options


def cpu_options(options: argparse.Namespace) -> argparse.Namespace:
    """What `benchmarks.cpu` is to time: one layer, at every batch."""
    return argparse.Namespace(
        cells=[options.cell],
        steps=[options.steps],
        batch=options.batch,
        hidden=[options.hidden],
        inputs=None,
        dtypes=[options.dtype],
        peers=list(CPU_PEERS.values()),
        threads=options.threads,
        rounds=options.rounds,
        minutes=options.minutes,
        output=options.output,
    )


def virtual_shape(options: argparse.Namespace) -> Shape:
    hidden = options.hidden
    return Shape(options.cell, options.steps, options.virtual_batch, hidden, hidden, options.dtype)


def cluster(options: argparse.Namespace) -> Cluster:
    link = LINKS[options.link]
    given = {}
    if options.latency is not None:
        given["latency"] = 1e-6 * options.latency
    if options.bandwidth is not None:
        given["bandwidth"] = 1e9 * options.bandwidth
    if given:
        link = dataclasses.replace(link, **given, source=f"{link.source}; changed by hand")
    return Cluster(options.layers, link, options.collective)
