"""Plots of a data set as inline SVG: where objects lie, how large they are, what shape, how many an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64
from markupsafe import Markup

from onestage.evaluation.charts import MARGIN_LEFT, ticks
from onestage.html import templates
from onestage.texts import counted

WIDTH, HEIGHT = 560, 240  # pixels
TOP, RIGHT, BOTTOM = 24, 18, 38  # margins of the bars; above them is room for the words of a mark
CELLS = 24  # of the heat map, each way
MAP_X, MAP_Y, MAP_WIDTH, MAP_HEIGHT = 60, 8, 288, 200
BINS = 36  # of a logarithmic axis
MOST_BARS = 40  # of whole numbers
SMALL = 8  # pixels at the detector's input; marked
MIN_SIZE, MAX_SIZE = 2, 1024
MAX_RATIO = 8

_HISTOGRAM = templates().from_string("""\
<svg class="chart" viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ description }}">
  {% for y, text in y_ticks %}
  <line class="grid" x1="{{ left }}" x2="{{ right }}" y1="{{ y }}" y2="{{ y }}"/>
  <text x="{{ left - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ text }}</text>
  {% endfor %}
  {% for x, y, bar_width, bar_height, text in bars %}
  <rect class="bar" x="{{ x }}" y="{{ y }}" width="{{ bar_width }}" height="{{ bar_height }}">\
<title>{{ text }}</title></rect>
  {% endfor %}
  {% for x, text in x_ticks %}
  <line class="grid" x1="{{ x }}" x2="{{ x }}" y1="{{ bottom }}" y2="{{ bottom + 4 }}"/>
  <text x="{{ x }}" y="{{ bottom + 15 }}" text-anchor="middle">{{ text }}</text>
  {% endfor %}
  {% if mark %}
  <line class="mark" x1="{{ mark[0] }}" x2="{{ mark[0] }}" y1="6" y2="{{ bottom }}"/>
  <text x="{{ mark[0] + 5 }}" y="15">{{ mark[1] }}</text>
  {% endif %}
  <text x="{{ (left + right) / 2 }}" y="{{ height - 6 }}" text-anchor="middle">{{ x_label }}</text>
</svg>
""")
_HEAT_MAP = templates().from_string("""\
<svg class="chart" viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="where the centres of objects lie">
  <rect class="ground" x="{{ x }}" y="{{ y }}" width="{{ map_width }}" height="{{ map_height }}"/>
  {% for left, top, opacity, text in cells %}
  <rect class="bar" x="{{ left }}" y="{{ top }}" width="{{ cell_width }}" height="{{ cell_height }}" \
opacity="{{ opacity }}"><title>{{ text }}</title></rect>
  {% endfor %}
  <text x="{{ x - 6 }}" y="{{ y + 10 }}" text-anchor="end">top</text>
  <text x="{{ x - 6 }}" y="{{ y + map_height }}" text-anchor="end">bottom</text>
  <text x="{{ x }}" y="{{ y + map_height + 18 }}">left edge of the image</text>
  <text x="{{ x + map_width }}" y="{{ y + map_height + 18 }}" text-anchor="end">right edge</text>
  <rect class="bar" x="{{ x + map_width + 22 }}" y="{{ y + 6 }}" width="14" height="14"/>
  <text x="{{ x + map_width + 42 }}" y="{{ y + 18 }}">{{ most }} in a cell,</text>
  <text x="{{ x + map_width + 42 }}" y="{{ y + 34 }}">the most</text>
  <rect class="ground" x="{{ x + map_width + 22 }}" y="{{ y + 50 }}" width="14" height="14"/>
  <text x="{{ x + map_width + 42 }}" y="{{ y + 62 }}">no object</text>
