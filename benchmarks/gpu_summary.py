# SPDX-License-Identifier: Apache-2.0
"""What a GPU results file says. Pure functions of its contents."""

from __future__ import annotations

from typing import Any

from benchmarks import summary
from benchmarks.peers import OURS
from benchmarks.problem import Shape
from benchmarks.summary import Entry, Results


def operations(shape: Shape, direction: str) -> float:
    """Of the matrix products, multiplying and adding counted as two."""
    forward = 2.0 * shape.steps * shape.batch * shape.gates * shape.hidden
    forward *= shape.inputs + shape.hidden
    return forward if direction == "forward" else 3 * forward


def step_microseconds(entry: Entry, peer: str) -> float | None:
    measured = entry["peers"].get(peer)
    return None if measured is None else 1e3 * measured["median_ms"] / entry["steps"]


def teraflops(entry: Entry, peer: str) -> float | None:
    measured = entry["peers"].get(peer)
    if measured is None:
        return None
    return operations(summary.shape_of(entry), entry["pass"]) / measured["median_ms"] / 1e9


def times_scan(entry: Entry) -> float | None:
    """How many times faster ours is than `lax.scan`."""
    if not {OURS, "scan"} <= set(entry["peers"]):
        return None
    return entry["peers"]["scan"]["median_ms"] / entry["peers"][OURS]["median_ms"]


def line(entry: Entry) -> str:
    """One shape's progress."""
    ours, best = step_microseconds(entry, OURS), summary.best_rival(entry)
    theirs = "" if best is None else f", {best} {_digits(step_microseconds(entry, best))}"
    name = f"{summary.shape_of(entry)} {entry['dtype']} {entry['pass']}"
    return f"{name}: {_digits(ours)} µs a step{theirs}"


def table(results: Results) -> str:
    """All shapes in Markdown, in microseconds a step, under a line that names the machine."""
    peers = [name for name in results["peers"] if name not in results["missing"]]
    ours = [name for name in peers if name.split(".")[0] == OURS]
    heads = ["cell TxBxH", "dtype", "pass", *(f"{p} µs" for p in peers)]
    heads += ["TFLOP/s", "ratio to best", "times scan", "of the limit"]
    rows = [heads, ["---"] * 3 + ["---:"] * (len(heads) - 3)]
    for entry in results["entries"]:
        best, found = summary.best_rival(entry), summary.ratio(entry)
        part = summary.fraction_of_limit(entry)
        rows.append(
            [
                f"{summary.shape_of(entry)}",
                entry["dtype"],
                entry["pass"],
                *(_digits(step_microseconds(entry, peer)) for peer in peers),
                _digits(teraflops(entry, OURS) if OURS in ours else None),
                "–" if found is None else f"{found:.2f} ({best})",
                _digits(times_scan(entry)),
                "–" if part is None else f"{100 * part:.0f} %",
            ]
        )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([heading(results), "", *lines])


def heading(results: Results) -> str:
    machine = results["machine"]
    named = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    dry = "A dry run on the CPU: no figure here means anything. " if machine["dry_run"] else ""
    clocks = f"{machine.get('clock_mhz', '?')} of {machine.get('most_clock_mhz', '?')} MHz"
    return (
        f"{dry}{machine['gpu']}, {clocks}, driver {machine.get('driver', '?')}; "
        f"{machine['date'][:10]}, commit {machine['commit']}; {named}. Medians over the rounds, "
        "microseconds a step; a ratio above 1 means that ours is faster."
    )


def refusals(results: Results) -> list[str]:
    """Each reason for which a peer has no time, with the first shape it was given at."""
    where: dict[tuple[str, str], list[str]] = {}
    for entry in results["entries"]:
        name = f"{summary.shape_of(entry)} {entry['dtype']} {entry['pass']}"
        for peer, reason in entry["refused"].items():
            where.setdefault((peer, reason), []).append(name)
    lines = []
    for (peer, reason), names in where.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"no time of {peer}: {reason} [{names[0]}{more}]")
    return lines


def report(results: Results) -> str:
    parts = [table(results), summary.summary(results), "\n".join(refusals(results))]
    return "\n\n".join(part for part in parts if part)


def _digits(value: Any) -> str:
    return "–" if value is None else f"{value:.3g}"
