# SPDX-License-Identifier: Apache-2.0
"""What a results file says: ratios, the table, the summary. Pure functions of its contents."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.peers import OUR_LAYER, OURS
from benchmarks.problem import PASSES, Shape

Entry = dict[str, Any]
Results = dict[str, Any]

LISTS = ("refused", "skipped", "memory")  # of a run, besides its entries
EQUAL = 0.95  # a ratio from here on counts as no slower
SMALL_BATCH = 4


def shape_of(entry: Entry) -> Shape:
    return Shape(**{name: entry[name] for name in Shape.__dataclass_fields__})


def merged(runs: Sequence[Results]) -> Results:
    """One result of several runs of the same library on the same machine, at different shapes.

    Raises:
      ValueError: the machine, the threads or the commit differ, or a shape is in two runs.
    """
    first = runs[0]
    for name in ("cpu", "isa", "commit"):
        if len(found := {run["machine"][name] for run in runs}) > 1:
            raise ValueError(f"expected files with one {name}; got {', '.join(sorted(found))}")
    if len(threads := {run["threads"] for run in runs}) > 1:
        raise ValueError(f"expected files with as many threads; got {sorted(threads)}")
    entries = [entry for run in runs for entry in run["entries"]]
    timed = Counter((shape_of(entry), entry["pass"]) for entry in entries)
    if twice := [str(shape) for (shape, _), count in timed.items() if count > 1]:
        raise ValueError(f"expected files of different shapes; got {', '.join(twice)} twice")
    together = {name: [each for run in runs for each in run[name]] for name in LISTS}
    peers = dict.fromkeys(name for run in runs for name in run["peers"])
    return first | together | {"entries": entries, "peers": list(peers)}


def only(results: Results, wanted: Mapping[str, Sequence[Any] | None]) -> Results:
    """The same with the entries that have one of the wanted values under each name; None: any."""
    asked = {name: values for name, values in wanted.items() if values is not None}
    return results | {
        "entries": [
            entry
            for entry in results["entries"]
            if all(entry[name] in values for name, values in asked.items())
        ]
    }


def best_rival(entry: Entry) -> str | None:
    """The fastest of the others by its median; None if none was timed."""
    timed = [name for name in entry["peers"] if name.split(".")[0] != OURS]
    return min(timed, key=lambda name: entry["peers"][name]["median_ms"], default=None)


def ratio(entry: Entry) -> float | None:
    """How many times ours is faster than the best of the others: the median over the rounds."""
    rival = best_rival(entry)
    if rival is None or OURS not in entry["peers"]:
        return None
    rounds = (entry["peers"][name]["rounds_ms"] for name in (rival, OURS))
    # Not strict: a peer far behind has one round.
    return median(theirs / ours for theirs, ours in zip(*rounds, strict=False))


def fraction_of_limit(entry: Entry) -> float | None:
    """Our speed as a part of what the machine could do at most."""
    if entry.get("limit_ms") is None or OURS not in entry["peers"]:
        return None
    return entry["limit_ms"] / entry["peers"][OURS]["median_ms"]


def geometric_mean(values: Iterable[float]) -> float:
    """ValueError if there are no values, or one is not positive."""
    logarithms = [math.log(value) for value in values]
    if not logarithms:
        raise ValueError("geometric_mean: expected at least one value; got none")
    return math.exp(sum(logarithms) / len(logarithms))


def table(results: Results) -> str:
    """All shapes in Markdown, under a line that names the machine."""
    peers = [name for name in results["peers"] if name not in results["missing"]]
    with_dtype = len({entry["dtype"] for entry in results["entries"]}) > 1
    heads = ["cell TxBxH", "pass", *(f"{p} ms" for p in peers), "ratio to best", "of the limit"]
    rows = [heads, ["---"] * 2 + ["---:"] * (len(peers) + 2)]
    for entry in results["entries"]:
        best, found, part = best_rival(entry), ratio(entry), fraction_of_limit(entry)
        name = f"{shape_of(entry)} {entry['dtype']}" if with_dtype else f"{shape_of(entry)}"
        times = [_milliseconds(entry, peer) for peer in peers]
        ratio_text = "–" if found is None else f"{found:.2f} ({best})"
        limit_text = "–" if part is None else f"{100 * part:.0f} %"
        rows.append([name, entry["pass"], *times, ratio_text, limit_text])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([heading(results), "", *lines])


def heading(results: Results) -> str:
    machine = results["machine"]
    named = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    loads = [machine["load_at_start"], *(entry["load"] for entry in results["entries"])]
    return (
        f"{machine['cpu']}, {machine['isa']}, threads: {results['threads']} of "
        f"{machine['cores']} cores; {machine['date'][:10]}, commit {machine['commit']}; {named}; "
        f"load average {min(loads):.1f} to {max(loads):.1f}. Medians over the rounds; a ratio "
        "above 1 means that ours is faster."
    )


def summary(results: Results) -> str:
    """The ratios in a few lines, then every shape at which ours is slower."""
    lines = []
    for dtype in sorted({entry["dtype"] for entry in results["entries"]}, reverse=True):
        for direction in PASSES:
            chosen = [
                e for e in results["entries"] if (e["dtype"], e["pass"]) == (dtype, direction)
            ]
            lines += _summary_of(chosen, f"{dtype} {direction}")
    lines += _layer_cost(results["entries"]) + _bfloat16_gain(results["entries"])
    lines += [f"missing: {name} ({reason})" for name, reason in results["missing"].items()]
    lines += [f"not timed: {each['shape']}: {each['reason']}" for each in results["refused"]]
    if results["skipped"]:
        lines.append(f"out of time: {len(results['skipped'])} shapes were left out")
    return "\n".join(lines)


def as_json(results: dict[str, Any]) -> str:
    """Indented, with a line for each entry of a list."""
    lines = []
    for name, value in results.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f"{json.dumps(name)}: [\n  {rows}\n ]")
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def _summary_of(entries: list[Entry], name: str) -> list[str]:
    ratios = [(found, entry) for entry in entries if (found := ratio(entry)) is not None]
    if not ratios:
        return []
    small = [found for found, entry in ratios if entry["batch"] <= SMALL_BATCH]
    slower = sorted((pair for pair in ratios if pair[0] < EQUAL), key=lambda pair: pair[0])
    means = [f"geometric mean {geometric_mean(found for found, _ in ratios):.2f}x the best peer"]
    if small:
        means.append(f"{geometric_mean(small):.2f}x for B<={SMALL_BATCH}")
    lines = [f"{name}: {', '.join(means)}; slower at {len(slower)} of {len(ratios)} shapes"]
    for found, entry in slower:
        part = fraction_of_limit(entry)
        limit = "" if part is None else f", {100 * part:.0f} % of the limit"
        lines.append(f"  {shape_of(entry)}: {found:.2f} of {best_rival(entry)}{limit}")
    return lines


def _layer_cost(entries: list[Entry]) -> list[str]:
    """The layer's time over the function's, where both were timed."""
    costs = []
    for entry in entries:
        if {OURS, OUR_LAYER} <= set(entry["peers"]):
            rounds = (entry["peers"][name]["rounds_ms"] for name in (OUR_LAYER, OURS))
            found = median(layer / function for layer, function in zip(*rounds, strict=False))
            costs.append((found, f"{shape_of(entry)} {entry['pass']}"))
    if not costs:
        return []
    most, where = max(costs)
    mean = geometric_mean(found for found, _ in costs)
    return [f"the layer takes {mean:.2f}x the function's time, at most {most:.2f}x ({where})"]


def _bfloat16_gain(entries: list[Entry]) -> list[str]:
    """Ours in bfloat16 against ours in float32, where both were timed."""
    times: dict[tuple[Any, ...], dict[str, float]] = {}
    for entry in entries:
        if OURS in entry["peers"] and entry["batch"] <= SMALL_BATCH and entry["hidden"] >= 512:
            key = (
                *(entry[n] for n in ("cell", "steps", "batch", "hidden", "inputs")),
                entry["pass"],
            )
            times.setdefault(key, {})[entry["dtype"]] = entry["peers"][OURS]["median_ms"]
    gains = [t["float32"] / t["bfloat16"] for t in times.values() if len(t) == 2]
    if not gains:
        return []
    mean = geometric_mean(gains)
    return [f"bfloat16 over our own float32 at B<={SMALL_BATCH}, H>=512: {mean:.2f}x"]


def _milliseconds(entry: Entry, peer: str) -> str:
    measured = entry["peers"].get(peer)
    return "–" if measured is None else f"{measured['median_ms']:.3g}"
