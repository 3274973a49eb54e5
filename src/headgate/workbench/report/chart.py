"""Charts as SVG, by hand: lines, steps, dots and bars on two axes. Pure.

Colours are classes (``c0`` … ``c7``): the page says what they are, in the light and in the dark. Series differ by dash
as well as by colour. Whatever is shown as text is escaped here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from headgate.workbench.report.axis import Axis

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 14, 46
COLOURS = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3")

Point = tuple[float, float]


class Chart:
    """One chart, added to piece by piece; what is added later lies above."""

    def __init__(self, x: Axis, y: Axis, title: str) -> None:
        self.x, self.y = x, y
        self._title = title
        self._parts: list[str] = []

    def line(self, points: Sequence[Point], colour: int, *, dash: int = 0, thin: bool = False) -> None:
        """Points joined by straight lines."""
        self._path(points, colour, dash, thin)

    def steps(self, points: Sequence[Point], colour: int, *, dash: int = 0) -> None:
        """A staircase: each value holds until the next."""
        stairs: list[Point] = []
        for x, y in points:
            if stairs:
                stairs.append((x, stairs[-1][1]))
            stairs.append((x, y))
        self._path(stairs, colour, dash, False)

    def dots(self, points: Sequence[Point], colour: int, says: Sequence[str] = (), *, small: bool = False) -> None:
        """A dot at each point; ``says`` is what each shows when pointed at."""
        for number, (x, y) in enumerate(points):
            shown = f"<title>{escape(says[number])}</title>" if says else ""
            radius = 2 if small else 4
            at = f'cx="{self._left(x):.1f}" cy="{self._top(y):.1f}"'
            self._parts.append(f'<circle class="f{colour % COLOURS}" {at} r="{radius}">{shown}</circle>')

    def ranges(self, spans: Sequence[tuple[float, float, float]], colour: int) -> None:
        """A bar from the second to the third number at the first: the least and the most of rounds."""
        for x, low, high in spans:
            left = f"{self._left(x):.1f}"
            ends = f'y1="{self._top(low):.1f}" y2="{self._top(high):.1f}"'
            self._parts.append(f'<line class="c{colour % COLOURS} range" x1="{left}" x2="{left}" {ends}/>')

    def mark_x(self, value: float, text: str) -> None:
        """A line across at a value of x: a bound."""
        if self.x.low <= value <= self.x.high:
            left = self._left(value)
            self._parts.append(
                f'<line class="bound" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
                + _text(left - 5, HEIGHT - BOTTOM - 7, text, "end")
            )

    def mark_y(self, value: float, text: str) -> None:
        """A line across at a value of y."""
        if self.y.low <= value <= self.y.high:
            top = self._top(value)
            self._parts.append(
                f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top:.1f}" y2="{top:.1f}"/>'
                + _text(WIDTH - RIGHT - 4, top - 5, text, "end")
            )

    def svg(self) -> str:
        """The whole."""
        axes = "".join([*map(self._x_tick, self.x.ticks()), *map(self._y_tick, self.y.ticks())])
        middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
        down = TOP + (HEIGHT - TOP - BOTTOM) / 2
        labels = _text(middle, HEIGHT - 8, self.x.title, "middle", "label")
        labels += (
            f'<text class="label" text-anchor="middle" transform="translate(14 {down:.0f}) rotate(-90)">'
            f"{escape(self.y.title)}</text>"
        )
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self._title)}">'
            f"<title>{escape(self._title)}</title>{axes}{''.join(self._parts)}{labels}</svg>"
        )

    def _path(self, points: Sequence[Point], colour: int, dash: int, thin: bool) -> None:
        if not points:
            return
        # Points that fall on the same tenth of a pixel as the one before say nothing.
        at = [f"{self._left(x):.1f} {self._top(y):.1f}" for x, y in points]
        kept = [place for number, place in enumerate(at) if number == 0 or place != at[number - 1]]
        stroke = f' stroke-dasharray="{DASHES[dash % len(DASHES)]}"' if dash % len(DASHES) else ""
        weight = " thin" if thin else ""
        self._parts.append(f'<path class="c{colour % COLOURS}{weight}" d="M{"L".join(kept)}"{stroke}/>')

    def _x_tick(self, tick: tuple[float, str]) -> str:
        left = self._left(tick[0])
        rule = f'<line class="grid" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        return rule + _text(left, HEIGHT - BOTTOM + 16, tick[1], "middle")

    def _y_tick(self, tick: tuple[float, str]) -> str:
        top = self._top(tick[0])
        rule = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top:.1f}" y2="{top:.1f}"/>'
        return rule + _text(LEFT - 7, top + 4, tick[1], "end")

    def _left(self, x: float) -> float:
        return LEFT + self.x.at(x) * (WIDTH - LEFT - RIGHT)

    def _top(self, y: float) -> float:
        return HEIGHT - BOTTOM - self.y.at(y) * (HEIGHT - TOP - BOTTOM)


class Part(NamedTuple):
    """A part of a bar: its share, from 0 to 1, its colour's class, and what it says when pointed at."""

    share: float
    colour: str
    says: str


BAR, GAP, NAMES = 24, 12, 200


def bars(rows: Sequence[tuple[str, Sequence[Part]]], title: str) -> str:
    """Bars that are divided up, one below the other, each as long as the whole."""
    height = len(rows) * (BAR + GAP) + GAP
    room = WIDTH - NAMES - RIGHT
    drawn = []
    for number, (name, parts) in enumerate(rows):
        top = GAP + number * (BAR + GAP)
        drawn.append(_text(NAMES - 10, top + BAR / 2 + 4, shortened(name, 26), "end", "name"))
        left = float(NAMES)
        for part in parts:
            wide = part.share * room
            drawn.append(
                f'<rect class="{part.colour}" x="{left:.1f}" y="{top}" width="{wide:.1f}" height="{BAR}">'
                f"<title>{escape(part.says)}</title></rect>"
            )
            if wide >= 44:
                drawn.append(_text(left + wide / 2, top + BAR / 2 + 4, f"{100 * part.share:.3g} %", "middle", "on"))
            left += wide
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"{''.join(drawn)}</svg>"
    )


def shortened(text: str, longest: int) -> str:
    """No longer than so many characters; the end is what tells names apart."""
    return text if len(text) <= longest else f"{text[: longest // 2 - 1]}…{text[-longest // 2 :]}"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
