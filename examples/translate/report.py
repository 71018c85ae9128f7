# SPDX-License-Identifier: Apache-2.0
"""Scores and plots at the end of a run. matplotlib is imported as in examples/common/plots.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sacrebleu

from examples.common.download import DownloadError, debian_files


def score(translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU (sacrebleu's `zh` tokenizer) and chrF, both of 100."""
    bleu = sacrebleu.corpus_bleu(list(translations), [list(references)], tokenize="zh")
    chrf = sacrebleu.corpus_chrf(list(translations), [list(references)])
    return {"bleu": round(bleu.score, 2), "chrf": round(chrf.score, 2)}


def plot_attention(
    attention: np.ndarray, source: Sequence[str], target: Sequence[str], path: Path, cache: Path
) -> str:
    """attention [T,S], its labels -> a heat map; returns a remark if no font has the glyphs."""
    import matplotlib
    from matplotlib.figure import Figure

    family = _font(cache)
    labels = list(target) if family else [str(number) for number in range(1, len(target) + 1)]
    figure = Figure(figsize=(2 + 0.4 * len(source), 1.5 + 0.35 * len(target)), layout="constrained")
    with matplotlib.rc_context({"font.family": [family or "DejaVu Sans", "DejaVu Sans"]}):
        axes = figure.subplots()
        image = axes.imshow(attention, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(source)), [piece.replace("▁", "") or "▁" for piece in source])
        axes.tick_params(axis="x", rotation=60)
        axes.set_yticks(range(len(target)), labels)
        figure.colorbar(image, label="attention")
        figure.savefig(path, dpi=150)
    if family:
        return ""
    numbered = " ".join(f"{number}:{piece}" for number, piece in enumerate(target, 1))
    return (
        f"No font with Chinese glyphs was found, so {path.name} numbers the subwords: {numbered}\n"
    )


def _font(cache: Path) -> str | None:
    """A font family with Chinese glyphs: an installed one, or Droid Sans Fallback from Debian."""
    from matplotlib import font_manager

    for entry in font_manager.fontManager.ttflist:
        if any(
            name in entry.name for name in ("CJK", "WenQuanYi", "Droid Sans Fallback", "PingFang")
        ):
            return entry.name
    try:
        files = debian_files(
            "fonts-droid-fallback", lambda path: path.endswith("DroidSansFallbackFull.ttf"), cache
        )
    except DownloadError:
        return None
    path = cache / "DroidSansFallbackFull.ttf"
    for content in files.values():
        path.write_bytes(content)
        font_manager.fontManager.addfont(path)
        return font_manager.FontProperties(fname=path).get_name()
    return None
