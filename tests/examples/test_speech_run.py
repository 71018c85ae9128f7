# SPDX-License-Identifier: Apache-2.0
"""The recogniser's program on made-up speech, a tone a letter: it learns, goes on bitwise, reports.

On two devices its loss takes the same course as on one.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
import shutil
from types import SimpleNamespace

import jax
import matplotlib.image
import numpy as np
import pytest
import soundfile

from examples.common import hosts, speed
from examples.common.checkpoints import open_checkpoints, restore
from examples.common.metrics import read_metrics
from examples.common.speed import Speed
from examples.speech import corpus, live, score, sources
from examples.speech.__main__ import main
from examples.speech.batches import collate
from examples.speech.corpus import Utterance
from examples.speech.model import ModelConfig, Recognizer, steps
from examples.speech.prepare import prepare
from examples.speech.recognize import make_evaluate
from examples.speech.settings import PRESETS, Settings
from examples.speech.sources import Clip
from examples.speech.step import ctc, initial_state, make_train_step, model_config

RATE = 8000
TONES = {letter: 300 + 320 * number for number, letter in enumerate("abcdefgh")}  # Hz
OPTIONS = (
    "--steps 100 --evaluate-every 50 --batch 8 --mels 16 --channels 6 --hidden 20 --layers 1 "
    "--max-seconds 1 --dropout 0.1 --learning-rate 0.02 --warmup 10 --beam 4"
)
COLUMNS = ("step", "loss", "learning_rate", "frames", "valid_loss", "valid_cer")


def _speak(word: str) -> np.ndarray:
    """Each letter for 80 ms and a pause of 40 ms."""
    time = np.arange(int(0.08 * RATE)) / RATE
    pause = np.zeros(int(0.04 * RATE))
    sounds = [np.concatenate((np.sin(2 * np.pi * TONES[c] * time), pause)) for c in word]
    noise = np.random.default_rng(len(word)).normal(0, 0.01, sum(map(len, sounds)))
    return 0.5 * np.concatenate(sounds) + noise


def _wav(word: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, _speak(word), RATE, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _promotion():
    """optax counts on mixing dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _made_up():
    draw = random.Random(4)
    words = sorted({"".join(draw.choices(list(TONES), k=draw.randint(3, 7))) for _ in range(300)})
    made_up = sources.SOURCES["asterisk"]._replace(
        clips=len(words), read=lambda cache: (Clip(word, word, _wav(word)) for word in words)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.SOURCES, "asterisk", made_up)
        yield


