# SPDX-License-Identifier: Apache-2.0
"""The book's links into the repository, which work on GitHub and in the built pages alike.

A page links to any file of the repository by its relative path. Here a picture becomes part of the
book, `CONTRIBUTING.md` and `CHANGELOG.md` become pages, and any other file an address below
`repo_url`. A path to nothing is a warning, which `make docs` makes an error.
"""

from __future__ import annotations

import logging
import os.path
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PICTURES = "benchmarks/results"

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_log = logging.getLogger("mkdocs.hooks.repository")


def on_files(files: Files, *, config: Any) -> Files:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text()
        files.append(File.generated(config, page, content=text))
    for path in sorted((ROOT / PICTURES).glob("*.png")):
        files.append(File.generated(config, f"pictures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    generated = {made: source for source, made in PAGES.items()}
    uri = page.file.src_uri
    source = generated.get(uri, f"docs/{uri}")
    return with_links(markdown, source, config.repo_url)


def with_links(markdown: str, source: str, repository: str) -> str:
    """The text of a file of the repository, with its links as the book needs them."""

    def rewritten(match: re.Match[str]) -> str:
        path = os.path.normpath(Path(source).parent / match[1])
        fragment = match[2] or ""
        if not (ROOT / path).exists():
            _log.warning("%s: links to %s, which is not in the repository", source, match[1])
        if path in PAGES:
            return PAGES[path] + fragment
        if path.startswith("docs/"):
            return path.removeprefix("docs/") + fragment
        if path.startswith(PICTURES) and path.endswith(".png"):
            return f"pictures/{Path(path).name}"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{repository}/{kind}/main/{path}{fragment}"

    parts, end = [], 0
    for code in _CODE.finditer(markdown):
        parts += [_LINK.sub(rewritten, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join((*parts, _LINK.sub(rewritten, markdown[end:])))
