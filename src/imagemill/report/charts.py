"""Line charts as inline SVG: sharp at any size, coloured by the page, the same bytes each time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 26
_MOST_POINTS = 400
_TICKS = 4


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]  # x ascending


def line_chart(title: str, lines: Sequence[Line]) -> Markup:
    """An SVG with one polyline a line, a labelled grid and a legend.

    Args:
        title: Read out by screen readers.
        lines: At least one, each with a point or more; the page colours them by position.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    ticks = nice_ticks(min(ys), max(ys))
    frame = _Frame(min(xs), max(*xs, min(xs) + 1), min(ticks), max(ticks))
    parts = [_grid(frame, ticks), _x_labels(frame)]
    parts += [_polyline(frame, line, number) for number, line in enumerate(lines)]
    if len(lines) > 1:
        parts.append(_legend(lines))
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
    return Markup(f"{head}<title>{escape(title)}</title>{''.join(parts)}</svg>")


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, a handful of them."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        low, high = (low - abs(low) / 2, low + abs(low) / 2) if low else (0.0, 1.0)
    rough = (high - low) / _TICKS
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """From values to places in the picture."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / (self.top - self.bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(frame: _Frame, ticks: Sequence[float]) -> str:
    rows = []
    for tick in ticks:
        y = frame.y(tick)
        rows.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    return "".join(rows)


def _x_labels(frame: _Frame) -> str:
    y = _HEIGHT - 8
    return (
        f'<text x="{_LEFT}" y="{y}">{short(frame.left)}</text>'
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{y}" text-anchor="middle">step</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{y}" text-anchor="end">{short(frame.right)}</text>'
    )


def _polyline(frame: _Frame, line: Line, number: int) -> str:
    shown = thinned(line.points)
    places = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in shown)
    last_x, last_y = shown[-1]
    return (
        f'<polyline class="line line-{number}" points="{places}"/>'
        f'<circle class="dot line-{number}" cx="{frame.x(last_x):.1f}" '
        f'cy="{frame.y(last_y):.1f}" r="2.5"/>'
    )


def _legend(lines: Sequence[Line]) -> str:
    x, parts = float(_LEFT + 8), []
    y = _HEIGHT - _BOTTOM - 8
    for number, line in enumerate(lines):
        parts.append(
            f'<line class="line line-{number}" x1="{x}" x2="{x + 14}" y1="{y}" y2="{y}"/>'
            f'<text x="{x + 18}" y="{y + 3.5}">{escape(line.name)}</text>'
        )
        x += 30 + 6 * len(line.name)
    return "".join(parts)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most a few hundred points, the first and the last among them."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    last = len(points) - 1
    return [points[number * last // (_MOST_POINTS - 1)] for number in range(_MOST_POINTS)]


def short(value: float) -> str:
    """A number as an axis shows it: 12k, 0.05, 1e-05."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
