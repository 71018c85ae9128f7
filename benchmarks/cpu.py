# SPDX-License-Identifier: Apache-2.0
"""Times the layers against flax over `lax.scan`, PyTorch and ONNX Runtime on this machine's CPU.

    python -m benchmarks.cpu                         # a quick set of shapes
    python -m benchmarks.cpu --threads 1 --full      # one core, the whole grid
    python -m benchmarks.cpu --table FILE ...        # what results files say, as one

benchmarks/README.md says what is timed, and how.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import limits, machine, memory, plot, summary
from benchmarks.machine import RESULTS
from benchmarks.options import parse, shapes
from benchmarks.peers import SOURCES, available
from benchmarks.problem import PASSES, Shape

BUSY = 0.5  # load average at the start, above which the times tell of other work too


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.table:
        print(_report(_stored(options.table, options)))
    elif options.plot:
        for path in plot.plot(_stored(options.plot, options), options.plot[0].with_suffix("")):
            print(path)
    else:
        run(options)


def _stored(files: Sequence[Path], options: Namespace) -> dict[str, Any]:
    try:
        results = summary.merged([json.loads(file.read_text()) for file in files])
    except ValueError as error:
        raise SystemExit(f"{', '.join(map(str, files))}: {error}") from error
    wanted = {"cell": options.cells, "steps": options.steps, "batch": options.batch}
    return summary.only(results, wanted | {"hidden": options.hidden})


def run(options: Namespace) -> dict[str, Any]:
    """Times what the options ask for; returns what it wrote to the results file."""
    results, path = start(options, "cpu")
    time_all(results, options, path)
    if options.memory:
        _measure_memory(results, options, path)
    path.write_text(summary.as_json(results))
    print(_report(results))
    for picture in plot.plot(results, path.with_suffix("")):
        print(f"picture: {picture}")
    print(f"results: {path}")
    return results


def start(options: Namespace, kind: str) -> tuple[dict[str, Any], Path]:
    """Limits the cores as asked for; the results, yet without a time, and where to write them."""
    if options.threads is not None and "jax" in sys.modules:
        raise RuntimeError(
            "--threads: expected jax not to be imported yet, for XLA sizes its pool when it "
            "starts; run this program in a process of its own"
        )
    try:
        threads = machine.limit_cores(options.threads)
    except ValueError as error:
        raise SystemExit(f"--{error}") from error
    results = _describe(options, threads)
    path = options.output or _default_path(results, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    return results, path


def _describe(options: Namespace, threads: int) -> dict[str, Any]:
    from jax_persistent.ffi.registration import native_module

    facts = machine.describe(native_module().cpu_isa())
    if facts["load_at_start"] > BUSY:
        tqdm.write(
            f"The machine is busy (load average {facts['load_at_start']}): the results file says "
            "so, and the times will not be its best."
        )
    try:
        measured = dataclasses.asdict(limits.measure(threads, facts["caches"]))
        missing_limits = None
    except RuntimeError as error:
        measured, missing_limits = None, str(error)
        tqdm.write(f"No physical limit: {error}")
    return {
        "machine": facts,
        "threads": threads,
        "limits": measured,
        "missing_limits": missing_limits,
        "options": {name: getattr(options, name) for name in ("rounds", "minutes")},
        "peers": options.peers,
        "missing": {},
        "entries": [],
        "refused": [],
        "skipped": [],
        "memory": [],
    }


def time_all(results: dict[str, Any], options: Namespace, path: Path) -> None:
    """Adds the entries of all shapes that the options ask for, and writes the file after each."""
    from benchmarks.measure import Disagreement, time_shape

    classes, results["missing"] = available(tuple(options.peers))
    reference = SOURCES["flax"].load()
    known = limits.Limits(**results["limits"]) if results["limits"] else None
    asked = shapes(options)
    end = time.monotonic() + 60 * options.minutes
    with tqdm(asked, unit="shape") as bar:
        for number, shape in enumerate(bar):
            bar.set_postfix_str(f"{shape} {shape.dtype}")
            left = end - time.monotonic()
            if left <= 0 and number > 0:
                results["skipped"] = [f"{each} {each.dtype}" for each in asked[number:]]
                break
            seconds = left / (len(asked) - number)
            try:
                found = time_shape(
                    shape, classes, reference, results["threads"], options.rounds, seconds
                )
            except Disagreement as error:
                tqdm.write(f"not timed: {error}")
                results["refused"].append({"shape": str(shape), "reason": str(error)})
                continue
            for entry in found:
                entry["limit_ms"] = _limit_ms(shape, entry["pass"], known)
            results["entries"] += found
            path.write_text(summary.as_json(results))  # what is there stays if the run is cut off
    results["xla_threads"] = machine.xla_threads()


def _limit_ms(shape: Shape, direction: str, known: limits.Limits | None) -> float | None:
    if known is None:
        return None
    return float(f"{1e3 * limits.limit_seconds(shape, direction, known):.4g}")


def _measure_memory(results: dict[str, Any], options: Namespace, path: Path) -> None:
    classes, _ = available(tuple(options.peers))
    for shape in tqdm(shapes(options), desc="memory", unit="shape"):
        for direction in PASSES:
            names = [name for name, c in classes.items() if not c.refuses(shape, direction)]
            peak = {
                name: memory.measure(name, shape, direction, results["threads"]) for name in names
            }
            results["memory"].append(
                {"shape": f"{shape} {shape.dtype}", "pass": direction, "peak": peak}
            )
            path.write_text(summary.as_json(results))


def _report(results: dict[str, Any]) -> str:
    parts = [summary.table(results), summary.summary(results)]
    if results["memory"]:
        parts.append(f"Peak memory of a call:\n\n{memory.table(results['memory'])}")
    return "\n\n".join(parts)


def _default_path(results: dict[str, Any], kind: str) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", results["machine"]["cpu"].lower()).strip("-")
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    return RESULTS / f"{kind}-{name}-{results['threads']}-threads-{stamp}.json"


if __name__ == "__main__":
    main()
