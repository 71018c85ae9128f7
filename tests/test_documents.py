# SPDX-License-Identifier: Apache-2.0
"""README and book: their Python runs, their links lead somewhere, their pictures are their files'.

A page's Python blocks run one after the other in one namespace, as a reader would paste them. Two
comments of Markdown say otherwise: `<!-- not run: why -->` before a block, and `<!-- run` around
lines that readers need not see.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks import pictures
from jax_persistent import notices

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, *map(ROOT.joinpath, ("CONTRIBUTING.md", "CHANGELOG.md", "cuda/README.md"))]
TEXTS += [ROOT / "benchmarks" / "README.md", ROOT / "benchmarks" / "results" / "README.md"]

BLOCK = re.compile(
    r"(?P<not_run><!-- not run: \S[^>]*-->\n\n)?^```python\n(?P<shown>.*?)^```$"
    r"|^<!-- run\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
CODE = re.compile(r"^```.*?^```$|^    .*?$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """The lines before each block that is run, and its text."""
    for match in BLOCK.finditer(text):
        if not match["not_run"]:
            group = "shown" if match["shown"] is not None else "hidden"
            yield text.count("\n", 0, match.start(group)), match[group]


WITH_PYTHON = [page for page in PAGES if any(blocks(page.read_text()))]


@pytest.fixture
def as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """jax as it comes, without this suite's strictness, and Keras on JAX."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(notices, "_SAID", set())  # what a page is told is news to other tests
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    if "jax_persistent.keras" in sys.modules:
        sys.modules["jax_persistent.keras"].uninstall()


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, as_users_have_it: None) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    ran = 0
    for line, block in blocks(page.read_text()):
        # Lines keep their numbers, so that an error names the page's.
        exec(compile("\n" * line + block, str(page), "exec"), names)
        ran += 1
    assert ran > 0


def test_a_block_is_left_out_only_with_a_reason() -> None:
    a, b, c = "```python\na\n```\n\n", "```python\nb\n```\n\n", "<!-- run\nc\n-->\n"
    assert list(blocks(f"{a}<!-- not run: no b here -->\n\n{b}{c}")) == [(1, "a\n"), (11, "c\n")]
    assert len(list(blocks(f"{a}<!-- not run: -->\n\n{b}{c}"))) == 3


def links(page: Path) -> Iterator[str]:
    for match in LINK.finditer(CODE.sub("", page.read_text())):
        yield match[1] or match[2]


def anchors(page: Path) -> set[str]:
    """GitHub's names of a page's headings, and the book's."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def in_repository(link: str, page: Path) -> str | None:
    """A link's path from the root, with its fragment; None if it leads elsewhere."""
    if re.match(r"\w+:", link):
        return None
    if link.startswith("#"):
        return f"{page.relative_to(ROOT)}{link}"
    return os.path.relpath(page.parent / link, ROOT)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, fragment = (in_repository(link, page) or "README.md").partition("#")
        target = ROOT / path
        if not target.exists():
            broken.append(link)
        elif fragment and target.suffix == ".md" and fragment not in anchors(target):
            broken.append(f"{link} (no such heading)")
    assert not broken


def loaded(path: str) -> Any:
    """A module that is in no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_book_finds_what_a_page_links_to(caplog: pytest.LogCaptureFixture) -> None:
    hook = loaded("docs/hooks/repository.py")
    page = (
        "[a](scan.md#see) [b](../cuda/plan.h) [c](../CONTRIBUTING.md#style) [d](../tests)\n"
        "![e](../benchmarks/results/policy-pole-returns.png) [f](https://jax.dev) [g](#here)\n"
        "```\n[h](none)\n```\n"
    )
    at = "https://github.com/o/r"
    assert hook.with_links(page, "docs/page.md", at) == (
        f"[a](scan.md#see) [b]({at}/blob/main/cuda/plan.h) [c](contributing.md#style) "
        f"[d]({at}/tree/main/tests)\n"
        "![e](pictures/policy-pole-returns.png) [f](https://jax.dev) [g](#here)\n"
        "```\n[h](none)\n```\n"
    )
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="mkdocs.hooks"):
        hook.with_links("[a](../none.h)", "docs/page.md", at)
    assert "docs/page.md: links to ../none.h, which is not in the repository" in caplog.text


def test_readme_works_on_the_index() -> None:
    """There a relative link leads nowhere."""
    links_to = loaded(".ci/absolute_links.py")
    text = '[a](docs/a.md#b) ![c](d.svg) <img src="e.png"> [f](https://jax.dev)'
    assert links_to.absolute(text, "https://github.com/o/r", "v1") == (
        "[a](https://github.com/o/r/blob/v1/docs/a.md#b) "
        "![c](https://raw.githubusercontent.com/o/r/v1/d.svg) "
        '<img src="https://raw.githubusercontent.com/o/r/v1/e.png"> [f](https://jax.dev)'
    )
    readme = (ROOT / "README.md").read_text()
    found = LINK.findall(links_to.absolute(readme, "https://github.com/o/r", "v1"))
    assert found
    assert [link for link in found if not "".join(link).startswith("http")] == []
    assert len(readme.splitlines()) <= 120


def test_the_index_knows_the_repository() -> None:
    of = loaded(".ci/absolute_links.py")
    project = (ROOT / "pyproject.toml").read_text()
    urls = tomllib.loads(of.with_urls(project, "https://github.com/o/r", "v1"))["project"]["urls"]
    assert urls["Source"] == "https://github.com/o/r"
    assert urls["Changelog"] == "https://github.com/o/r/blob/v1/CHANGELOG.md"
    assert urls.keys() > tomllib.loads(project)["project"]["urls"].keys()


@pytest.mark.parametrize("name", pictures.DRAWN)
def test_a_picture_is_that_of_its_file(name: str) -> None:
    drawn = str(pictures.DRAWN[name]())
    assert (pictures.PICTURES / name).read_text() == drawn, "run python -m benchmarks.pictures"
