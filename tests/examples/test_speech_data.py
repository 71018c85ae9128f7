# SPDX-License-Identifier: Apache-2.0
"""From sound files to the recogniser's batches."""

from __future__ import annotations

import gzip
import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from examples.speech import features, sources, text
from examples.speech.batches import Batches, collate, room
from examples.speech.corpus import Utterance, split, utterances
from examples.speech.queen import spoken
from examples.speech.sources import Clip

# Text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Press 1 to re-record, or 0.", "press one to re record or zero"),
        ("I'm  'quoted' -- the boss' car?", "i'm quoted the boss car"),
        ("Hold on...", "hold on"),
        ("Don’t!", "don't"),
        ("@@ She's beautiful! @@", "she's beautiful"),
        ("We've 24 hours", None),
        ("2B or not 2B", None),
        ("(sigh)", None),
        ("<gulp>", None),
        ("H.323", None),
        ("press * now", None),
        ("...", None),
    ],
)
def test_what_is_written_as_it_is_said(written: str, said: str | None) -> None:
    assert text.spoken(written) == said


def test_symbols_come_back() -> None:
    symbols = text.encode(text.ALPHABET)
    assert symbols == list(range(1, text.SYMBOLS))
    assert text.decode(symbols) == text.ALPHABET


# Spectrograms


