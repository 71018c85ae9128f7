# SPDX-License-Identifier: Apache-2.0
"""English-Chinese sentence pairs, split so that no held-out sentence is nearly one in training."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.common import held_out, near_copies
from examples.common.download import DownloadError, cached
from examples.translate import sources
from examples.translate.sources import Pair

HELD_OUT = 1000


@dataclass(frozen=True)
class Corpus:
    train: tuple[Pair, ...]
    valid: tuple[Pair, ...]
    test: tuple[Pair, ...]


def load(data: Path | None, cache: Path) -> Corpus:
    """The pairs of a file of `english<TAB>chinese` lines or, without one, of the Debian packages.

    Raises ValueError for a file that can't be used and DownloadError where packages can't be had.
    """
    if data is not None:
        return split(read_tsv(data))
    try:
        content = cached(
            cache, f"english-chinese-{_recipe()}.tsv", lambda folder: _build(folder, cache)
        )
    except DownloadError as error:
        raise DownloadError(
            f"{error}\nTo train on sentences of your own instead, give a file of "
            "english<TAB>chinese lines: --data pairs.tsv"
        ) from error
    sides: dict[str, list[Pair]] = defaultdict(list)
    for line in content.decode().splitlines():
        side, english, chinese = line.split("\t")
        sides[side].append(Pair(english, chinese))
    return Corpus(tuple(sides["train"]), tuple(sides["valid"]), tuple(sides["test"]))


def read_tsv(path: Path) -> list[Pair]:
    """The pairs of a UTF-8 file of `english<TAB>chinese` lines; empty lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8, got {error}: save the file as UTF-8") from error
    chinese: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        fields = [" ".join(field.split()) for field in line.split("\t")]
        if fields == [""]:
            continue
        if len(fields) != 2 or not all(fields):
            raise ValueError(
                f"{path}, line {number}: expected english<TAB>chinese, got {len(fields)} field(s), "
                f"{fields.count('')} of them empty: {line.strip()[:60]!r}; mend or delete the line"
            )
        chinese.setdefault(*fields)
    return [Pair(*both) for both in chinese.items()]


def split(pairs: Sequence[Pair]) -> Corpus:
    """Train, valid and test; near copies and sentences with one translation are on one side.

    About HELD_OUT pairs go to valid and to test, or a twentieth of a small corpus. Of 2000 random
    ones of the Debian sentences about 650 have a near copy among the others; of those held out
    here none has.
    """
    pairs = sorted(pairs)
    first: dict[str, int] = {}
    same_chinese = [(first.setdefault(pair.chinese, i), i) for i, pair in enumerate(pairs)]
    wanted = max(1, min(HELD_OUT, len(pairs) // 20))
    sides = held_out.split([pair.english for pair in pairs], wanted, same_chinese)
    return Corpus(*(tuple(pairs[position] for position in side) for side in sides))


def _build(folder: Path, cache: Path) -> Path:
    pairs = sources.read(sources.SOURCES, cache)
    print(f"Grouping near copies among {len(pairs)} sentence pairs", flush=True)
    corpus = split(pairs)
    path = folder / "corpus.tsv"
    with path.open("w", encoding="utf-8") as file:
        for side in ("train", "valid", "test"):
            file.writelines(
                f"{side}\t{english}\t{chinese}\n" for english, chinese in getattr(corpus, side)
            )
    return path


def _recipe() -> str:
    """Changes whenever a program that shapes the corpus does."""
    programs = (
        Path(module)
        for module in (__file__, sources.__file__, held_out.__file__, near_copies.__file__)
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in programs)).hexdigest()[:8]
