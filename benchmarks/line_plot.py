"""Line plots as SVG files for pages that nobody styles: they read on white and on black, and bring their own legend.

(The charts of `onestage.evaluation` are parts of a page and take its colours.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from jinja2 import Environment

from onestage.evaluation.charts import ticks

WIDTH, PLOT_HEIGHT = 720, 300
LEFT, RIGHT, BOTTOM, LEGEND_ROW = 64, 16, 44, 18
LOGARITHMIC_FROM = 20.0  # largest to least value
# Middle tones: at least 3 to 1 against white and against GitHub's black (#0d1117).
COLORS = ("#2f81f7", "#d4690f", "#2a9d4a", "#a371f7", "#e5534b", "#16899b", "#a3790f", "#d9509a")
# Around the origin. As many as have no common factor with the colours, so that pairs come again late.
MARKERS = (
    "M-3.5,0A3.5,3.5 0 1 0 3.5,0A3.5,3.5 0 1 0 -3.5,0Z",
    "M-3,-3H3V3H-3Z",
    "M0,-4.5L4,3H-4Z",
    "M0,-4.5L4.5,0L0,4.5L-4.5,0Z",
    "M0,4.5L4,-3H-4Z",
)

Point = tuple[float, float]
Place = Callable[[float], float]

_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" width="{{ width }}" \
height="{{ height }}" role="img" font-family="system-ui, sans-serif" font-size="12">
  <title>{{ title }}</title>
  <g fill="#6e7781">
  {% for x, y, name in legend %}
    <path d="{{ markers[loop.index0 % markers|length] }}" fill="{{ colors[loop.index0 % colors|length] }}" \
transform="translate({{ x }},{{ y - 4 }})"/>
    <text x="{{ x + 10 }}" y="{{ y }}">{{ name }}</text>
  {% endfor %}
  {% for x, text in x_ticks %}
    <path d="M{{ x }},{{ top }}V{{ bottom }}" stroke="#6e7781" stroke-opacity="0.3"/>
    <text x="{{ x }}" y="{{ bottom + 16 }}" text-anchor="middle">{{ text }}</text>
  {% endfor %}
  {% for y, text in y_ticks %}
    <path d="M{{ left }},{{ y }}H{{ right }}" stroke="#6e7781" stroke-opacity="0.3"/>
    <text x="{{ left - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ text }}</text>
  {% endfor %}
    <text x="{{ (left + right) / 2 }}" y="{{ height - 8 }}" text-anchor="middle">{{ axes[0] }}</text>
    <text transform="translate(14,{{ (top + bottom) / 2 }}) rotate(-90)" text-anchor="middle">{{ axes[1] }}</text>
  </g>
  {% for line in lines %}
  <polyline points="{{ line.points }}" fill="none" stroke="{{ colors[line.number % colors|length] }}" stroke-width="2"/>
  {% for x, y, text in line.dots %}
  <path d="{{ markers[line.number % markers|length] }}" fill="{{ colors[line.number % colors|length] }}" \
transform="translate({{ x }},{{ y }})"><title>{{ text }}</title></path>
  {% endfor %}
  {% endfor %}
</svg>
""")


def line_plot(series: Mapping[str, Sequence[Point]], axes: tuple[str, str], title: str) -> str:
    """The SVG file of all lines on one pair of axes, each logarithmic where its values are far apart.

    Points that are not finite are left out.
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    columns = 2 if all(len(name) <= 48 for name in series) else 1
    legend = [
        (LEFT + 6 + index % columns * (WIDTH - LEFT) // columns, 16 + index // columns * LEGEND_ROW, name)
        for index, name in enumerate(series)
    ]
    top = max((y for _, y, _ in legend), default=0) + 16
    bottom, right = top + PLOT_HEIGHT, WIDTH - RIGHT
    points = [point for line in finite.values() for point in line]
    place_x, x_ticks = _axis([x for x, _ in points], (LEFT, right), 8)
    place_y, y_ticks = _axis([y for _, y in points], (bottom, top), 6)
    lines = [
        {
            "number": number,
            "points": " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in line),
            "dots": [(f"{place_x(x):.1f}", f"{place_y(y):.1f}", f"{name}: {y:.4g} at {x:,.6g}") for x, y in line],
        }
        for number, (name, line) in enumerate(finite.items())
    ]
    return _TEMPLATE.render(
        title=title,
        axes=axes,
        legend=legend,
        lines=lines,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        width=WIDTH,
        height=bottom + BOTTOM,
        left=LEFT,
        right=right,
        top=top,
        bottom=bottom,
        colors=COLORS,
        markers=MARKERS,
    )


def _axis(values: Sequence[float], ends: tuple[float, float], count: int) -> tuple[Place, list[tuple[float, str]]]:
    """Where a value is drawn, and about `count` ticks as (place, text)."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    logarithmic = low > 0 and high / low >= LOGARITHMIC_FROM
    marks = _powers(low, high) if logarithmic else _round_numbers(low, high, count)
    low, high = min(low, marks[0]), max(high, marks[-1])
    scale: Place = math.log if logarithmic else float
    first, length = scale(low), scale(high) - scale(low)

    def place(value: float) -> float:
        return ends[0] + (scale(value) - first) / length * (ends[1] - ends[0])

    return place, [(round(place(mark), 1), _short(mark)) for mark in marks]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten around the values; between them 2 and 5 where there are few."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    factors = (1, 2, 5) if high / low < 100 else (1,)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    first = max(mark for mark in marks if mark <= low * (1 + 1e-9))
    last = min(mark for mark in marks if mark >= high * (1 - 1e-9))
    return [mark for mark in marks if first <= mark <= last]


def _round_numbers(low: float, high: float, count: int) -> list[float]:
    """From 0 on."""
    low = min(0.0, low)
    high = high if high > low else low + 1.0
    marks = ticks(low, high, count).tolist()
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    return [*marks, marks[-1] + step] if marks[-1] < high * (1 - 1e-9) else marks


def _short(value: float) -> str:
    """1.5M, 20k, 300, 0.05"""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.6g}{letter}"
    return f"{value:.6g}"
