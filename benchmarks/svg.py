# SPDX-License-Identifier: Apache-2.0
"""Pictures as SVG, in tones that can be read on white and on black alike.

A page may be light where the system is dark, so no picture asks which it is: letters and lines are
of a middle grey, fills of strong colours, and nothing is drawn behind them.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

TEXT = "#7b828c"  # 3.9 times as dark as white, 4.8 times as bright as a dark page
STRONG = "#e8590c"  # ours, and what a picture is about
QUIET = "#8b97a8"
COLOURS = ("#e8590c", "#1c8fd6", "#2f9e63")  # of cells: LSTM, GRU, Elman
_FONT = "-apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


class Picture:
    """Shapes in the order in which they are drawn, in units of a picture that is 640 wide.

    Letters of 15 units are 8 pixels high on a phone: no smaller ones are used.
    """

    def __init__(self, title: str, height: float, width: int = 640):
        self.width, self.height, self.title = width, height, title
        self.shapes: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int = 16,
        *,
        anchor: str = "start",
        bold: bool = False,
        colour: str = TEXT,
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        self.shapes.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{colour}"{weight}>{escape(text)}</text>'
        )

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{max(width, 2):.1f}" height="{height:g}" rx="2" '
            f'fill="{colour}"/>'
        )

    def dot(self, x: float, y: float, colour: str) -> None:
        self.shapes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}" fill-opacity="0.6"/>'
        )

    def line(
        self, x: float, y: float, to_x: float, to_y: float, colour: str = TEXT, dashed: bool = False
    ) -> None:
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.shapes.append(
            f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}"'
            f"{dashes}/>"
        )

    def __str__(self) -> str:
        shapes = "\n".join(self.shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height:g}" '
            f'width="{self.width}" height="{self.height:g}" role="img" font-family="{_FONT}">\n'
            f"<title>{escape(self.title)}</title>\n{shapes}\n</svg>\n"
        )
