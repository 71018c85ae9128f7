# SPDX-License-Identifier: Apache-2.0
"""Times the layers against lax.scan, jax.experimental.rnn, cuDNN and FlashRNN on this GPU.

    python -m benchmarks.gpu --quick                 # a few shapes, 150 seconds
    python -m benchmarks.gpu --budget 1200           # the whole grid, most telling shapes first
    python -m benchmarks.gpu --table FILE            # what a results file says

benchmarks/README.md says what is timed, and how.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import cycles, gpu_summary, machine, plot, summary
from benchmarks.gpu_options import parse, shapes
from benchmarks.machine import RESULTS
from benchmarks.peers import FLASHRNN, GPU_SOURCES, available
from benchmarks.problem import Shape

# What a dry run makes of the shapes: small, and different on every axis.
DRY_STEPS, DRY_HIDDEN, DRY_SHAPES = 3, 6, 3
# JAX would take three quarters of the memory for itself; PyTorch needs some too.
MEMORY = ("XLA_PYTHON_CLIENT_MEM_FRACTION", ".6")
ASIDE = f"not asked for: --peers {FLASHRNN} compiles for minutes at each shape"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.table:
        print(gpu_summary.report(json.loads(options.table.read_text())))
    elif options.plot:
        for path in plot.plot(json.loads(options.plot.read_text()), options.plot.with_suffix("")):
            print(path)
    else:
        os.environ.setdefault(*MEMORY)
        import jax

        if jax.default_backend() != "gpu" and not options.dry_run:
            print(
                f"No GPU: JAX's default backend is {jax.default_backend()!r}. Install jax's CUDA "
                "plugin (pip install 'jax[cuda13]') on a machine with one, or pass --dry-run.",
                file=sys.stderr,
            )
            return 2
        run(options)
    return 0


def run(options: Namespace) -> dict[str, Any]:
    """Times what the options ask for; returns what it wrote to the results file."""
    results = _start(options)
    path = options.output or _default_path(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    _time_all(results, options, path)
    results["machine"]["at_the_end"] = machine.gpu()
    path.write_text(summary.as_json(results))
    print(gpu_summary.report(results))
    for picture in plot.plot(results, path.with_suffix("")):
        print(f"picture: {picture}")
    print(f"results: {path}")
    return results


def _start(options: Namespace) -> dict[str, Any]:
    """The results, yet without a time."""
    import jax

    device = jax.devices()[0]
    facts = machine.gpu() or {"gpu": device.device_kind}
    facts |= {"cuda": machine.cuda_compiler(), "platform": device.client.platform_version}
    facts |= machine.software() | {"dry_run": options.dry_run}
    missing = {} if FLASHRNN in options.names else {FLASHRNN: ASIDE}
    return {
        "machine": facts,
        "options": {name: getattr(options, name) for name in ("rounds", "budget", "quick")},
        "peers": options.names,
        "missing": missing,
        "plans": {},
        "entries": [],
        "refused": [],
        "skipped": [],
    }


def _time_all(results: dict[str, Any], options: Namespace, path: Path) -> None:
    from benchmarks.gpu_measure import time_shape

    classes: Any
    classes, missing = available(tuple(options.names), GPU_SOURCES)
    results["missing"] |= missing
    reference: Any = GPU_SOURCES["scan"].load()
    asked = shapes(options)
    if options.dry_run:
        asked = [_dry(number, shape) for number, shape in enumerate(asked[:DRY_SHAPES])]
    end = time.monotonic() + (options.budget or float("inf"))
    for number, shape in enumerate(asked):
        left = end - time.monotonic()
        if left <= 0 and number > 0:
            results["skipped"] = [f"{each} {each.dtype}" for each in asked[number:]]
            break
        began = time.monotonic()
        try:
            found = time_shape(
                shape, classes, reference, options.rounds, left / (len(asked) - number)
            )
        except Exception as error:  # the reference's, such as no memory: the next shape may do
            reason = f"{type(error).__name__}: {str(error).strip()[:300]}"
            results["refused"].append({"shape": f"{shape} {shape.dtype}", "reason": reason})
            continue
        residencies = _plan(results["plans"], shape)
        for entry in found:
            seconds = cycles.limit_seconds(shape, entry["pass"], residencies)
            entry["limit_ms"] = float(f"{1e3 * seconds:.4g}")
        results["entries"] += found
        path.write_text(summary.as_json(results))  # what is there stays if the run is cut off
        print(gpu_summary.line(found[0]), f"({time.monotonic() - began:.0f} s)", flush=True)


def _plan(plans: dict[str, str], shape: Shape) -> dict[str, str]:
    """Notes the planner's words; by pass, "grid" or "cluster": "grid" if there is no kernel."""
    import jax_persistent as jp

    found = jp.plan(shape.cell, shape.hidden, shape.batch, shape.dtype)
    plans[f"{shape} {shape.dtype}"] = str(found)
    details = found.details or {}
    return {
        name: "cluster" if (at or "").startswith("cluster") else "grid"
        for name in ("forward", "backward")
        for at in [details.get(name, {}).get("residency")]
    }


def _dry(number: int, shape: Shape) -> Shape:
    hidden = DRY_HIDDEN + number
    return Shape(shape.cell, DRY_STEPS, 2 + number, hidden, hidden, shape.dtype)


def _default_path(results: dict[str, Any]) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", results["machine"]["gpu"].lower()).strip("-")
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    return RESULTS / f"gpu-{name}-{stamp}.json"


if __name__ == "__main__":
    sys.exit(main())
