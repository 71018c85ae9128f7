# SPDX-License-Identifier: Apache-2.0
"""Strong scaling: efficiency against the number of devices, at a fixed global batch.

    python -m benchmarks.scaling                           # measures and draws, about 5 minutes
    python -m benchmarks.scaling --table FILE              # what a results file says
    python -m benchmarks.scaling --table FILE --link fdr --layers 30
    python -m benchmarks.scaling --plot FILE

benchmarks/README.md says what is measured, and what is a model.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import cpu, scaling_plot, scaling_summary, scaling_virtual, summary
from benchmarks.scaling_measured import CPU_PEERS, SCAN, Measured, find_gpu, of_gpu
from benchmarks.scaling_options import cluster, cpu_options, parse, virtual_shape


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.table:
        print(_report(json.loads(options.table.read_text()), options))
    elif options.plot:
        print(_draw(json.loads(options.plot.read_text()), options, options.plot))
    else:
        run(options)


def run(options: Namespace) -> dict[str, Any]:
    """Measures what the options ask for; returns what it wrote to the results file."""
    shape, asked = virtual_shape(options), cpu_options(options)
    results, path = cpu.start(asked, "scaling")
    results |= {"cell": options.cell, "virtual": None}
    cpu.time_all(results, asked, path)
    tqdm.write(
        f"Virtual devices: {options.virtual_layers} layers of {shape} on "
        f"{', '.join(map(str, options.virtual_devices))}"
    )
    results["virtual"] = scaling_virtual.measure(
        shape,
        [*CPU_PEERS.values(), CPU_PEERS[SCAN] + scaling_virtual.MAPPED],
        options.virtual_layers,
        options.virtual_devices,
        results["threads"],
        options.rounds,
        60 * options.virtual_minutes,
    )
    path.write_text(summary.as_json(results))
    print(_report(results, options))
    print(f"picture: {_draw(results, options, path)}")
    print(f"results: {path}")
    return results


def _report(results: dict[str, Any], options: Namespace) -> str:
    gpu = _gpu(results, options)
    return scaling_summary.report(results, gpu, options.global_batch, cluster(options))


def _draw(results: dict[str, Any], options: Namespace, path: Path) -> Path:
    at, gpu, stem = cluster(options), _gpu(results, options), path.with_suffix("")
    return scaling_plot.plot(results, gpu, options.global_batch, at, stem)


def _gpu(results: dict[str, Any], options: Namespace) -> Measured | None:
    cell = results["cell"]
    if options.gpu is None:
        return find_gpu(cpu.RESULTS, cell)
    found = of_gpu(json.loads(options.gpu.read_text()), cell, options.gpu.name)
    if found is None:
        raise SystemExit(f"--gpu {options.gpu}: expected {cell} times of both kernels; got none")
    return found


if __name__ == "__main__":
    main()