def _direct(samples: np.ndarray, rate: int, mels: int) -> np.ndarray:
    """The formulas word by word in float64: no FFT, no matrix of filters."""
    window, hop = round(0.025 * rate), round(0.010 * rate)
    bins = 256 if window <= 256 else 512
    count = 1 + (len(samples) - window) // hop

    def mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    centres = [i * mel(rate / 2) / (mels + 1) for i in range(mels + 2)]
    hertz = [700 * (10 ** (centre / 2595) - 1) for centre in centres]
    result = np.zeros((count, mels))
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    for frame in range(count):
        piece = samples[frame * hop : frame * hop + window].astype(np.float64) * taper
        for m in range(mels):
            left, centre, right = hertz[m : m + 3]
            total = 0.0
            for k in range(bins // 2 + 1):
                f = k * rate / bins
                weight = max(0.0, min((f - left) / (centre - left), (right - f) / (right - centre)))
                if weight:
                    wave = np.exp(-2j * np.pi * k * np.arange(window) / bins)
                    total += weight * abs((piece * wave).sum()) ** 2 / window
            result[frame, m] = np.log(total + 1e-6)
    return result


@pytest.mark.parametrize(("rate", "mels"), [(8000, 7), (11025, 5)])
def test_log_mels_are_the_formulas(rate: int, mels: int) -> None:
    samples = np.random.default_rng(2).normal(size=rate // 20 + 3).astype(np.float32)
    found = features.log_mel(samples, rate, mels)
    assert found.shape == (features.frames(len(samples), rate), mels)
    np.testing.assert_allclose(found, _direct(samples, rate, mels), rtol=1e-5, atol=1e-5)


def test_a_tone_is_in_its_filter() -> None:
    seconds = np.arange(4000) / 8000
    for mel in (3, 9, 17):
        hertz = 700 * (10 ** ((mel + 1) * 2595 * np.log10(1 + 4000 / 700) / 21 / 2595) - 1)
        heard = features.log_mel(np.sin(2 * np.pi * hertz * seconds), 8000, 20)
        assert (heard.argmax(-1) == mel).all()


def test_short_sounds_have_one_frame_and_silence_is_finite() -> None:
    for samples in (1, 199, 200, 279):
        heard = features.log_mel(np.zeros(samples), 8000, 6)
        assert heard.shape == (1, 6)
        assert np.isfinite(features.normalized(heard)).all()
    assert features.log_mel(np.zeros(280), 8000, 6).shape == (2, 6)


def test_normalised_over_time() -> None:
    heard = np.random.default_rng(0).normal(3, 5, size=(50, 4)).astype(np.float32)
    found = features.normalized(heard)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-2)


# The game's file


def _entry(content: bytes) -> bytes:
    return b"\0" * 20 + content


def _dialogue(room: int, others: list[str], joes: list[str]) -> bytes:
    """One level of choices, then Joe's lines; the other person's lines come first in the file."""
    start = 32 + 96

    def block(lines: list[str], offset: int) -> bytes:
        content = b""
        for number, line in enumerate(lines, start=10):
            content += struct.pack(">2xHB", number, len(line)) + line.encode("cp437")
            content += b"\0" * (-(offset + len(content)) % 4 if line else 0)
        return content

    mine = block(joes, start)
    theirs = start + len(mine)
    header = struct.pack(">hhhhh", -1, 0, room, len(joes), len(others)).ljust(22, b"\0")
    head = (header + struct.pack(">H", theirs)).ljust(start, b"\0")
    return _entry(head + mine + block(others, theirs))


def _cut_scene(lines: list[str]) -> bytes:
    content = struct.pack(">hh4xH", 0, -len(lines), 12).ljust(12, b"\0")
    for line in ["title", *lines]:
        content += bytes([len(line)]) + line.encode("cp437")
        content += b"\0" * (len(content) % 2 if line else 0)
    return _entry(content)


def _archive(files: dict[str, bytes]) -> bytes:
    start = 15 + 21 * len(files)
    rows, contents = b"", b""
    for name, content in files.items():
        rows += struct.pack(">12sBII", name.encode(), 1, start + len(contents), len(content))
        contents += content
    return b"QTBL" + b"\0" * 9 + struct.pack(">H", len(files)) + rows + contents


GAME = {
    "A.DOG": _dialogue(7, ["Who are you?", "", "Go away!*01Now."], ["Caf\xe9?", "I'm Joe."]),
    "C2X.CUT": _cut_scene(["Look", "", "out*XY12345678901there!"]),
    "QUEEN2.JAS": b"A rock.\r\n\r\nA tree.",
    "07000AP1.SB": b"who",
    "07000AP2.SB": b"no such part",
    "07000CP1.SB": b"go",
    "07000CP2.SB": b"now",
    "07000AJ1.SB": b"cafe",
    "07000BJ1.SB": b"joe",
    "C2X__011.SB": b"look",
    "C2X__021.SB": b"nothing is said",
    "C2X__032.SB": b"there",
    "JOE00411.SB": b"rock",
    "JOE00431.SB": b"tree",
    "EXPLODE.SB": b"no words",
    "EXPLODE1.SB": b"no words",
}


def test_the_games_sounds_have_their_words() -> None:
    assert list(spoken(_archive(GAME))) == [
        ("07000AJ1.SB", "Caf\xe9?", b"cafe"),
        ("07000AP1.SB", "Who are you?", b"who"),
        ("07000BJ1.SB", "I'm Joe.", b"joe"),
        ("07000CP1.SB", "Go away!", b"go"),
        ("07000CP2.SB", "Now.", b"now"),
        ("C2X__011.SB", "Look", b"look"),
        ("C2X__032.SB", "there!", b"there"),
        ("JOE00411.SB", "A rock.", b"rock"),
        ("JOE00431.SB", "A tree.", b"tree"),
    ]


def test_another_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not queen\.1c: expected b'QTBL' first, got b'RIFF'"):
        list(spoken(b"RIFF" + b"\0" * 40))


# Sounds


def _wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def test_sounds_are_read() -> None:
    samples = np.linspace(-0.9, 0.9, 37)
    np.testing.assert_allclose(sources.samples(_wav(samples), 8000), samples, atol=1e-4)


def test_sounds_that_do_not_fit_are_refused() -> None:
    stereo = _wav(np.zeros((30, 2)))
    with pytest.raises(ValueError, match=r"expected one channel of 8000 .* got 2 of 8000"):
        sources.samples(stereo, 8000)
    with pytest.raises(ValueError, match="one channel of 11025 samples a second, got 1 of 8000"):
        sources.samples(_wav(np.zeros(30)), 11025)
    with pytest.raises(ValueError, match="not a sound that can be read"):
        sources.samples(b"text", 8000)


def test_prompts_come_out_of_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = "; a title\n\nhello: Hello: you. \ndigits/1 : one\nbeep: [tone]\nabsent: Not there."
    folder = "usr/share/asterisk/sounds/en_US_f_Allison/"
    packages = {
        "asterisk-core-sounds-en": {
            "usr/share/doc/x/core-sounds-en.txt.gz": gzip.compress(listed.encode()),
            "usr/share/doc/x/copyright": b"not read",
        },
        "asterisk-core-sounds-en-wav": {
            f"{folder}{name}.wav": name.encode() for name in ("hello", "digits/1", "beep", "more")
        },
    }
    monkeypatch.setattr(
        sources,
        "debian_files",
        lambda package, wanted, cache: {
            path: content for path, content in packages[package].items() if wanted(path)
        },
    )
    small = sources.SOURCES["asterisk"]._replace(clips=3)
    assert sources.read(small, tmp_path) == [
        ("beep", "[tone]", b"beep"),
        ("digits/1", "one", b"digits/1"),
        ("hello", "Hello: you.", b"hello"),
    ]
    with pytest.raises(sources.DownloadError, match="expected about 568 clips, got 3"):
        sources.read(sources.SOURCES["asterisk"], tmp_path)


def test_clips_whose_words_do_not_fit_are_left_out() -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 16000)
    clips = [
        Clip("good", "Two words.", _wav(noise[:8000])),
        Clip("sigh", "(sigh)", _wav(noise[:8000])),
        Clip("short", "no", _wav(noise[:2000])),
        Clip("fast", "all of this in half a second", _wav(noise[:4000])),
        Clip("slow", "a", _wav(noise)),
    ]
    [kept] = utterances(clips, 8000, 6)
    assert kept[:2] == ("good", "two words")
    assert kept.features.shape == (98, 6)


