# SPDX-License-Identifier: Apache-2.0
"""What the index needs of the repository's address: a release does it before it builds.

The README's relative links become absolute, and `project.urls` gets its pages.

python .ci/absolute_links.py https://github.com/OWNER/NAME v0.1.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, PROJECT = ROOT / "README.md", ROOT / "pyproject.toml"
_PAGES = {
    "Source": "",
    "Documentation": "/blob/{ref}/docs/index.md",
    "Issues": "/issues",
    "Changelog": "/blob/{ref}/CHANGELOG.md",
}
_PICTURE = re.compile(r"(?<=!\[)([^\]]*\]\()(?!\w+:)|(?<= src=\")()(?!\w+:)")
_LINK = re.compile(r"(?<!!)(\[[^\]]*\]\()(?!\w+:)")


def absolute(text: str, address: str, ref: str) -> str:
    """The text with addresses of pictures and of files at a tag of a repository on GitHub."""
    raw = address.replace("://github.com/", "://raw.githubusercontent.com/")
    text = _PICTURE.sub(lambda found: f"{found[1] or ''}{raw}/{ref}/", text)
    return _LINK.sub(lambda found: f"{found[1]}{address}/blob/{ref}/", text)


def with_urls(project: str, address: str, ref: str) -> str:
    """pyproject.toml with the repository's pages in `project.urls`."""
    head = "[project.urls]\n"
    pages = (f'{name} = "{address}{page.format(ref=ref)}"\n' for name, page in _PAGES.items())
    return project.replace(head, head + "".join(pages))


if __name__ == "__main__":
    _, address, ref = sys.argv
    README.write_text(absolute(README.read_text(), address, ref))
    PROJECT.write_text(with_urls(PROJECT.read_text(), address, ref))
