"""Line charts as inline SVG: no image files, no script, and colours that follow the page's light or dark style."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from onestage.html import templates

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 56, 12, 8, 34
MAX_POINTS = 300  # points of one line; a longer one is drawn through the means of as many parts

_TEMPLATE = templates().from_string("""\
<svg class="chart" viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ description }}">
  <title>{{ description }}</title>
  {% for x, value in x_ticks %}
  <line class="grid" x1="{{ x }}" x2="{{ x }}" y1="{{ top }}" y2="{{ bottom }}"/>
  <text x="{{ x }}" y="{{ bottom + 14 }}" text-anchor="middle">{{ "%.6g" | format(value) }}</text>
  {% endfor %}
  {% for y, value in y_ticks %}
  <line class="grid" x1="{{ left }}" x2="{{ right }}" y1="{{ y }}" y2="{{ y }}"/>
  <text x="{{ left - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ "%.6g" | format(value) }}</text>
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
    """One line of a chart; `color` is the index of one of the page's six line colours, or 6: gray."""

    name: str
    x: Float[np.ndarray, " P"]
    y: Float[np.ndarray, " P"]
    color: int = 0
    filled: bool = False  # shade the area under the line
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
    """An SVG element with all series on one pair of axes.

    The ranges default to those of the data; y begins at 0. Points that are not finite are left out; a spike beyond
    `y_range` is drawn at the edge.
    """
    series = [_thinned(one) for one in series]
    x_range = x_range or _range([one.x for one in series])
    y_range = y_range or (0.0, _range([one.y for one in series])[1])
    width, height = size_wh
    left, right = MARGIN_LEFT, width - MARGIN_RIGHT
    top, bottom = MARGIN_TOP, height - MARGIN_BOTTOM
    lines = []
    for one in series:
        xs, ys = _placed(one.x, x_range, (left, right)), _placed(one.y, y_range, (bottom, top))
        points = " ".join(f"{x:g},{y:g}" for x, y in zip(xs, ys, strict=True))
        area = f"{xs[0]:g},{bottom} {points} {xs[-1]:g},{bottom}" if one.filled and xs else ""
        texts = [f"{one.name} {y:.4g} at {x_label} {x:.4g}" for x, y in zip(one.x, one.y, strict=True)]
        dots = list(zip(xs, ys, texts, strict=True)) if one.dots else []
        lines.append({"name": one.name, "color": one.color, "points": points, "area": area, "dots": dots})
    x_values, y_values = ticks(*x_range, width // 90), ticks(*y_range, height // 45)
    svg = _TEMPLATE.render(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        description=description,
        x_label=x_label,
        lines=lines,
        x_ticks=zip(_placed(x_values, x_range, (left, right)), x_values, strict=True),
        y_ticks=zip(_placed(y_values, y_range, (bottom, top)), y_values, strict=True),
    )
    return Markup(svg)  # the template has escaped every value


def _placed(values: np.ndarray, value_range: tuple[float, float], pixel_range: tuple[int, int]) -> list[float]:
    """The pixels where values are drawn, on an axis that runs over `pixel_range`."""
    (low, high), (first, last) = value_range, pixel_range
    return (first + (np.clip(values, low, high) - low) / (high - low) * (last - first)).round(1).tolist()


def ticks(low: float, high: float, count: int) -> Float[np.ndarray, " T"]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))
    return np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step


def _range(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """The smallest and the largest value; the range never has zero width."""
    values = np.concatenate(arrays)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _thinned(one: Series) -> Series:
    """The finite points of a series; if there are more than `MAX_POINTS`, the means of that many parts."""
    finite = np.isfinite(one.x) & np.isfinite(one.y)
    x, y = one.x[finite], one.y[finite]
    if len(x) > MAX_POINTS:
        starts = np.linspace(0, len(x), MAX_POINTS, endpoint=False).astype(np.int64)
        lengths = np.diff(np.append(starts, len(x)))
        x, y = np.add.reduceat(x, starts) / lengths, np.add.reduceat(y, starts) / lengths
    return replace(one, x=x, y=y)
