"""Line charts as inline SVG: no image files, no script, and colours that follow the page's light or dark style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from jinja2 import Environment
from markupsafe import Markup

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 12, 8, 34
MAX_POINTS = 300  # of a line; a longer one is drawn by the means of its parts

# Every value goes through the template's escaping, since class names come from strangers' files.
_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<svg class="chart" viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ description }}">
  <title>{{ description }}</title>
  {% for x, text in x_ticks %}
  <line class="grid" x1="{{ x }}" x2="{{ x }}" y1="{{ top }}" y2="{{ bottom }}"/>
  <text x="{{ x }}" y="{{ bottom + 14 }}" text-anchor="middle">{{ text }}</text>
  {% endfor %}
  {% for y, text in y_ticks %}
  <line class="grid" x1="{{ left }}" x2="{{ right }}" y1="{{ y }}" y2="{{ y }}"/>
  <text x="{{ left - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ text }}</text>
  {% endfor %}
  <text x="{{ (left + right) / 2 }}" y="{{ height - 4 }}" text-anchor="middle">{{ x_label }}</text>
  {% for line in lines %}
  {% if line.area %}<polygon class="area s{{ line.color }}" points="{{ line.area }}"/>{% endif %}
  <polyline class="line s{{ line.color }}" points="{{ line.points }}"><title>{{ line.name }}</title></polyline>
  {% for x, y, text in line.dots %}
  <circle class="dot s{{ line.color }}" cx="{{ x }}" cy="{{ y }}" r="3"><title>{{ text }}</title></circle>
  {% endfor %}
  {% endfor %}
</svg>
""")


@dataclass(frozen=True)
class Series:
    """One line of a chart; `color` is the number of one of the page's six line colours."""

    name: str
    x: Float[np.ndarray, " P"]
    y: Float[np.ndarray, " P"]
    color: int = 0
    filled: bool = False  # shade the area under it
    dots: bool = False  # mark each point, with its value as a tooltip


def line_chart(
    series: Sequence[Series],
    *,
    description: str,
    x_label: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    size_wh: tuple[int, int] = (560, 240),
) -> Markup:
    """An SVG element with all series on one pair of axes. Ranges are the data's, from 0 up, where not given.

    Points that are not finite are left out; a spike beyond `y_range` is drawn at the edge.
    """
    series = [_thinned(one) for one in series]
    x_low, x_high = x_range or _range([one.x for one in series])
    y_low, y_high = y_range or (0.0, _range([one.y for one in series])[1])
    left, right = MARGIN_LEFT, size_wh[0] - MARGIN_RIGHT
    top, bottom = MARGIN_TOP, size_wh[1] - MARGIN_BOTTOM

    def place_x(x: np.ndarray) -> np.ndarray:
        return (left + (np.clip(x, x_low, x_high) - x_low) / (x_high - x_low) * (right - left)).round(1)

    def place_y(y: np.ndarray) -> np.ndarray:
        return (bottom - (np.clip(y, y_low, y_high) - y_low) / (y_high - y_low) * (bottom - top)).round(1)

    lines = []
    for one in series:
        spots = list(zip(place_x(one.x).tolist(), place_y(one.y).tolist(), strict=True))
        points = " ".join(f"{x:g},{y:g}" for x, y in spots)
        closed = f"{spots[0][0]:g},{bottom} {points} {spots[-1][0]:g},{bottom}" if one.filled and spots else ""
        texts = [f"{one.name} {y:.4g} at {x_label} {x:.4g}" for x, y in zip(one.x, one.y, strict=True)]
        dots = [(x, y, text) for (x, y), text in zip(spots, texts, strict=True)] if one.dots else []
        lines.append({"name": one.name, "color": one.color % 6, "points": points, "area": closed, "dots": dots})
    x_values, y_values = ticks(x_low, x_high, size_wh[0] // 90), ticks(y_low, y_high, size_wh[1] // 45)
    svg = _TEMPLATE.render(
        width=size_wh[0],
        height=size_wh[1],
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        description=description,
        x_label=x_label,
        lines=lines,
        x_ticks=list(zip(place_x(x_values).tolist(), [f"{v:.6g}" for v in x_values], strict=True)),
        y_ticks=list(zip(place_y(y_values).tolist(), [f"{v:.6g}" for v in y_values], strict=True)),
    )
    return Markup(svg)  # the environment has escaped every value


def ticks(low: float, high: float, count: int) -> Float[np.ndarray, " T"]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return np.arange(first, last + 1) * step


def _range(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """The least and the greatest value; never of zero width."""
    values = np.concatenate([np.zeros(0), *arrays])
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _thinned(one: Series) -> Series:
    """The series without what is not finite, and with at most `MAX_POINTS` points, each the mean of its part."""
    finite = np.isfinite(one.x) & np.isfinite(one.y)
    x, y = one.x[finite], one.y[finite]
    if len(x) > MAX_POINTS:
        parts = np.linspace(0, len(x), MAX_POINTS, endpoint=False).astype(np.int64)
        lengths = np.diff(np.append(parts, len(x)))
        x, y = np.add.reduceat(x, parts) / lengths, np.add.reduceat(y, parts) / lengths
    return Series(one.name, x, y, one.color, one.filled, one.dots)