def _utterance(words: str, frames: int, value: float = 1.0) -> Utterance:
    return Utterance(words, words, np.full((frames, 3), value, np.float32))


def test_one_text_is_on_one_side() -> None:
    draw = np.random.default_rng(5)
    words = ["".join(draw.choice(list("abcdefgh"), 6)) for _ in range(60)]
    spoken_twice = [
        Utterance(f"{voice}{word}", word, np.zeros((9, 3), np.float32))
        for voice in "xy"
        for word in words
    ]
    corpus = split(spoken_twice, 8000)
    sides = [{each.text for each in side} for side in (corpus.train, corpus.valid, corpus.test)]
    assert [len(side) for side in sides] == [48, 6, 6]
    assert len(set.union(*sides)) == 60
    assert [len(side) for side in (corpus.train, corpus.valid, corpus.test)] == [96, 12, 12]


# Batches


def test_collate() -> None:
    batch = collate([_utterance("ab", 9, 2.0), _utterance("too", 12)], 3, 14)
    np.testing.assert_array_equal(batch.frames, [9, 12, 1])
    np.testing.assert_array_equal(batch.counts, [2, 3, 0])
    np.testing.assert_array_equal(batch.symbols, [[3, 4, 0, 0], [22, 17, 17, 0], [0, 0, 0, 0]])
    assert batch.features.shape == (3, 14, 3)
    assert (batch.features[0, :9] == 2).all()
    assert (batch.features[1, :12] == 1).all()
    assert batch.features.sum() == 9 * 3 * 2 + 12 * 3


def test_what_can_not_be_aligned_has_no_room() -> None:
    """Three letters take three steps, four frames each; two equal ones a blank between them."""
    assert room(_utterance("abc", 9)) == 9
    assert room(_utterance("abc", 8)) > 1000
    assert room(_utterance("aab", 13)) == 13
    assert room(_utterance("aab", 12)) > 1000


def test_the_first_epoch_begins_with_the_short_ones() -> None:
    said = [_utterance("abcde"[: 1 + n % 4], 20 + n) for n in range(23)]
    batches = Batches(said, 3, (25, 34, 50), seed=1)
    assert batches.kept == 23
    widths = [batches.at(step).features.shape[1] for step in range(2 * batches.steps_per_epoch)]
    first, second = widths[: batches.steps_per_epoch], widths[batches.steps_per_epoch :]
    assert first == sorted(first)
    assert second != sorted(second)
    assert sorted(second) == first
    seen = [batches.at(step) for step in range(batches.steps_per_epoch)]
    frames = sorted(int(n) for batch in seen for n in batch.frames if n > 1)
    assert frames == list(range(20, 43))


def test_once_gives_every_example_and_its_position() -> None:
    said = [_utterance("ab", 20 + 7 * n % 23) for n in range(11)]
    batches = Batches(said, 4, (30, 50), seed=1)
    found = {
        int(position): int(frames)
        for positions, batch in batches.once()
        for position, frames in zip(positions, batch.frames, strict=False)
    }
    assert found == {n: len(each.features) for n, each in enumerate(said)}


def test_no_utterance_short_enough_is_an_error() -> None:
    message = "expected utterances of at most 8 frames, got none in 1; raise --max-seconds"
    with pytest.raises(ValueError, match=re.escape(message)):
        Batches([_utterance("a", 9)], 4, (8,), seed=0)
