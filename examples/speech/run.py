# SPDX-License-Identifier: Apache-2.0
"""A whole run: data, training, transcripts of held-out utterances, error rates, pictures, speed."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import jax
from jax.sharding import Mesh

from examples.common import hosts, speed
from examples.common.checkpoints import open_checkpoints, restore
from examples.common.loop import train
from examples.common.metrics import read_metrics
from examples.common.output import check_free, make_ready
from examples.common.plots import plot_loss
from examples.common.step import TrainStep, fresh_state
from examples.speech import corpus, live, report, sources
from examples.speech.corpus import Utterance, spectrogram
from examples.speech.prepare import Prepared, make_task, prepare
from examples.speech.recognize import recognize
from examples.speech.settings import Settings
from examples.speech.step import initial_state, make_train_step, model_config


def start(
    settings: Settings,
    cache: Path,
    output: Path,
    mesh: Mesh,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Prepared:
    """Reads the data and makes `output` ready; raises ValueError or OSError where it can't be."""
    check_free(output, resume=resume, overwrite=overwrite)
    data = corpus.load(settings.corpus, settings.mels, cache)
    prepared = prepare(settings, data)
    said = [utterance.text for utterance in prepared.batches.examples]
    make_ready(output, settings, mesh, said, resume=resume)
    hosts.say(
        f"{prepared.batches.kept} of {len(data.train)} training utterances have at most "
        f"{settings.max_seconds} s; {prepared.batches.steps_per_epoch} steps an epoch"
    )
    return prepared


def train_and_report(
    prepared: Prepared, settings: Settings, output: Path, mesh: Mesh, *, resume: bool = False
) -> None:
    """Trains, and leaves in `output` checkpoints, metrics and what `conclude` makes of them."""
    train_step = make_train_step(prepared.config, settings)
    task = make_task(prepared, settings, train_step, mesh)
    params = train(task, settings, output, mesh, resume=resume)
    hosts.leave()
    if hosts.is_first():
        conclude(prepared, settings, train_step, hosts.local(params), output)


def conclude(
    prepared: Prepared, settings: Settings, train_step: TrainStep, params: Any, output: Path
) -> None:
    """Transcribes held-out utterances; leaves error rates, pictures and a summary in `output`."""
    errors = transcribe_test(params, prepared, settings, output)
    plot_loss(output / "metrics.csv", output / "loss.png", unit="letter", error="valid_cer")
    scan_step = make_train_step(dataclasses.replace(prepared.config, scan=True), settings)
    batch = prepared.batches.widest()
    what = "{} utterances of {} frames".format(*batch.features.shape)
    measured = speed.compare(train_step, scan_step, fresh_state(params, settings), batch, what)
    rows = read_metrics(output / "metrics.csv")
    summary = {
        **errors,
        "train_frames_per_second": round(speed.typical(rows, "frames")),
        "speedup_over_scan": round(measured.ratio, 3),
        "speed": dataclasses.asdict(measured),
        "settings": dataclasses.asdict(settings),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(
        f"{measured}\nIn {output}: transcripts.txt, transcript.png, loss.png, metrics.csv, "
        "summary.json, checkpoints"
    )


def transcribe_test(
    params: Any, prepared: Prepared, settings: Settings, output: Path
) -> dict[str, Any]:
    """Transcripts of the test utterances in `output`, one as a picture; returns error rates."""
    print(f"Transcribing {len(prepared.test)} held-out utterances", flush=True)
    found = recognize(params, prepared.config, prepared.test, settings.widths, settings.beam)
    report.plot_transcript(report.pick(found), output / "transcript.png")
    errors = {"test": report.show_and_score(found, output), "test_utterances": len(found)}
    for way, rates in errors["test"].items():
        print(f"{way}: character error rate {rates['cer']:.1%}, word error rate {rates['wer']:.1%}")
    return errors


def transcribe_files(paths: Sequence[Path], settings: Settings, output: Path) -> list[str]:
    """What the model trained in `output` hears in sound files."""
    config, rate = model_config(settings), sources.SOURCES[settings.corpus].rate
    heard = [
        Utterance(str(path), "", spectrogram(_samples(path, rate), rate, settings.mels))
        for path in paths
    ]
    longest = max(len(each.features) for each in heard)
    widths = (*(width for width in settings.widths if width < longest), longest)
    found = recognize(_trained(settings, output), config, heard, widths, settings.beam)
    return [each.beam for each in found]


def transcribe_live(settings: Settings, output: Path) -> Callable[[], None]:
    """Makes the model trained in `output` ready -> what transcribes the sound of standard input."""
    rate = sources.SOURCES[settings.corpus].rate
    listener = live.Listener(_trained(settings, output), model_config(settings), rate)
    print(f"Ready for sound, {rate} samples of 16 bits a second", file=sys.stderr)
    sound = live.opened(cast(BufferedReader, sys.stdin.buffer), rate)
    return partial(live.transcribe, sound, listener, partial(print, end="", flush=True))


def _trained(settings: Settings, output: Path) -> Any:
    """The parameters of the last checkpoint."""
    config = model_config(settings)
    with open_checkpoints(output) as checkpoints:
        state, _ = restore(checkpoints, jax.eval_shape(lambda: initial_state(config, settings)))
    return state.params


def _samples(path: Path, rate: int) -> Any:
    try:
        return sources.samples(path.read_bytes(), rate)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
