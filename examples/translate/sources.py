# SPDX-License-Identifier: Apache-2.0
"""English-Chinese sentences out of four Debian packages: a game's and an office suite's.

Quotation marks, punctuation and spaces are made uniform; menu accelerators and translators' notes
go. Left out is what isn't language (placeholders, markup, program text), what isn't simplified
Chinese, and what by its length is no translation.
"""

from __future__ import annotations

import gettext
import hashlib
import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from examples.common.download import DownloadError, debian_files


class Pair(NamedTuple):
    """One sentence in both languages."""

    english: str
    chinese: str


class Source(NamedTuple):
    """Where pairs come from: `read` gives the raw ones.

    `sentences` and `digest` are what Debian 12 gives; a newer version may move both a little.
    """

    title: str
    licence: str
    sentences: int
    digest: str
    read: Callable[[Path], Iterator[Pair]]


def read(sources: Sequence[Source], cache: Path) -> list[Pair]:
    """The clean sentence pairs of all sources, one Chinese for each English sentence.

    Raises DownloadError where a source gives far fewer than it should.
    """
    chinese: dict[str, str] = {}
    for source in sources:
        raw = list(source.read(cache))
        found = dict(clean(raw))
        print(f"{source.title}: {len(found)} sentence pairs, licence {source.licence}", flush=True)
        if len(found) < 0.8 * source.sentences:
            raise DownloadError(
                f"{source.title}: expected about {source.sentences} sentence pairs, got "
                f"{len(found)}: the package no longer looks as this program knows it"
            )
        if _digest(raw) != source.digest:
            print("  not the version that published figures are from: yours may differ a little")
        chinese = found | chinese
    return [Pair(*both) for both in chinese.items()]


def _digest(pairs: Iterable[Pair]) -> str:
    """Of the set of raw pairs: the order of files and messages doesn't count."""
    digest = hashlib.sha256()
    for pair in sorted(pairs):
        digest.update("\0".join((*pair, "")).encode())
    return digest.hexdigest()[:16]


