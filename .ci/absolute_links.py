# SPDX-License-Identifier: Apache-2.0
"""Makes the README's relative links absolute, for the index: a release does it before it builds.

python .ci/absolute_links.py https://github.com/OWNER/NAME v0.1.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
_PICTURE = re.compile(r"(?<=!\[)([^\]]*\]\()(?!\w+:)|(?<= src=\")()(?!\w+:)")
_LINK = re.compile(r"(?<!!)(\[[^\]]*\]\()(?!\w+:)")


def absolute(text: str, address: str, ref: str) -> str:
    """The text with addresses of pictures and of files at a tag of a repository on GitHub."""
    raw = address.replace("://github.com/", "://raw.githubusercontent.com/")
    text = _PICTURE.sub(lambda found: f"{found[1] or ''}{raw}/{ref}/", text)
    return _LINK.sub(lambda found: f"{found[1]}{address}/blob/{ref}/", text)


if __name__ == "__main__":
    _, address, ref = sys.argv
    README.write_text(absolute(README.read_text(), address, ref))
