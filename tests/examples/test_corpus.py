# SPDX-License-Identifier: Apache-2.0
"""The sentence pairs of each source, and their split into training and held-out ones."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from package_files import make_catalog

from examples.common.download import DownloadError
from examples.common.near_copies import find
from examples.translate import corpus, sources
from examples.translate.corpus import Corpus, load, read_tsv, split
from examples.translate.sources import Pair, clean

HANZI = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"


def distinct(count: int) -> list[Pair]:
    """Sentences that share no words, so that none is a near copy of another."""
    letters = "bcdfghjklm"
    return [
        Pair(
            " ".join(
                word + "".join(letters[int(digit)] for digit in str(i))
                for word in ("a", "e", "i", "o")
            ),
            HANZI[i % 24] + HANZI[i // 24 % 24] + HANZI[i // 576] + "。",
        )
        for i in range(count)
    ]


def everything(found: Corpus) -> list[Pair]:
    return [*found.train, *found.valid, *found.test]


# Cleaning


@pytest.mark.parametrize(
    ("english", "chinese", "expected"),
    [
        ("You hum  a\xad tune.", " 你吹了 一支曲子。", [("You hum a tune.", "你吹了一支曲子。")]),
        # one line, one sentence each
        (
            "The sun rises.\nAll the birds sing.",
            "太阳升起。\n所有的鸟儿都在唱歌。",
            [("The sun rises.", "太阳升起。"), ("All the birds sing.", "所有的鸟儿都在唱歌。")],
        ),
        (
            'He said "go home."  Nobody moved an inch!',
            "他说“回家吧。”没有人动一下！",
            [('He said "go home."', "他说“回家吧。”"), ("Nobody moved an inch!", "没有人动一下！")],
        ),
        # an initial ends no sentence, and one Chinese sentence for two stays with both
        ("It is by Philip K. Dick.", "这是菲利普的作品。", None),
        ("The pot is hot. Leave it.", "锅很烫，别碰它。", None),
        # two for two, but by their lengths not the same two
        (
            "Stop it now. The old man at the gate says that nobody may come in here today.",
            "门口的老人让你马上住手，他说今天谁也不可以从这里进去。明天再来吧。",
            None,
        ),
        ("_Open the file", "打开文件(_O)", [("Open the file", "打开文件")]),
        ("Re~name the file", "重命名文件 (~N)...", [("Rename the file", "重命名文件...")]),
        ("He'll be back.", "他会回来的。（注：《终结者》）", [("He'll be back.", "他会回来的。")]),
        ("Click on Start.", "点「开始」, 再等等。", [("Click on Start.", "点“开始”，再等等。")]),
    ],
)  # fmt: skip
def test_what_becomes_of_a_pair(
    english: str, chinese: str, expected: list[tuple[str, str]] | None
) -> None:
    if expected is None:
        expected = [(english, chinese)]
    assert list(clean([Pair(english, chinese)])) == expected


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Convert %1 to contour", "将 %1 转换为轮廓"),
        ("You have %d apples left", "你还剩 %d 个苹果"),
        ("Save changes to $(DOC) now?", "现在保存对文档的更改吗？"),
        ("<b>bold</b> words are here", "这里有一些粗体的字"),
        ("Read https://a.example for more", "更多内容请阅读这个网站"),
        ("Calls the print() function now", "现在调用打印的函数"),
        ("My ███ is a secret", "我的██是一个秘密"),
        ("Value in {braces} goes here", "括号中的数值放在这里"),
        ("Use the Basic IDE now", "使用 Basic IDE"),  # hardly any Chinese
        ("Type 中 with the keyboard", "请用键盘输入这个字"),  # Chinese in the English
        ("Two words", "两个单词"),  # too short
        ("many " * 51, "许多" * 51),  # too long
        ("Strike the earth!", "劳动人民一声吼，地球也要抖三抖！"),  # by its length no translation
        ("See the garden behind the door.", "你可以透過它看到門後面的花園。"),  # traditional
        ("Click the Back button.", "请点击后退”按钮。"),  # a quotation mark too few
        ("One line here.\nAnother line here.", "两行英文只有一行中文。"),
    ],
)
def test_what_is_left_out(english: str, chinese: str) -> None:
    assert list(clean([Pair(english, chinese)])) == []


# The packages

GAME = {
    "You blow the whistle.": "你吹响哨子。",
    "monster\x04The wolf howls loudly.": "狼大声嚎叫。",
    "Two words": "两个单词",
}
OFFICE = {"You blow the whistle.": "您吹哨子。", "_Close the window": "关闭窗口(_C)"}
PAGE = (
    '<h1 id="hd_1">{0}</h1><p id="par_2" class="x">{1} <span class="emph">{2}</span> '
    '<span class="switchinline"><span hidden="true" id="MAC1" class="MAC">'
    '<span class="menu">Command</span></span>'
    '<span hidden="true" id="default1">{3}</span></span> {4}</p><p id="{5}">{0}</p>'
)


def package_files(package: str, predicate: Callable[[str], bool], cache: Path) -> dict[str, bytes]:
    english = PAGE.format("About &amp; the keys", "Hold", "down", "Ctrl", "all day.", "en").encode()
    chinese = PAGE.format("关于各个按键", "整天", "按住", "控制", "键。", "zh").encode()
    files = {
        "cataclysm-dda-data": {
            "usr/share/locale/zh_CN/LC_MESSAGES/cataclysm-dda.mo": make_catalog(GAME),
            "usr/share/locale/fr/LC_MESSAGES/cataclysm-dda.mo": b"not read",
        },
        "libreoffice-l10n-zh-cn": {"usr/lib/x/zh_CN/LC_MESSAGES/a.mo": make_catalog(OFFICE)},
        "libreoffice-help-en-us": {
            "usr/share/libreoffice/help/en-US/text/a/keys.html": english,
            "usr/share/libreoffice/help/en-US/text/a/untranslated.html": english,
        },
        "libreoffice-help-zh-cn": {"usr/share/libreoffice/help/zh-CN/text/a/keys.html": chinese},
    }
    return {path: content for path, content in files[package].items() if predicate(path)}


@pytest.fixture
def small_sources(monkeypatch: pytest.MonkeyPatch) -> list[sources.Source]:
    monkeypatch.setattr(sources, "debian_files", package_files)
    return [
        source._replace(sentences=size)
        for source, size in zip(sources.SOURCES, (2, 2, 2), strict=True)
    ]


def test_pairs_come_out_of_the_packages(small_sources, tmp_path: Path, capsys) -> None:
    assert sorted(sources.read(small_sources, tmp_path)) == [
        ("About & the keys", "关于各个按键"),
        ("Close the window", "关闭窗口"),
        ("Hold down Ctrl all day.", "整天按住控制键。"),
        ("The wolf howls loudly.", "狼大声嚎叫。"),
        ("You blow the whistle.", "你吹响哨子。"),  # the game's, which comes first
    ]
    said = capsys.readouterr().out
    assert (
        "Cataclysm: Dark Days Ahead (cataclysm-dda-data): 2 sentence pairs, licence CC-BY-SA-3.0"
        in said
    )
    assert "licence MPL-2.0" in said
    assert said.count("not the version that published figures are from") == 3


def test_the_known_version_is_recognised(small_sources, tmp_path: Path, capsys) -> None:
    game = small_sources[0]
    raw = sorted(game.read(tmp_path))
    assert raw[0] == ("The wolf howls loudly.", "狼大声嚎叫。")
    known = game._replace(digest=sources._digest(reversed(raw)))
    sources.read([known], tmp_path)
    assert "not the version" not in capsys.readouterr().out


def test_a_package_with_far_too_little_is_an_error(small_sources, tmp_path: Path) -> None:
    message = r"Cataclysm.*expected about 3 sentence pairs, got 2: the package no longer looks"
    with pytest.raises(DownloadError, match=message):
        sources.read([small_sources[0]._replace(sentences=3)], tmp_path)


def test_the_corpus_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    pairs = distinct(83)
    source = sources.Source("Some game", "CC0", len(pairs), "?", lambda cache: iter(pairs))
    monkeypatch.setattr(sources, "SOURCES", (source,))
    monkeypatch.setattr(sources, "clean", lambda raw: raw)
    first = load(None, tmp_path)
    assert "licence CC0" in capsys.readouterr().out
    monkeypatch.setattr(sources, "SOURCES", ())
    assert load(None, tmp_path) == first == split(pairs)
    assert capsys.readouterr().out == ""
    assert sorted(everything(first)) == sorted(pairs)


def test_without_packages_the_message_names_the_other_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DownloadError, match=r"apt-get is not on PATH(.|\n)*--data pairs\.tsv"):
        load(None, tmp_path / "cache")


# A file of pairs


def test_a_file_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(
        "good  day\t你好\r\n\n \nthree words here\t三个字\ngood day\t您好\n", encoding="utf-8"
    )
    assert read_tsv(path) == [("good day", "你好"), ("three words here", "三个字")]


def test_a_file_is_loaded_and_split(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    pairs = distinct(60)
    path.write_text("".join(f"{pair.english}\t{pair.chinese}\n" for pair in pairs), "utf-8")
    assert load(path, tmp_path / "unused") == split(pairs)
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("only english", r"line 2: expected english<TAB>chinese, got 1 field.*'only english'"),
        ("one\ttwo\tthree", r"line 2: expected english<TAB>chinese, got 3 field.*mend or delete"),
        ("\t你好", r"line 2: expected english<TAB>chinese, got 2 field\(s\), 1 of them empty"),
        ("hello\t ", r"line 2: expected english<TAB>chinese, got 2 field\(s\), 1 of them empty"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(f"good day\t你好\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"pairs\.tsv, {message}"):
        read_tsv(path)


def test_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes("good day\t你好\n".encode("gb2312"))
    with pytest.raises(ValueError, match=r"pairs\.tsv: expected UTF-8.*save the file as UTF-8"):
        read_tsv(path)


# The split


def test_sides_have_their_sizes_and_everything() -> None:
    pairs = distinct(400)
    found = split(pairs)
    assert (len(found.train), len(found.valid), len(found.test)) == (360, 20, 20)
    assert sorted(everything(found)) == sorted(pairs)


def test_no_held_out_sentence_has_a_near_copy_elsewhere() -> None:
    pairs = distinct(200)
    copies = [Pair(f"{pair.english} {i}", pair.chinese[::-1]) for i, pair in enumerate(pairs[::3])]
    longer = [Pair(f"{pair.english} u", pair.chinese * 2) for pair in pairs[::4]]
    same_chinese = [Pair(f"{i}u {i}v quite", pairs[5 * i].chinese) for i in range(40)]
    found = split([*pairs, *copies, *longer, *same_chinese])
    assert all(len(side) >= 10 for side in (found.train, found.valid, found.test))
    sides = {"train": found.train, "valid": found.valid, "test": found.test}
    where = {pair: name for name, side in sides.items() for pair in side}
    ordered = list(where)
    links = list(find([pair.english for pair in ordered]))
    assert len(links) >= len(copies) + len(longer)
    assert all(where[ordered[one]] == where[ordered[other]] for one, other in links)
    of_chinese = {pair.chinese: where[pair] for pair in ordered}
    assert all(of_chinese[pair.chinese] == where[pair] for pair in ordered)


def test_a_large_group_of_near_copies_stays_in_training() -> None:
    rings = [Pair(f"a shiny golden ring {i}", f"闪亮的金戒指{i}") for i in range(11)]
    found = split([*distinct(100), *rings])
    assert set(rings) <= set(found.train)


def test_the_split_depends_on_the_sentences_alone() -> None:
    pairs = distinct(300)
    found = split(pairs)
    assert split(pairs[::-1]) == found
    fewer = split(pairs[:-15])
    assert len(set(fewer.test) & set(found.test)) >= 12
    assert len(set(fewer.test) & set(found.train)) == 0


def test_the_split_is_the_same_in_every_process() -> None:
    program = (
        "import hashlib; from examples.translate.corpus import Pair, split\n"
        f"found = split([Pair(*pair) for pair in {[tuple(pair) for pair in distinct(70)]!r}])\n"
        "print(hashlib.sha256(repr(found).encode()).hexdigest())"
    )
    here = hashlib.sha256(repr(split(distinct(70))).encode()).hexdigest()
    for seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(corpus.__file__).parents[2],
            env={"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == here


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        distinct(2),
        [Pair(f"a shiny golden ring {i}", f"闪亮的金戒指{i}") for i in range(40)],
    ],
)
def test_too_few_different_sentences(pairs: list[Pair]) -> None:
    with pytest.raises(ValueError, match=r"\d+ texts in \d groups.*too few to split"):
        split(pairs)
