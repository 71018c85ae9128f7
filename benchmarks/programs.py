# SPDX-License-Identifier: Apache-2.0
"""Training steps of the translator and the recogniser, over our layers and over flax's own scan.

    python -m benchmarks.programs             # all cores, about a minute

Both programs train on made-up sentences and utterances of a preset's sizes, in turns; medians of
the rounds' own ratios. A profile says where the time of our program goes: in our calls, in XLA's
products, and in what is left. `at_most` is what flax's time would be over ours if all products,
those of our calls too, ran as fast as a large product of XLA's, our calls did nothing else, and the
rest stayed as it is.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import geometric_mean, median
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params

from benchmarks.options import positive
from benchmarks.rows import measured
from examples.speech import batches as speech_batches
from examples.speech import model as speech_model
from examples.speech import settings as speech_settings
from examples.speech import step as speech_step
from examples.speech.text import SYMBOLS
from examples.translate import batches as translate_batches
from examples.translate import prepare as translate_prepare
from examples.translate import settings as translate_settings
from examples.translate import step as translate_step

EXAMPLES = ("translate", "speech")
PRESETS = ("quick", "long")
VOCABULARY = 6000
# Of the events of a profile, by the beginning of their names: XLA's products, and those that only
# hold others. What is neither these nor a call of ours is the rest.
PRODUCTS, CALL = ("dot", "ynn_fusion"), "ffi_call"
CONTAINERS = ("ThunkExecutor", "Slinky", "end:", "while", "call")

TrainStep = Callable[[Any, Any, int], tuple[Any, jax.Array]]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs")
    parser.add_argument("--examples", nargs="+", choices=EXAMPLES, default=EXAMPLES)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    rows = (
        timed(example, preset, width, options.rounds)
        for example in options.examples
        for preset in options.presets
        for width in widths(example, preset)
    )
    return measured("programs", rows, line, means, options.output)


def widths(example: str, preset: str) -> tuple[int, ...]:
    """The widest of the preset's buckets, and one in their middle."""
    module = translate_settings if example == "translate" else speech_settings
    found = module.PRESETS[preset].widths
    return found[len(found) // 2], found[-1]


def timed(example: str, preset: str, width: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step both ways, the median of the rounds' ratios, and ours by parts."""
    make = translator if example == "translate" else recogniser
    batch, ways = make(preset, width)
    states = {way: state for way, (_, state) in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(2 + rounds):
        for way, (train, _) in ways.items():
            began = time.perf_counter()
            states[way], loss = train(states[way], batch, number)
            jax.block_until_ready((states[way], loss))
            if number > 1:  # the first two compile
                seconds[way].append(time.perf_counter() - began)
    pairs = zip(seconds["flax"], seconds["kernels"], strict=True)
    ms = {way: 1e3 * median(times) for way, times in seconds.items()}
    shares = parts(ways["kernels"][0], states["kernels"], batch)
    train, state = ways["flax"]
    products = 1e3 * operations(jax.make_jaxpr(train, static_argnums=2)(state, batch, 0)) / peak()
    return {
        "example": example,
        "preset": preset,
        "width": width,
        "ms": {way: round(each, 2) for way, each in ms.items()},
        "flax_over_kernels": round(median(flax / ours for flax, ours in pairs), 3),
        "parts": shares,
        "products_ms": round(products, 2),
        "at_most": round(ms["flax"] / (products + shares["rest"] * ms["kernels"]), 3),
    }


Ways = dict[str, tuple[TrainStep, Any]]


def translator(preset: str, width: int) -> tuple[Any, Ways]:
    settings = translate_settings.PRESETS[preset]
    draw = np.random.default_rng(0)
    source, inputs, targets = draw.integers(4, VOCABULARY, (3, settings.batch, width), np.int32)
    lengths = draw.integers(width // 2, width, settings.batch, np.int32)
    pieces: Any = SimpleNamespace(size=VOCABULARY)
    config = translate_prepare.model_config(settings, pieces, pieces)
    batch = translate_batches.Batch(source, lengths, inputs, targets)
    return batch, both_ways(translate_step, config, settings)


def recogniser(preset: str, width: int) -> tuple[Any, Ways]:
    settings = speech_settings.PRESETS[preset]
    draw = np.random.default_rng(0)
    room = speech_model.steps(width)
    features = draw.normal(size=(settings.batch, width, settings.mels)).astype(np.float32)
    frames = draw.integers(width // 2, width, settings.batch, np.int32)
    symbols = draw.integers(1, SYMBOLS, (settings.batch, room), np.int32)
    counts = np.full(settings.batch, room // 5, np.int32)
    batch = speech_batches.Batch(features, frames, symbols, counts)
    return batch, both_ways(speech_step, speech_step.model_config(settings), settings)


def both_ways(step: Any, config: Any, settings: Any) -> Ways:
    """The training step and the first state, over our layers and over flax's scan."""
    configs = {"kernels": config, "flax": replace(config, scan=True)}
    return {
        way: (step.make_train_step(each, settings), step.initial_state(each, settings))
        for way, each in configs.items()
    }


def parts(train: TrainStep, state: Any, batch: Any, steps: int = 3) -> dict[str, float]:
    """Of the time of all threads, the shares of our calls, XLA's products and the rest."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for number in range(steps):
                state, _ = train(state, batch, number)
            jax.block_until_ready(state)
        (file,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    spent = {"calls": 0.0, "products": 0.0, "rest": 0.0}
    for plane in profile.planes:
        for thread in plane.lines:
            if not thread.name.startswith("tf_XLA"):
                continue
            for event in thread.events:
                if event.name.startswith(CONTAINERS):
                    continue
                kind = "calls" if event.name.startswith(CALL) else "rest"
                kind = "products" if event.name.startswith(PRODUCTS) else kind
                spent[kind] += event.duration_ns
    return {kind: round(value / sum(spent.values()), 3) for kind, value in spent.items()}


def operations(jaxpr: Any) -> float:
    """The multiplications and additions in products; convolutions are among the rest."""
    found = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            found += 2 * eqn.outvars[0].aval.size * math.prod(left[n] for n in contracted)
        inner = sum(map(operations, jaxprs_in_params(eqn.params)))
        found += inner * eqn.params.get("length", 1) if eqn.primitive.name == "scan" else inner
    return found


@cache
def peak() -> float:
    """Operations a second of a large product of XLA's, the best of some."""
    matrix = jax.numpy.ones((1536, 1536))
    multiply = jax.jit(jax.numpy.matmul)
    seconds = []
    for _ in range(12):
        began = time.perf_counter()
        jax.block_until_ready(multiply(matrix, matrix))
        seconds.append(time.perf_counter() - began)
    return 2 * matrix.shape[0] ** 3 / min(seconds)


def line(row: dict[str, Any]) -> str:
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in row["parts"].items())
    return (
        f"{row['example']:9} {row['preset']:5} width {row['width']:<4} "
        f"{row['ms']['kernels']:8.2f} ms, flax {row['flax_over_kernels']:.2f}x "
        f"(at most {row['at_most']:.2f}x; {shares})"
    )


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Geometric means of flax's time over ours, of each program."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["example"], []).append(row["flax_over_kernels"])
    return {example: round(geometric_mean(ratios), 3) for example, ratios in found.items()}


if __name__ == "__main__":
    main()
