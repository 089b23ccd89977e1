"""The page of a comparison: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.drawing import draw_detections, draw_objects
from onestage.errors import UserError
from onestage.evaluation.comparison import METRICS, Comparison, Difference, side_name
from onestage.evaluation.measured import Measured
from onestage.evaluation.pages import jpeg_url, page_template
from onestage.runtime.decode import decode_image
from onestage.whole_file import write_whole

MAX_SIDE, MIN_SIDE = 480, 300  # pixels of an image on the page
WIDTH = 150  # of a drawn interval


def write_comparison(
    path: Path,
    comparison: Comparison,
    runs: Sequence[Measured],
    *,
    sides: Sequence[str],
    notes: Sequence[str],
    facts: Sequence[tuple[str, Sequence[str]]],
    settings: Sequence[tuple[str, Sequence[str]]],
) -> None:
    """Write the page: verdicts, differences with intervals, by class too, facts, settings, the images that changed.

    Args:
        runs: the first run of each side, whose detections are drawn.
        sides: in words, what each is.
        notes: what a reader has to know besides.
        facts, settings: rows of a table, with a column for each side.
    """
    others, names = range(1, len(sides)), comparison.categories.names
    shown = {}
    missing: set[str] = set()
    for side in others:
        for what, images in zip(("better", "worse"), comparison.changed_images(side), strict=True):
            heading = f"Images that {side_name(side)} does {what} than A"
            drawn = {image: _drawn(image, {"A": runs[0], side_name(side): runs[side]}, missing) for image in images}
            shown[heading] = [
                (runs[0].image_names[image], _scores(comparison, side, image), drawn[image])
                for image in images
                if drawn[image] is not None
            ]
    page = page_template("onestage.evaluation", "compare.html").render(
        sides=[(side_name(number), words) for number, words in enumerate(sides)],
        sentences=[comparison.sentence(side) for side in others],
        notes=notes,
        resamples=comparison.resamples,
        together=_table(comparison, [(metric, metric, 0) for metric in METRICS]),
        by_class={
            metric: _table(comparison, [(name, metric, 1 + k) for k, name in enumerate(names)]) for metric in METRICS
        },
        others=[side_name(side) for side in others],
        facts=facts,
        settings=settings,
        shown=shown,
        missing=len(missing),
        root=runs[0].root,
    )
    write_whole(path, page.encode())


def _table(comparison: Comparison, rows: Sequence[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """Rows (name, metric, place in its values), whose intervals are drawn to one scale."""
    differences = [[side[place] for side in comparison.differences[metric][1:]] for _, metric, place in rows]
    reach = max((abs(one.points) + one.interval for row in differences for one in row if one.known), default=0)
    scale = WIDTH / 2 / reach if reach > 0 else 0.0
    return [
        {
            "name": name,
            "objects": f"{comparison.objects[place - 1]:,}" if place else "",
            "values": [points(side[place]) for side in comparison.values[metric]],
            "differences": [(one, _verdict(one), _bar(one, scale)) for one in row],
        }
        for (name, metric, place), row in zip(rows, differences, strict=True)
    ]


def points(value: float) -> str:
    """A metric in points, or a dash for one that does not exist."""
    return f"{100 * value:.1f}" if np.isfinite(value) else "-"


def _verdict(difference: Difference) -> str:
    return {"equal": "", "too few": f"too few images ({difference.images})"}.get(difference.verdict, difference.verdict)


def _bar(difference: Difference, scale: float) -> Mapping[str, float]:
    """Where the parts of a drawn interval lie, in pixels."""
    if not difference.known:
        return {}
    middle = WIDTH / 2 + scale * difference.points
    return {"low": middle - scale * difference.interval, "middle": middle, "high": middle + scale * difference.interval}


def _scores(comparison: Comparison, side: int, image: int) -> str:
    before, after = (comparison.counts[one].f1_by_image[image] for one in (0, side))
    return f"{before:.2f} → {after:.2f}"


def _drawn(image: int, runs: Mapping[str, Measured], missing: set[str]) -> list[tuple[str, str]] | None:
    """(what it shows, data URL) of the truth and of each run's detections; None if the file can't be read any more."""
    first = runs["A"]
    name = first.image_names[image]
    try:
        pixels = _read(first, name)
    except (UserError, OSError):
        missing.add(name)
        return None
    scale = min(1.0, MAX_SIDE / max(pixels.shape[:2]))
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    names, truth = first.categories.names, first.truth
    rows = truth.image_index == image
    boxes = scale * truth.boxes_xyxy[rows]
    objects = draw_objects(pixels, boxes, truth.labels[rows], truth.ignored[rows], names, min_side=MIN_SIDE)
    drawn = [(f"annotated: {rows.sum()}", objects)]
    for letter, run in runs.items():
        found = run.found
        rows = np.flatnonzero(found.image_index == image)
        rows = rows[found.scores[rows] > run.score_thresholds[found.labels[rows]]]
        boxes, scores, labels = scale * found.boxes_xyxy[rows], found.scores[rows], found.labels[rows]
        detections = draw_detections(pixels, boxes, scores, labels, names, min_side=MIN_SIDE)
        drawn.append((f"{letter}: {len(rows) or 'nothing'}", detections))
    return [(what, jpeg_url(one)) for what, one in drawn]


def _read(run: Measured, name: str) -> UInt8[np.ndarray, "H W 3"]:
    bits, path = run.about.get("bits"), run.root / name
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(path)
    return decode_image(path, bits=bits if type(bits) is int and 8 <= bits <= 16 else 16)