</svg>
""")


def heat_map(boxes_xyxy: Float[np.ndarray, "N 4"], image_sizes_hw: Float[np.ndarray, "N 2"]) -> Markup | None:
    """How many objects have their centre in each part of the image; None without objects."""
    if not len(boxes_xyxy):
        return None
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2 / image_sizes_hw[:, ::-1]
    columns, rows = (centres * CELLS).clip(0, CELLS - 1).astype(int).T
    counts = np.bincount(rows * CELLS + columns, minlength=CELLS**2)
    most, cell_width, cell_height = int(counts.max()), MAP_WIDTH / CELLS, MAP_HEIGHT / CELLS
    cells = [
        (
            round(MAP_X + cell % CELLS * cell_width, 2),
            round(MAP_Y + cell // CELLS * cell_height, 2),
            round(0.1 + 0.9 * count / most, 2),
            counted(count, "object"),
        )
        for cell, count in enumerate(counts.tolist())
        if count
    ]
    svg = _HEAT_MAP.render(
        width=WIDTH,
        height=HEIGHT,
        x=MAP_X,
        y=MAP_Y,
        map_width=MAP_WIDTH,
        map_height=MAP_HEIGHT,
        cell_width=round(cell_width, 2),
        cell_height=round(cell_height, 2),
        cells=cells,
        most=counted(most, "object"),
    )
    return Markup(svg)  # the template has escaped every value


def size_histogram(sizes: Float[np.ndarray, " N"]) -> Markup | None:
    """Objects by size; None where no size is known."""
    sizes = sizes[np.isfinite(sizes)]
    small = f"{SMALL} px: {counted(int((sizes < SMALL).sum()), 'object')} smaller"
    return _log_histogram(
        sizes,
        (MIN_SIZE, MAX_SIZE),
        description="objects by size",
        x_label="square root of the area, pixels at the detector's input",
        x_ticks=[(2.0**power, f"{2**power}") for power in range(1, 11)],
        unit=" px",
        mark=(SMALL, small),
    )


def ratio_histogram(boxes_xyxy: Float[np.ndarray, "N 4"]) -> Markup | None:
    """Objects by width / height; None without objects."""
    width, height = np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 1e-6).T
    return _log_histogram(
        width / height,
        (1 / MAX_RATIO, MAX_RATIO),
        description="objects by ratio of width to height",
        x_label="width : height (left tall, right wide)",
        x_ticks=[(2.0**power, f"{2 ** max(0, power)}:{2 ** max(0, -power)}") for power in range(-3, 4)],
        unit="",
        mark=(1, "as wide as tall"),
    )


def objects_histogram(counts: Int64[np.ndarray, " I"]) -> Markup | None:
    """Images by number of objects; None without images."""
    if not len(counts):
        return None
    most = int(np.quantile(counts, 0.995))  # one image with hundreds of objects must not flatten all others
    step = most // MOST_BARS + 1
    first = np.arange(0, most + 1, step)
    images = np.bincount(np.minimum(counts // step, len(first) - 1), minlength=len(first))
    names = [f"{low}" if step == 1 else f"{low} to {low + step - 1}" for low in first.tolist()]
    if counts.max() >= first[-1] + step:
        names[-1] = f"{first[-1]} or more"
    texts = [f"{counted(n, 'image')} with {name} objects" for n, name in zip(images.tolist(), names, strict=True)]
    every = -(-len(first) // 14)
    x_ticks = [((i + 0.5) / len(first), name.replace(" to ", "-")) for i, name in enumerate(names)]
    x_ticks = [tick for i, tick in enumerate(x_ticks) if i % every == 0]
    last = f" (last bar: {names[-1]})" if "more" in names[-1] else ""
    shown = [(position, text.removesuffix(" or more")) for position, text in x_ticks]
    return _histogram(images, texts, "images by number of objects", f"objects in an image{last}", shown)


def _log_histogram(
    values: Float[np.ndarray, " N"],
    span: tuple[float, float],
    *,
    description: str,
    x_label: str,
    x_ticks: Sequence[tuple[float, str]],
    unit: str,
    mark: tuple[float, str],
) -> Markup | None:
    """A histogram on a logarithmic axis; what lies beyond its ends is counted in the first and the last bar."""
    if not len(values):
        return None

    def placed(value: float) -> float:
        return float(np.log(value / span[0]) / np.log(span[1] / span[0]))

    edges = np.geomspace(*span, BINS + 1)
    counts = np.histogram(values.clip(*span), edges)[0]
    texts = [
        f"{counted(n, 'object')} from {low:.3g} to {high:.3g}{unit}"
        for n, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True)
    ]
    places = [(placed(value), text) for value, text in x_ticks]
    return _histogram(counts, texts, description, x_label, places, (placed(mark[0]), mark[1]))


def _histogram(
    counts: Int64[np.ndarray, " B"],
    texts: Sequence[str],
    description: str,
    x_label: str,
    x_ticks: Sequence[tuple[float, str]],
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Bars of one width; places along the axis are 0 to 1."""
    left, right, bottom = MARGIN_LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    most, wide = max(1, int(counts.max())), (right - left) / len(counts)

    def x_of(place: float) -> float:
        return round(left + place * (right - left), 1)

    def y_of(count: float) -> float:
        return round(bottom - count / most * (bottom - TOP), 1)

    svg = _HISTOGRAM.render(
        width=WIDTH,
        height=HEIGHT,
        left=left,
        right=right,
        bottom=bottom,
        description=description,
        x_label=x_label,
        bars=[
            (round(left + i * wide + 0.5, 2), y_of(n), round(wide - 1, 2), round(bottom - y_of(n), 1), text)
            for i, (n, text) in enumerate(zip(counts.tolist(), texts, strict=True))
            if n
        ],
        x_ticks=[(x_of(place), text) for place, text in x_ticks],
        y_ticks=[(y_of(n), _short(n)) for n in ticks(0, most, 4) if n == int(n)],
        mark=(x_of(mark[0]), mark[1]) if mark else None,
    )
    return Markup(svg)  # the template has escaped every value


def _short(count: float) -> str:
    """A count in few letters: 900, 20k, 1.5M."""
    if count >= 1e6:
        return f"{count / 1e6:g}M"
    return f"{count / 1e3:g}k" if count >= 1e4 else f"{count:g}"