def clean(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Sentence pairs out of raw ones: aligned by line, then by sentence where both have as many."""
    for english, chinese in pairs:
        lines = _lines(english), _lines(chinese)
        if len(lines[0]) == len(lines[1]):
            for line in zip(*lines, strict=True):
                yield from filter(_is_sentence, _split(_tidy(Pair(*line))))


def _messages(package: str, cache: Path) -> Iterator[Pair]:
    def wanted(path: str) -> bool:
        return "/zh_CN/" in path and path.endswith(".mo")

    for _, content in sorted(debian_files(package, wanted, cache).items()):
        catalog: dict[str | tuple[str, int], str]
        # gettext has no public way to list a catalogue's messages.
        catalog = vars(gettext.GNUTranslations(io.BytesIO(content)))["_catalog"]
        for key, chinese in catalog.items():
            english, form = key if isinstance(key, tuple) else (key, 0)
            if english and chinese and form == 0:
                yield Pair(english.split("\x04")[-1], chinese)  # \x04 ends the message's context


def _help(cache: Path) -> Iterator[Pair]:
    english, chinese = (
        {
            path.split("/text/")[1]: content.decode("utf-8", "replace")
            for path, content in debian_files(package, _is_help_page, cache).items()
        }
        for package in ("libreoffice-help-en-us", "libreoffice-help-zh-cn")
    )
    for page in sorted(english.keys() & chinese.keys()):
        translated = _paragraphs(chinese[page])
        for identifier, text in _paragraphs(english[page]).items():
            if text and translated.get(identifier):
                yield Pair(text, translated[identifier])


def _is_help_page(path: str) -> bool:
    return "/text/" in path and path.endswith(".html")


def _paragraphs(page: str) -> dict[str, str]:
    """Texts of `<p id>` and `<h1 id>`; both languages share the ids."""
    return {identifier: _plain(body) for _, identifier, body in _PARAGRAPH.findall(page)}


def _plain(body: str) -> str:
    """Text that depends on the system is there once for each, hidden: the default stays."""
    spans: list[bool] = []  # of the open spans: is it for another system?
    text = []
    for tag, words in _TAG_OR_TEXT.findall(body):
        if tag.startswith("<span"):
            spans.append("hidden=" in tag and 'id="default' not in tag)
        elif tag == "</span>" and spans:
            spans.pop()
        elif words and not any(spans):
            text.append(words)
    return " ".join(html.unescape("".join(text)).split())


_PARAGRAPH = re.compile(r'<(p|h\d)\b[^>]*\bid="([\w-]+)"[^>]*>(.*?)</\1>', re.DOTALL)
_TAG_OR_TEXT = re.compile(r"(<[^>]*>)|([^<]+)")
_ACCELERATOR = re.compile(r"\s*\([_~]\w\)")  # of a menu entry: "打开(_O)" for "_Open"
_NOTE = re.compile(r"（注：[^）]*）$")
_HALF_WIDTH = re.compile(r"(?<=[\u4e00-\u9fff”）])[,:;?!]")
_FULL_WIDTH = dict(zip(",:;?!", "，：；？！", strict=True))
_NEEDLESS_SPACE = re.compile(
    r"(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])|(?<=[，：；？！。]) | (?=[，：；？！。])"
)
_HANZI = re.compile(r"[\u4e00-\u9fff]")
_WORD = re.compile(r"[A-Za-z][A-Za-z']*")
_TOKEN = re.compile(r"[A-Za-z0-9]+")
# Format specifiers, placeholders, tags, addresses, program text, censor bars, broken encodings.
_RUBBISH = re.compile(
    r"%[-\d.]*[a-zA-Z]|%\d|%%|\\n|https?:|www\.|[$<>{}\\^|=_~█#@\ufffd\x00-\x1f\x7f-\x9f]|\w\(\)|::"
)
# A sentence ends before a space and a capital, not after an initial ("Philip K. Dick").
_ENGLISH_END = re.compile(r"""(?<=[a-z0-9)'"”…][.!?…])(["')\]”]*)\s+(?=["'(“]?[A-Z0-9])""")
_CHINESE_END = re.compile(r"""([。！？…]+[”’」』）)"']*)\s*(?=.)""")


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _tidy(pair: Pair) -> Pair:
    english, chinese = (" ".join(text.replace("\xad", "").split()) for text in pair)
    chinese, accelerators = _ACCELERATOR.subn("", chinese)
    if accelerators:
        english = re.sub("[_~]", "", english, count=1)
    chinese = _NOTE.sub("", chinese).replace("「", "“").replace("」", "”")
    chinese = _HALF_WIDTH.sub(lambda mark: _FULL_WIDTH[mark[0]], chinese)
    return Pair(english, _NEEDLESS_SPACE.sub("", chinese))


def _split(pair: Pair) -> list[Pair]:
    english = _ENGLISH_END.sub(r"\1\n", pair.english).split("\n")
    chinese = _CHINESE_END.sub(r"\1\n", pair.chinese).split("\n")
    if len(english) != len(chinese):
        return [pair]
    pieces = [Pair(*both) for both in zip(english, chinese, strict=True)]
    # Two sentences for two may still be one for the first one and a half; lengths show it.
    whole = _ratio(pair)
    aligned = all(whole / 2 <= _ratio(piece) <= whole * 2 for piece in pieces)
    return pieces if aligned else [pair]


def _ratio(pair: Pair) -> float:
    return len(_HANZI.findall(pair.chinese)) / max(1, len(_WORD.findall(pair.english)))


def _is_sentence(pair: Pair) -> bool:
    words, hanzi = len(_WORD.findall(pair.english)), len(_HANZI.findall(pair.chinese))
    return (
        3 <= words <= 50
        and 0.5 <= _ratio(pair) <= 3.5
        and hanzi >= 2 * len(_TOKEN.findall(pair.chinese))
        and not _RUBBISH.search(pair.english + pair.chinese)
        and not _HANZI.search(pair.english)
        and _balanced(pair.english)
        and _balanced(pair.chinese)
        and _is_simplified(pair.chinese)
    )


def _balanced(text: str) -> bool:
    count = text.count
    return count("“") == count("”") and count('"') % 2 == 0 and count("（") == count("）")


def _is_simplified(text: str) -> bool:
    """GB 2312 holds the simplified characters: what it lacks is traditional, garbled or rare."""
    try:
        "".join(_HANZI.findall(text)).encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


SOURCES = (
    Source(
        "Cataclysm: Dark Days Ahead (cataclysm-dda-data)",
        "CC-BY-SA-3.0",
        37_375,
        "4bfcbcc769392f05",
        lambda cache: _messages("cataclysm-dda-data", cache),
    ),
    Source(
        "LibreOffice, user interface (libreoffice-l10n-zh-cn)",
        "MPL-2.0",
        9_872,
        "51923aeccd60841a",
        lambda cache: _messages("libreoffice-l10n-zh-cn", cache),
    ),
    Source(
        "LibreOffice, help (libreoffice-help-en-us, libreoffice-help-zh-cn)",
        "MPL-2.0",
        23_221,
        "949c42e94eaed034",
        _help,
    ),
)
