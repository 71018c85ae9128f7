# SPDX-License-Identifier: Apache-2.0
"""The translator's program on a small made-up language: it learns, goes on bitwise, reports."""

from __future__ import annotations

import json
import shutil

import jax
import matplotlib.image
import numpy as np
import pytest
import toy_pairs
from toy_pairs import WORDS

from examples.common.checkpoints import open_checkpoints, restore
from examples.common.download import DownloadError
from examples.common.metrics import read_metrics
from examples.translate import report
from examples.translate.__main__ import main
from examples.translate.decode import translate
from examples.translate.live import grown
from examples.translate.prepare import TOKENIZERS, model_config
from examples.translate.settings import PRESETS, Settings
from examples.translate.step import initial_state
from examples.translate.tokens import Tokenizer

STEPS = 400
TINY = f"--steps {STEPS} --evaluate-every {STEPS // 2} --hidden 48 --layers 1 --embedding 16"
REST = "--batch 16 --vocabulary 330 --max-length 8 --learning-rate 0.015 --warmup 20 --beam 3"
OPTIONS = f"{TINY} {REST}"


@pytest.fixture(scope="module", autouse=True)
def _promotion():
    """optax's schedules count on mixing dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translate")
    toy_pairs.write(folder / "pairs.tsv")
    return folder


def _main(folder, output, *more: str) -> int:
    places = ["--data", folder / "pairs.tsv", "--cache", folder / "cache", "--output", output]
    return main([*map(str, places), "--devices", "1", *more])


@pytest.fixture(scope="module", autouse=True)
def _offline():
    def refuse(*_):
        raise DownloadError("no network in tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "debian_files", refuse)
        yield


@pytest.fixture(scope="module")
def trained(folder):
    assert _main(folder, folder / "run", *OPTIONS.split()) == 0
    return folder / "run"


def _final(output) -> tuple:
    settings = Settings.load(output / "settings.json")
    tokenizers = (Tokenizer((output / name).read_bytes()) for name in TOKENIZERS)
    config = model_config(settings, *tokenizers)
    with open_checkpoints(output) as checkpoints:
        return restore(checkpoints, jax.eval_shape(lambda: initial_state(config, settings)))


def test_it_learns(trained):
    summary = json.loads((trained / "summary.json").read_text())
    # Rounding differs between instruction sets, and a sentence or two of 43 with it.
    assert summary["bleu"] > 85
    assert summary["chrf"] > 80
    rows = read_metrics(trained / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    valid = [float(row["valid_loss"]) for row in rows if row["valid_loss"]]
    assert len(valid) == 2
    assert valid[1] < valid[0]
    blocks = (trained / "translations.txt").read_text(encoding="utf-8").split("\n")
    models, references = blocks[1::3], blocks[2::3]
    exact = [a.split()[1:] == b.split()[1:] for a, b in zip(models, references, strict=True)]
    assert len(exact) == summary["test_sentences"]
    assert sum(exact) >= 0.8 * len(exact)


def test_everything_is_reported(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["settings"]["hidden"] == 48
    assert summary["train_tokens_per_second"] > 0
    assert summary["speedup_over_scan"] > 0
    for name in ("loss.png", "attention.png"):
        image = matplotlib.image.imread(trained / name)
        assert min(image.shape[:2]) > 200
        assert image[..., :3].std() > 0.02


def test_resume_goes_on_bitwise(folder, trained):
    """A run that lost its last checkpoint and half of its metrics computes them again."""
    cut = folder / "cut"
    shutil.copytree(trained, cut)
    shutil.rmtree(cut / "checkpoints" / f"{STEPS}")
    metrics = (cut / "metrics.csv").read_text().splitlines(keepends=True)
    (cut / "metrics.csv").write_text("".join(metrics[: STEPS // 2 + 50]))
    assert _main(folder, cut, "--resume") == 0
    columns = ("step", "loss", "learning_rate", "tokens", "valid_loss")
    rows, expected = (
        [[row[column] for column in columns] for row in read_metrics(output / "metrics.csv")]
        for output in (cut, trained)
    )
    assert rows == expected
    (state, step), (expected_state, expected_step) = _final(cut), _final(trained)
    assert step == expected_step == STEPS
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)
    assert (cut / "translations.txt").read_bytes() == (trained / "translations.txt").read_bytes()


def test_translates_texts(folder, trained, capsys):
    assert _main(folder, trained, "--translate", "bal den fip", "GOS Kun by dal") == 0
    expected = ["fip den bal", "dal by kun gos"]
    assert capsys.readouterr().out.split() == [
        "".join(WORDS[word] for word in words.split()) for words in expected
    ]


def test_translates_lines_as_they_come(folder, trained, capsys, monkeypatch):
    """Each line is answered before the next is read, by the search's translation with one beam."""
    asked = ["bal den fip\n", "\n", "GOS Kun by dal bal den fip\n"]
    answered = []

    def lines():
        for line in asked:
            yield line
            answered.append(capsys.readouterr().out)

    monkeypatch.setattr("sys.stdin", lines())
    assert _main(folder, trained, "--live") == 0
    assert answered[1] == "\n"
    assert answered[0] == "".join(WORDS[word] for word in ("fip", "den", "bal")) + "\n"
    state, _ = _final(trained)
    settings = Settings.load(trained / "settings.json")
    english, chinese = (Tokenizer((trained / name).read_bytes()) for name in TOKENIZERS)
    config = model_config(settings, english, chinese)
    how = {"widths": settings.widths, "batch": 2, "beam": 1}
    found = translate(state.params, config, english.encode(asked[::2]), **how)
    assert answered[::2] == [chinese.decode(pieces) + "\n" for pieces in found]


