"""Plots as plain numbers: templates draw them as inline SVG, and a table beside says the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

_SMALLEST_TOP: Final = 10.0
_STEPS: Final = (10.0, 25.0, 50.0, 100.0)
_ROOM_ABOVE: Final = 1.1


@dataclass(frozen=True)
class Figure:
    """The percentage of one study of a patient, as it goes into the plot."""

    at: datetime
    percent: float
    is_this: bool
    is_comparable: bool


@dataclass(frozen=True)
class Point:
    """A figure at its place: x from the left and y from the top."""

    x: float
    y: float
    figure: Figure


@dataclass(frozen=True)
class Trend:
    """Figures over time in a box. `lines` are the levels that are written at the left."""

    width: int
    height: int
    left: int
    points: tuple[Point, ...]
    path: str
    lines: tuple[tuple[float, float], ...]


def trend(figures: Sequence[Figure], width: int = 480, height: int = 150) -> Trend:
    """Place figures by time; the line joins those that the same model measured."""
    left, right, above, below = 36, 12, 10, 22
    top = _top(max((each.percent for each in figures), default=0.0))
    times = [each.at.timestamp() for each in figures]
    first, span = min(times, default=0.0), max(times, default=0.0) - min(times, default=0.0)

    def x(at: float) -> float:
        share = (at - first) / span if span else 0.5
        return round(left + share * (width - left - right), 1)

    def y(percent: float) -> float:
        return round(above + (1 - percent / top) * (height - above - below), 1)

    points = tuple(
        Point(x(at), y(each.percent), each) for at, each in zip(times, figures, strict=True)
    )
    joined = [point for point in points if point.figure.is_comparable or point.figure.is_this]
    path = " ".join(
        f"{'M' if number == 0 else 'L'}{point.x} {point.y}" for number, point in enumerate(joined)
    )
    levels = (0.0, top / 2, top)
    return Trend(width, height, left, points, path, tuple((level, y(level)) for level in levels))


def _top(highest: float) -> float:
    """Return the end of the scale: a round number above the highest figure."""
    wanted = max(highest * _ROOM_ABOVE, _SMALLEST_TOP)
    return next((step for step in _STEPS if step >= wanted), _STEPS[-1])


@dataclass(frozen=True)
class Bar:
    """One span of time: how much came, and what came of it, in pixels and in numbers."""

    x: float
    width: float
    label: str
    heights: tuple[float, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Bars:
    """Bars side by side. `top` is the number at the upper end of the scale."""

    width: int
    height: int
    base: float
    left: int
    top: int
    bars: tuple[Bar, ...]


def bars(
    spans: Sequence[tuple[str, tuple[int, ...]]], width: int = 1040, height: int = 150
) -> Bars:
    """Place numbers of several kinds for each span of time."""
    left, above, below = 40, 8, 22
    top = max((number for _, numbers in spans for number in numbers), default=0) or 1
    base = height - below
    step = (width - left) / max(len(spans), 1)
    placed = tuple(
        Bar(
            x=round(left + at * step, 1),
            width=round(step, 1),
            label=label,
            heights=tuple(round(number / top * (base - above), 1) for number in numbers),
            numbers=numbers,
        )
        for at, (label, numbers) in enumerate(spans)
    )
    return Bars(width, height, base, left, top, placed)
