# SPDX-License-Identifier: Apache-2.0
"""The character model learns, carries its state from chunk to chunk, and says what it reached."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.charlm import text as texts
from examples.charlm.charlm import CharLM, bits, evaluate, fit, main, sample
from examples.charlm.text import chunks, enwik8, split
from examples.common.download import DownloadError

SENTENCE = b"she sells sea shells on the shore. "


@pytest.fixture(scope="module", autouse=True)
def promotion() -> Iterator[None]:
    """optax itself mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def entropy(text: np.ndarray) -> float:
    """Bits a character for a model that knows each character's frequency and nothing else."""
    share = np.bincount(text)[np.unique(text)] / len(text)
    return float(-(share * np.log2(share)).sum())


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    return np.frombuffer(SENTENCE * 120, np.uint8)


@pytest.fixture(scope="module")
def trained(text: np.ndarray):
    model = CharLM(hidden=48, layers=2)
    params, losses = fit(model, text, steps=800, batch=5, length=24, seed=0)
    return model, params, losses


def test_parts_are_90_5_and_5_percent_in_order() -> None:
    content = bytes(range(200))
    train, valid, test = split(content)
    assert (len(train), len(valid), len(test)) == (180, 10, 10)
    assert b"".join(part.tobytes() for part in (train, valid, test)) == content


def test_chunks_go_on_where_the_last_ended() -> None:
    text = np.arange(3 * 12, dtype=np.uint8)
    found = list(chunks(text, batch=3, length=4))
    assert [chunk.shape for chunk in found] == [(3, 5), (3, 5)]  # the third would lack a symbol
    np.testing.assert_array_equal(found[0][1], [12, 13, 14, 15, 16])
    np.testing.assert_array_equal(found[1][1], [16, 17, 18, 19, 20])
    np.testing.assert_array_equal(found[1][:, 0], found[0][:, -1])


def test_the_shortest_text_gives_one_chunk() -> None:
    assert len(list(chunks(np.zeros(2 * 6, np.uint8), batch=2, length=5))) == 1
    with pytest.raises(ValueError, match=r"has 11 bytes, too few for 2 stretches of more than 5"):
        next(chunks(np.zeros(11, np.uint8), batch=2, length=5))


def test_it_learns_more_than_frequencies(trained, text: np.ndarray) -> None:
    model, params, losses = trained
    assert len(losses) == 800
    assert losses[0] == pytest.approx(8, abs=0.3)  # at first each of 256 symbols is as likely
    assert np.mean(losses[-10:]) < 0.2 * entropy(text)
    assert evaluate(model, params, text, batch=3, length=20) < 0.2 * entropy(text)


def test_a_seed_fixes_the_run(text: np.ndarray) -> None:
    runs = [
        fit(CharLM(hidden=6, layers=1), text, steps=3, batch=2, length=5, seed=seed)[1]
        for seed in (4, 4)
    ]
    assert runs[0] == runs[1]


def test_the_state_is_carried_from_chunk_to_chunk(trained, text: np.ndarray) -> None:
    model, params, _ = trained
    stretch = text[: 3 * 49]  # 48 predictions each, in 2 chunks or in 6
    whole = evaluate(model, params, stretch, batch=3, length=24)
    assert evaluate(model, params, stretch, batch=3, length=8) == pytest.approx(whole, rel=1e-5)

    forgetful = [
        bits(model, params, jnp.asarray(chunk), model.start(3))[0]
        for chunk in chunks(stretch, batch=3, length=8)
    ]
    assert np.mean(forgetful) > whole + 0.1


def test_the_carry_is_every_layer_s_state(trained, text: np.ndarray) -> None:
    model, params, _ = trained
    first = jnp.asarray(next(chunks(text, batch=2, length=7)))
    _, carry = bits(model, params, first, model.start(2))
    assert [[part.shape for part in layer] for layer in carry] == [[(2, 48), (2, 48)]] * 2
    assert all(bool(jnp.any(part != 0)) for layer in carry for part in layer)


def test_a_sample_goes_on_where_the_prompt_ends(trained) -> None:
    model, params, _ = trained
    prompt = SENTENCE * 2 + b"she sel"
    drawn = sample(model, params, prompt, count=60, seed=0)
    assert len(drawn) == 60
    assert drawn.startswith(b"ls")
    assert set(drawn) <= set(SENTENCE)
    assert sample(model, params, prompt, count=60, seed=0) == drawn


def test_the_program_runs_on_any_file(tmp_path: Path, capsys) -> None:
    path = tmp_path / "words.bin"
    path.write_bytes(SENTENCE * 60)
    options = "--steps 4 --hidden 5 --layers 1 --batch 3 --length 7 --seed 6"
    main(["--data", str(path), *options.split()])
    said = capsys.readouterr().out
    assert "Bits a character over 105 held-out bytes:" in said
    assert "this model" in said
    assert "published" not in said  # figures for enwik8 say nothing about another text


@pytest.mark.parametrize("option", ["steps", "hidden", "layers", "batch", "length"])
def test_a_number_below_one_is_refused(option: str, capsys) -> None:
    with pytest.raises(SystemExit):
        main([f"--{option}", "0"])
    assert f"argument --{option}: expected at least 1, got 0" in capsys.readouterr().err


def test_enwik8_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packed = gzip.compress(b"first words")
    monkeypatch.setattr(texts, "sdist_file", lambda *where: packed)
    with pytest.raises(DownloadError, match=r"enwik8: expected md5 a1fa5ffd.*, got [0-9a-f]{32}"):
        enwik8(tmp_path)
    monkeypatch.setattr(texts, "ENWIK8_MD5", hashlib.md5(b"first words").hexdigest())
    assert enwik8(tmp_path) == b"first words"
