# SPDX-License-Identifier: Apache-2.0
"""A whole run: data, training, translation of held-out sentences, scores, plots, speed."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from examples.common import hosts, speed
from examples.common.checkpoints import open_checkpoints, restore
from examples.common.loop import train
from examples.common.metrics import read_metrics
from examples.common.output import check_free, make_ready
from examples.common.plots import plot_loss
from examples.common.step import TrainStep, fresh_state
from examples.translate import corpus, report
from examples.translate.batches import Example, collate, width
from examples.translate.decode import translate
from examples.translate.live import Decoder, translate_lines
from examples.translate.model import ModelConfig, Translator
from examples.translate.prepare import (
    TOKENIZERS,
    Prepared,
    check_tokenizers,
    make_task,
    model_config,
    prepare,
    save_tokenizers,
)
from examples.translate.settings import Settings
from examples.translate.step import initial_state, make_train_step
from examples.translate.tokens import Tokenizer

DECODE_BATCH = 32
SHOWN = 12  # translations printed
SHOWN_PIECES = 12  # subwords of the sentence in the attention plot


def start(
    settings: Settings,
    data: Path | None,
    cache: Path,
    output: Path,
    mesh: Mesh,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Prepared:
    """Reads the data and makes `output` ready; raises ValueError or OSError where it can't be."""
    check_free(output, resume=resume, overwrite=overwrite)
    pairs = corpus.load(data, cache)
    hosts.say("Preparing subwords")
    prepared = prepare(settings, pairs, cache)
    if resume:
        check_tokenizers(prepared, output)
    save = partial(save_tokenizers, prepared, output)
    make_ready(output, settings, mesh, prepared.batches.examples, resume=resume, save=save)
    hosts.say(
        f"{prepared.batches.kept} of {len(pairs.train)} training pairs have at most "
        f"{settings.max_length} subwords; {prepared.batches.steps_per_epoch} steps an epoch"
    )
    return prepared


def train_and_report(
    prepared: Prepared,
    settings: Settings,
    cache: Path,
    output: Path,
    mesh: Mesh,
    *,
    resume: bool = False,
) -> None:
    """Trains, and leaves in `output` checkpoints, metrics and what `conclude` makes of them."""
    train_step = make_train_step(prepared.config, settings)
    task = make_task(prepared, settings, train_step, mesh)
    params = train(task, settings, output, mesh, resume=resume)
    hosts.leave()
    if hosts.is_first():
        conclude(prepared, settings, train_step, hosts.local(params), cache, output)


def conclude(
    prepared: Prepared,
    settings: Settings,
    train_step: TrainStep,
    params: Any,
    cache: Path,
    output: Path,
) -> None:
    """Translates held-out sentences, and leaves scores, plots and a summary in `output`."""
    print(f"Translating {len(prepared.test)} held-out sentences", flush=True)
    sources, found = translate_test(params, prepared, settings)
    scores = show_and_score(found, prepared, output)
    metrics = output / "metrics.csv"
    smoothed = "training (label-smoothed)"
    plot_loss(metrics, output / "loss.png", unit="subword", training=smoothed)
    examples = [Example(*both) for both in zip(sources, found, strict=True)]
    shown = min(examples, key=lambda example: abs(min(map(len, example)) - SHOWN_PIECES))
    remark = draw_attention(params, prepared, shown, output, cache)
    scan_step = make_train_step(dataclasses.replace(prepared.config, scan=True), settings)
    batch = prepared.batches.widest()
    what = "{} pairs of width {}".format(*batch.source.shape)
    measured = speed.compare(train_step, scan_step, fresh_state(params, settings), batch, what)
    summary = {
        **scores,
        "test_sentences": len(prepared.test),
        "train_tokens_per_second": round(speed.typical(read_metrics(metrics), "tokens")),
        "speedup_over_scan": round(measured.ratio, 3),
        "speed": dataclasses.asdict(measured),
        "settings": dataclasses.asdict(settings),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(
        f"BLEU {scores['bleu']}, chrF {scores['chrf']} on {len(prepared.test)} held-out sentences\n"
        f"{summary['train_tokens_per_second']} Chinese subwords a second in training\n"
        f"{measured}\n{remark}In {output}: translations.txt, loss.png, attention.png, metrics.csv, "
        "summary.json, checkpoints"
    )


def translate_test(
    params: Any, prepared: Prepared, settings: Settings
) -> tuple[list[list[int]], list[list[int]]]:
    """The test sentences and their translations, as subwords."""
    sources = prepared.english.encode([pair.english for pair in prepared.test])
    options = {"widths": settings.widths, "batch": DECODE_BATCH, "beam": settings.beam}
    return sources, translate(params, prepared.config, sources, **options)


def show_and_score(
    found: Sequence[Sequence[int]], prepared: Prepared, output: Path
) -> dict[str, float]:
    """Writes all translations to `translations.txt`, prints some, and returns BLEU and chrF."""
    translations = [prepared.chinese.decode(pieces) for pieces in found]
    blocks = [
        f"{pair.english}\n  model      {translation}\n  reference  {pair.chinese}"
        for pair, translation in zip(prepared.test, translations, strict=True)
    ]
    (output / "translations.txt").write_text("\n".join(blocks) + "\n", encoding="utf-8")
    print("\n".join(["", *blocks[:SHOWN], ""]), flush=True)
    return report.score(translations, [pair.chinese for pair in prepared.test])


def draw_attention(
    params: Any, prepared: Prepared, example: Example, output: Path, cache: Path
) -> str:
    """Plots what the decoder read for each subword of a translation; returns a remark."""
    source, target = example
    one = collate([example], 1, width(example))
    attention = jax.jit(partial(Translator(prepared.config).apply, method="attention"))(
        {"params": params}, one.source, one.lengths, one.inputs
    )
    return report.plot_attention(
        np.asarray(attention[0])[: len(target) + 1, : len(source)],
        prepared.english.pieces(source),
        [*prepared.chinese.pieces(target), "(end)"],
        output / "attention.png",
        cache,
    )


def translate_texts(texts: Sequence[str], settings: Settings, output: Path) -> list[str]:
    """Translations by the model trained in `output`."""
    params, config, english, chinese = _trained(settings, output)
    found = translate(
        params,
        config,
        english.encode(texts),
        widths=settings.widths,
        batch=min(len(texts), DECODE_BATCH),
        beam=settings.beam,
    )
    return [chinese.decode(pieces) for pieces in found]


def translate_live(settings: Settings, output: Path) -> Callable[[], None]:
    """Makes the model trained in `output` ready -> what translates the lines of standard input."""
    params, config, english, chinese = _trained(settings, output)
    decoder = Decoder(params, config, settings.widths[-1])
    print("Ready for sentences, one a line", file=sys.stderr)
    show = partial(print, end="", flush=True)
    how = (english.encode, chinese.decode, show)
    return partial(translate_lines, sys.stdin, decoder, *how)


def _trained(settings: Settings, output: Path) -> tuple[Any, ModelConfig, Tokenizer, Tokenizer]:
    english, chinese = (Tokenizer((output / name).read_bytes()) for name in TOKENIZERS)
    config = model_config(settings, english, chinese)
    with open_checkpoints(output) as checkpoints:
        state, _ = restore(checkpoints, jax.eval_shape(lambda: initial_state(config, settings)))
    return state.params, config, english, chinese