def _main(output, *more: str) -> int:
    return main(["--output", str(output), "--devices", "1", *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("speech") / "run"
    assert _main(output, *OPTIONS.split()) == 0
    return output


def _final(output) -> tuple:
    settings = Settings.load(output / "settings.json")
    like = jax.eval_shape(lambda: initial_state(model_config(settings), settings))
    with open_checkpoints(output) as checkpoints:
        return restore(checkpoints, like)


def test_it_learns(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["test_utterances"] >= 25
    for way in ("greedy", "beam"):
        assert summary["test"][way]["cer"] < 0.05
        assert summary["test"][way]["wer"] < 0.25
    rows = read_metrics(trained / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, 101))
    cer = [float(row["valid_cer"]) for row in rows if row["valid_cer"]]
    assert len(cer) == 2
    assert cer[1] < 0.05
    blocks = (trained / "transcripts.txt").read_text(encoding="utf-8").splitlines()
    said, heard = blocks[::3], [line.split()[-1] for line in blocks[1::3]]
    assert sum(a == b for a, b in zip(said, heard, strict=True)) > 0.75 * len(said)


def test_everything_is_reported(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["settings"]["hidden"] == 20
    assert summary["train_frames_per_second"] > 0
    assert summary["speedup_over_scan"] > 0
    for name in ("loss.png", "transcript.png"):
        image = matplotlib.image.imread(trained / name)
        assert min(image.shape[:2]) > 200
        assert image[..., :3].std() > 0.02


def test_resume_goes_on_bitwise(trained, tmp_path, monkeypatch):
    """A run that lost its last checkpoint and half of its metrics computes them again."""
    cut = tmp_path / "cut"
    shutil.copytree(trained, cut)
    shutil.rmtree(cut / "checkpoints" / "100")
    metrics = (cut / "metrics.csv").read_text().splitlines(keepends=True)
    (cut / "metrics.csv").write_text("".join(metrics[:70]))
    measured = Speed("eight utterances", 1.0, 2.0)
    monkeypatch.setattr(speed, "compare", lambda *_: measured)
    assert _main(cut, "--resume") == 0
    rows, expected = (
        [[row[column] for column in COLUMNS] for row in read_metrics(output / "metrics.csv")]
        for output in (cut, trained)
    )
    assert rows == expected
    (state, step), (expected_state, expected_step) = _final(cut), _final(trained)
    assert step == expected_step == 100
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)
    assert (cut / "transcripts.txt").read_bytes() == (trained / "transcripts.txt").read_bytes()


def test_two_devices_take_the_same_course(trained):
    """The first steps of the run, with each batch spread over a mesh of two."""
    settings = Settings.load(trained / "settings.json")
    mesh = hosts.make_mesh(settings.batch, 2)
    prepared = prepare(settings, corpus.load(settings.corpus, settings.mels, trained))
    train_step = make_train_step(prepared.config, settings)
    state = hosts.copy(mesh, initial_state(prepared.config, settings))
    losses = []
    for step in range(15):
        batch = hosts.split(mesh, prepared.batches.at(step))
        assert len(batch.features.sharding.device_set) == 2
        state, loss = train_step(state, batch, step)
        losses.append(float(loss))
    rows = read_metrics(trained / "metrics.csv")
    np.testing.assert_allclose(losses, [float(row["loss"]) for row in rows[:15]], rtol=2e-3)
    assert losses[-1] < 0.8 * losses[0]
    evaluate = make_evaluate(prepared.config, prepared.valid, mesh)
    judged = evaluate(hosts.copy(mesh, _final(trained)[0].params))
    expected = {name: float(rows[-1][name]) for name in judged}
    assert judged == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_transcribes_files(trained, tmp_path, capsys):
    for word in ("hagebcd", "facade"):
        (tmp_path / f"{word}.wav").write_bytes(_wav(word))
    files = [str(tmp_path / f"{word}.wav") for word in ("hagebcd", "facade")]
    assert _main(trained, "--transcribe", *files) == 0
    assert capsys.readouterr().out.split() == ["hagebcd", "facade"]


def test_files_that_can_not_be_transcribed(trained, tmp_path, capsys):
    path = tmp_path / "fast.wav"
    soundfile.write(path, _speak("a"), 2 * RATE)
    assert _main(trained, "--transcribe", str(path)) == 1
    assert "fast.wav: expected one channel of 8000 samples a second" in capsys.readouterr().err


def _stdin(sound: bytes) -> SimpleNamespace:
    return SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(sound)))


def test_transcribes_sound_as_it_comes(trained, capsys, monkeypatch):
    """Several pieces long, as a WAV stream and raw; and however its samples are cut."""
    said = "hagebcdfacadebeadhadcagehead"
    file = io.BytesIO()
    soundfile.write(file, _speak(said), RATE, format="WAV", subtype="PCM_16")
    samples, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="int16")
    for sound in (file.getvalue(), samples.tobytes()):
        monkeypatch.setattr("sys.stdin", _stdin(sound))
        assert _main(trained, "--live") == 0
        text = capsys.readouterr().out
        assert text.endswith("\n")
        assert score.error_rate([text.strip()], [said]) < 0.1
    settings = Settings.load(trained / "settings.json")
    listener = live.Listener(_final(trained)[0].params, model_config(settings), RATE)
    ends = np.sort(np.random.default_rng(2).integers(0, len(samples), 40))
    told = [listener.hear(part) for part in np.split(samples * np.float32(1 / 32768), ends)]
    assert "".join([*told, listener.end()]) == text.strip()
    assert sum(map(bool, told)) >= 2  # before the end


