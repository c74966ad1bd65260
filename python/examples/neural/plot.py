"""A line chart as SVG, with nothing but the standard library."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 34, 52
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"]


@dataclass
class Line:
    """A line with a band from `low` to `high`."""

    name: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def ticks(least: float, most: float) -> list[float]:
    """Round numbers from least to most, four to ten of them."""
    span = max(most - least, 1e-12)
    step = 10 ** math.floor(math.log10(span))
    step *= next(f for f in (1, 0.5, 0.2, 0.1) if span / (step * f) >= 4)
    return [k * step for k in range(math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9) + 1)]


def chart(title: str, x_label: str, y_label: str, lines: list[Line]) -> str:
    """The chart's SVG; a band's colour is its line's, and the legend stands in the lower right corner."""
    most_x = max(max(line.x) for line in lines)
    least, most = min(min(line.low) for line in lines), max(max(line.high) for line in lines)
    room = 0.04 * max(most - least, 1e-6)
    least, most = least - room, most + room

    def at(x: float, y: float) -> str:
        px = LEFT + (WIDTH - LEFT - RIGHT) * x / most_x
        py = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - least) / (most - least)
        return f"{px:.1f},{py:.1f}"

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="20" font-size="14">{html.escape(title)}</text>']
    for y in ticks(least, most):
        px, py = at(0, y).split(",")
        out.append(f'<path d="M{px},{py}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{float(py) + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for x in ticks(0, most_x):
        px, py = at(x, least).split(",")
        out.append(f'<path d="M{px},{py}v5" stroke="#444"/><text x="{px}" y="{float(py) + 18:.1f}" text-anchor="middle">{x:.3g}</text>')
    out.append(f'<path d="M{at(0, most)}L{at(0, least)}L{at(most_x, least)}" fill="none" stroke="#444"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text x="{middle[0]:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{html.escape(x_label)}</text>')
    out.append(f'<text transform="translate(16,{middle[1]:.0f}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>')
    for line, colour in zip(lines, COLOURS):
        band = [at(x, y) for x, y in zip(line.x, line.high)] + [at(x, y) for x, y in list(zip(line.x, line.low))[::-1]]
        out.append(f'<polygon points="{" ".join(band)}" fill="{colour}" opacity="0.15"/>')
        out.append(f'<polyline points="{" ".join(at(x, y) for x, y in zip(line.x, line.y))}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for k, (line, colour) in enumerate(zip(lines, COLOURS)):
        y = HEIGHT - BOTTOM - 16 * (len(lines) - k)
        out.append(f'<path d="M{WIDTH - 230},{y - 4}h24" stroke="{colour}" stroke-width="2"/>'
                   f'<text x="{WIDTH - 200}" y="{y}">{html.escape(line.name)}</text>')
    return "\n".join([*out, "</svg>", ""])
