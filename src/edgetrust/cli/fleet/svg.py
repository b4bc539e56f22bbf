"""A hierarchy as SVG: a box for each device, level by level, lines between. No script, no font of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from edgetrust.cli.fleet.map import Node

_WIDTH, _LINE, _GAP_X, _GAP_Y, _MARGIN = 190, 16, 16, 44, 16
_HEIGHT = 5 * _LINE + 12
_CHARACTERS = 26  # of a line in a box


def svg(hub: str, roots: Sequence[Node], now: datetime) -> str:
    """The picture. Boxes of who is not connected are dashed."""
    drawing = _Drawing(now)
    width, centre = drawing.level(roots, _MARGIN, 1)
    width = max(width, _WIDTH)
    centre = centre or _MARGIN + width / 2
    drawing.box(centre, 0, [hub], dashed=False)
    drawing.lines_to(centre, 0, drawing.tops)
    height = _MARGIN * 2 + (drawing.depth + 1) * (_HEIGHT + _GAP_Y) - _GAP_Y
    size = f"{width + 2 * _MARGIN:.0f} {height:.0f}"
    body = "\n".join(drawing.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="12">\n'
        f"<title>{escape(hub)}</title>\n{body}\n</svg>"
    )


class _Drawing:
    def __init__(self, now: datetime) -> None:
        self._now = now
        self.parts: list[str] = []
        self.tops: list[float] = []
        self.depth = 0

    def level(self, nodes: Sequence[Node], left: float, depth: int) -> tuple[float, float]:
        """Draw nodes side by side with what is below them. Their width, and the middle between first and last."""
        from edgetrust.cli.fleet.map import facts

        centres: list[float] = []
        place = left
        for node in nodes:
            self.depth = max(self.depth, depth)
            width, below = self.level(node.children, place, depth + 1)
            children = self.tops
            own = max(width, float(_WIDTH))
            centre = below if node.children and width >= _WIDTH else place + own / 2
            self.box(centre, depth, [node.device, *facts(node, self._now)], dashed=not node.connected)
            self.lines_to(centre, depth, children if node.children else [])
            centres.append(centre)
            place += own + _GAP_X
        self.tops = centres
        if not centres:
            return 0.0, 0.0
        return place - _GAP_X - left, (centres[0] + centres[-1]) / 2

    def box(self, centre: float, depth: int, words: Sequence[str], *, dashed: bool) -> None:
        """A box with its lines, the first of them bold."""
        x, y = centre - _WIDTH / 2, _MARGIN + depth * (_HEIGHT + _GAP_Y)
        style = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="none" stroke="black"'
            f"{style}/>"
        )
        for number, word in enumerate(words):
            text = word if len(word) <= _CHARACTERS else f"{word[: _CHARACTERS - 1]}\u2026"
            weight = ' font-weight="bold"' if number == 0 else ""
            self.parts.append(
                f'<text x="{centre:.0f}" y="{y + (number + 1) * _LINE:.0f}" text-anchor="middle"{weight}>'
                f"{escape(''.join(one if one.isprintable() else '?' for one in text))}</text>"
            )

    def lines_to(self, centre: float, depth: int, children: Sequence[float]) -> None:
        """From the lower edge of a box to the upper edges of those below it."""
        bottom = _MARGIN + depth * (_HEIGHT + _GAP_Y) + _HEIGHT
        for child in children:
            self.parts.append(
                f'<path d="M{centre:.0f} {bottom:.0f} V{bottom + _GAP_Y / 2:.0f} H{child:.0f} V{bottom + _GAP_Y:.0f}" '
                'fill="none" stroke="black"/>'
            )