def test_sound_that_can_not_be_transcribed(trained, capsys, monkeypatch):
    file = io.BytesIO()
    soundfile.write(file, np.zeros((50, 2)), RATE, format="WAV", subtype="PCM_16")
    for sound, says in (
        (
            file.getvalue(),
            "expected one channel of 8000 samples of 16 bits a second, got 2 of 8000",
        ),
        (b"RIFF and the rest", "standard input: not a WAV stream that can be read"),
    ):
        monkeypatch.setattr("sys.stdin", _stdin(sound))
        assert _main(trained, "--live") == 1
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--corpus", "librispeech"], "corpus: expected asterisk or amazon-queen, got librispeech"),
        (["--steps", "0"], "steps: expected more than 0, got 0"),
        (["--dropout", "1.0"], "dropout: expected less than 1, got 1.0"),
        (["--max-seconds", "0"], "max_seconds: expected more than 0, got 0.0"),
        (["--max-seconds", "0.05"], "expected utterances of at most 5 frames, got none"),
        (["--resume"], "no run to go on from"),
        (["--transcribe", "a.wav"], "no run to go on from"),
        (["--live"], "no run to go on from"),
        (["--devices", "3"], "batch: expected a multiple of the 3 devices in use, got 16"),
    ],
)
def test_flags_that_can_not_be(tmp_path, capsys, flags, message):
    assert main(["--output", str(tmp_path / "new"), *flags]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_earlier_run_is_not_lost(trained, capsys):
    assert _main(trained, *OPTIONS.split()) == 1
    assert "holds an earlier run: go on with --resume" in capsys.readouterr().err


def test_presets_are_valid_settings():
    assert set(PRESETS) == {"quick", "long"}
    assert {preset.corpus for preset in PRESETS.values()} == set(sources.SOURCES)
    assert PRESETS["quick"].widths == (150, 250, 400, 500)


# The model

CONFIG = ModelConfig(mels=11, channels=3, hidden=5, layers=2, dropout=0.0)


@pytest.fixture(scope="module")
def params():
    return initial_state(CONFIG, Settings()).params


def _utterances(*frames: int) -> list[Utterance]:
    draw = np.random.default_rng(6)
    return [Utterance("", "to", draw.normal(size=(each, 11)).astype(np.float32)) for each in frames]


def _apply(params, batch, config=CONFIG):
    apply = jax.jit(Recognizer(config).apply)
    return np.asarray(apply({"params": params}, batch.features, batch.frames))


def test_steps_are_a_quarter_of_the_frames():
    assert [steps(frames) for frames in (1, 4, 5, 8, 9, 150)] == [1, 1, 2, 2, 3, 38]


def test_probabilities_sum_to_one(params):
    log_probs = _apply(params, collate(_utterances(17, 26), 3, 30))
    assert log_probs.shape == (3, 8, 29)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=1e-5)


def test_wider_padding_changes_nothing(params):
    said = _utterances(17, 26)
    narrow, wide = (_apply(params, collate(said, 3, width)) for width in (27, 42))
    for row, each in enumerate(said):
        used = steps(len(each.features))
        np.testing.assert_allclose(narrow[row, :used], wide[row, :used], rtol=1e-4, atol=1e-5)


def test_the_scan_model_is_the_same_model(params):
    batch = collate(_utterances(17, 26), 3, 30)

    def loss(params, config):
        log_probs = Recognizer(config).apply({"params": params}, batch.features, batch.frames)
        return ctc(log_probs, batch)[0]

    differentiate = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    scan = dataclasses.replace(CONFIG, scan=True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        differentiate(params, CONFIG),
        differentiate(params, scan),
    )


def test_bfloat16_is_near_float32(params):
    batch = collate(_utterances(17, 26), 3, 30)
    exact, half = (
        _apply(params, batch, dataclasses.replace(CONFIG, dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, exact, atol=0.1)
    assert not np.array_equal(half, exact)
