"""English-Chinese sentence pairs out of four Debian packages: a game's and an office suite's translations."""

from __future__ import annotations

import gettext
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html.parser import HTMLParser
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
                f"{source.title}: expected about {source.sentences} sentence pairs, got {len(found)}: "
                "the package no longer looks as this program knows it"
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
    """Sentence pairs out of raw ones: aligned by line, then by sentence where both sides have as many."""
    for english, chinese in pairs:
        english_lines, chinese_lines = _lines(english), _lines(chinese)
        if len(english_lines) != len(chinese_lines):
            continue
        for lines in zip(english_lines, chinese_lines, strict=True):
            pair = Pair(_tidy_english(lines[0]), _tidy_chinese(lines[1]))
            yield from filter(_is_sentence, _split(pair))


def _messages(package: str, cache: Path) -> Iterator[Pair]:
    def wanted(path: str) -> bool:
        return "/zh_CN/" in path and path.endswith(".mo")

    for _, content in sorted(debian_files(package, wanted, cache).items()):
        catalog: dict[str | tuple[str, int], str]
        catalog = gettext.GNUTranslations(io.BytesIO(content))._catalog  # type: ignore[attr-defined]
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
            if identifier in translated:
                yield Pair(text, translated[identifier])


def _is_help_page(path: str) -> bool:
    return "/text/" in path and path.endswith(".html")


def _paragraphs(page: str) -> dict[str, str]:
    parser = _HelpPage()
    parser.feed(page)
    return {identifier: " ".join(text.split()) for identifier, text in parser.paragraphs.items()}


class _HelpPage(HTMLParser):
    """Texts of `<p id>` and `<h1 id>`, which both languages share.

    A text that depends on the system is there once for each, hidden (`Command` `Ctrl`); the default is taken.
    """

    _TEXT = ("p", "h1", "h2", "h3", "h4", "h5", "h6")

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: dict[str, str] = {}
        self._current: str | None = None
        self._spans: list[bool] = []  # of the open spans: is it for another system?

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        identifier = attributes.get("id") or ""
        if tag in self._TEXT:
            self._current, self._spans = identifier or None, []
            if identifier:
                self.paragraphs[identifier] = ""
        elif tag == "span":
            self._spans.append("hidden" in attributes and not identifier.startswith("default"))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._TEXT:
            self._current = None
        elif tag == "span" and self._spans:
            self._spans.pop()

    def handle_data(self, data: str) -> None:
        if self._current is not None and not any(self._spans):
            self.paragraphs[self._current] += data


_HANZI = re.compile(r"[\u4e00-\u9fff]")
_WORD = re.compile(r"[A-Za-z][A-Za-z']*")
_TOKEN = re.compile(r"[A-Za-z0-9]+")
# Format specifiers, placeholders, tags, addresses, program text, censor bars, wreckage of encodings.
_RUBBISH = re.compile(
    r"%[-\d.]*[a-zA-Z]|%\d|%%|\\n|https?:|www\.|[$<>{}\\^|=_~█#@\ufffd\x00-\x1f\x7f-\x9f]|\w\(\)|::"
)
# A sentence ends before a space and a capital, not after an initial ("Philip K. Dick").
_ENGLISH_END = re.compile(r"""(?<=[a-z0-9)'"”…][.!?…])(["')\]”]*)\s+(?=["'(“]?[A-Z0-9])""")
_CHINESE_END = re.compile(r"""([。！？…]+[”’」』）)"']*)\s*(?=.)""")


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _tidy_english(text: str) -> str:
    text = re.sub(r"(?<![A-Za-z0-9] )[_~](?=\w)|(?<=[A-Za-z])[_~](?=[A-Za-z])", "", text)
    return " ".join(text.replace("\xad", "").split())


def _tidy_chinese(text: str) -> str:
    text = re.sub(r"\s*\([_~]\w\)", "", text)  # the accelerator key of a menu entry
    text = re.sub(r"（注：[^）]*）$", "", text.strip())  # a translator's note
    text = text.replace("「", "“").replace("」", "”").replace("\xad", "")
    text = " ".join(text.split())
    return re.sub(r"(?<=[\u4e00-\u9fff，。]) (?=[\u4e00-\u9fff])", "", text)


def _split(pair: Pair) -> list[Pair]:
    english = _ENGLISH_END.sub(r"\1\n", pair.english).split("\n")
    chinese = _CHINESE_END.sub(r"\1\n", pair.chinese).split("\n")
    if len(english) != len(chinese):
        return [pair]
    return [Pair(*both) for both in zip(english, chinese, strict=True)]


def _is_sentence(pair: Pair) -> bool:
    words, hanzi = len(_WORD.findall(pair.english)), len(_HANZI.findall(pair.chinese))
    return (
        3 <= words <= 50
        and 0.5 <= hanzi / words <= 3.5
        and hanzi >= 2 * len(_TOKEN.findall(pair.chinese))
        and not _RUBBISH.search(pair.english + pair.chinese)
        and not _HANZI.search(pair.english)
        and _is_simplified(pair.chinese)
    )


def _is_simplified(text: str) -> bool:
    """GB 2312 is the set of simplified characters in common use: what it lacks is traditional or garbled."""
    try:
        "".join(_HANZI.findall(text)).encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


SOURCES = (
    Source(
        "Cataclysm: Dark Days Ahead (cataclysm-dda-data)",
        "CC-BY-SA-3.0",
        37_856,
        "4bfcbcc769392f05",
        lambda cache: _messages("cataclysm-dda-data", cache),
    ),
    Source(
        "LibreOffice, user interface (libreoffice-l10n-zh-cn)",
        "MPL-2.0",
        9_731,
        "51923aeccd60841a",
        lambda cache: _messages("libreoffice-l10n-zh-cn", cache),
    ),
    Source(
        "LibreOffice, help (libreoffice-help-en-us, libreoffice-help-zh-cn)",
        "MPL-2.0",
        23_473,
        "82149e5d6d2193bc",
        _help,
    ),
)