def test_a_letter_is_shown_when_it_is_whole():
    spelt = {1: b"a", 2: b"\xe7", 3: b"\x8c", 4: b"\xab"}
    decode = lambda pieces: b"".join(spelt[p] for p in pieces).decode(errors="replace")  # noqa: E731
    assert list(grown([1, 2, 3, 4, 1], decode)) == ["a", "猫", "a", ""]
    assert list(grown([1, 2], decode)) == ["a", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hidden", "31"], "hidden: expected an even number"),
        (["--steps", "0"], "steps: expected more than 0, got 0"),
        (["--dropout", "1.0"], "dropout: expected less than 1, got 1.0"),
        (["--dropout", "-0.5"], "dropout: expected at least 0.0, got -0.5"),
        (["--seed", "-1"], "seed: expected at least 0, got -1"),
        (["--dtype", "float16"], "dtype: expected float32 or bfloat16, got float16"),
        (["--resume"], "no run to go on from"),
        (["--translate", "a dog"], "no run to go on from"),
        (["--live"], "no run to go on from"),
        (["--vocabulary", "20"], "--vocabulary: 20 subwords do not suit this text"),
        (["--devices", "9"], "--devices: expected 1 to 8, which a host has, got 9"),
        (
            ["--devices", "8", "--batch", "12"],
            "multiple of the 8 devices in use, got 12",
        ),
        (["--hosts", "2", "--host", "1"], "expected --coordinator HOST:PORT, --hosts N"),
        (["--max-length", "2"], "expected pairs of at most 2 subwords, got none"),
    ],
)
def test_flags_that_can_not_be(folder, tmp_path, capsys, flags, message):
    assert _main(folder, tmp_path / "new", *flags) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_earlier_run_is_not_lost(folder, trained, capsys):
    assert _main(folder, trained, *OPTIONS.split()) == 1
    assert "holds an earlier run: go on with --resume" in capsys.readouterr().err


def test_resume_keeps_the_runs_settings(folder, trained, capsys):
    assert _main(folder, trained, "--resume", "--hidden", "64") == 1
    assert "--hidden: the run in" in capsys.readouterr().err


def test_resume_needs_the_runs_data(folder, trained, tmp_path, capsys):
    lines = (folder / "pairs.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "pairs.tsv").write_text("".join(lines[:200]), encoding="utf-8")
    places = ["--data", tmp_path / "pairs.tsv", "--cache", tmp_path, "--output", trained]
    assert main([*map(str, places), "--resume"]) == 1
    assert "differs from the subwords of the data given" in capsys.readouterr().err


def test_data_that_is_not_there(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "no.tsv"), "--output", str(tmp_path / "run")]) == 1
    assert "no.tsv" in capsys.readouterr().err


def test_unknown_preset(capsys):
    with pytest.raises(SystemExit):
        main(["--preset", "slow"])
    assert "invalid choice: 'slow'" in capsys.readouterr().err


def test_presets_are_valid_settings():
    assert set(PRESETS) == {"quick", "long"}
    assert PRESETS["quick"].widths == (8, 12, 16)
    assert PRESETS["long"].widths == (8, 12, 16, 24, 32, 40)
