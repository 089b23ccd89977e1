"""The images of the report: the worst of each kind of mistake, and the best, drawn with what is right and wrong."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int64, UInt8

from onestage.drawing import Color, draw_objects
from onestage.evaluation.at_thresholds import AtThresholds
from onestage.evaluation.mistakes import KIND_WORDS, KINDS, MISSED
from onestage.evaluation.pages import jpeg_url
from onestage.structures import Categories

DRAWN_SIDE = 480  # pixels of an image on the page, or of the part of it that is shown
SEEN_SIDE = 30  # pixels on the page below which a box can't be judged: then a part of the image is shown
PART_SIDES = 7.0  # sides of the box in the middle, in such a part
QUALITIES, MOST_LETTERS = (80, 60, 40, 20), 100_000  # of a JPEG as text; a larger one is written more coarsely
MOST_TAGS = 8  # mistakes of an image with their name at them
# Okabe and Ito's palette: told apart by the colour-blind, and by their lightness.
FOUND_COLOR, NOT_FOUND_COLOR, FALSE_ALARM_COLOR = (86, 180, 233), (240, 228, 66), (213, 94, 0)
IGNORED_COLOR, TILE_COLOR = (190, 190, 190), (255, 255, 255)
HITS, NOT_FOUND = 6, 7  # columns of `AtThresholds.by_image` behind those of `KINDS`


@dataclass(frozen=True)
class ImageSource:
    """Where the report gets an image by its number: its name, its pixels, and the tiles that the network saw."""

    name_of: Callable[[int], str]
    pixels_of: Callable[[int], UInt8[np.ndarray, "H W 3"]]  # RGB
    windows_of: Callable[[tuple[int, int]], Int64[np.ndarray, "T 4"]]  # of an image of (height, width)


@dataclass(frozen=True)
class DrawnImage:
    """A figure of the report."""

    name: str
    url: str
    kinds: tuple[str, ...]  # of the mistakes in it, from `KINDS`
    text: str  # what it shows, in words
    part: str  # which part of the image it is; "" for the whole


@dataclass(frozen=True)
class _Marks:
    """What is drawn in an image."""

    boxes_xyxy: Float[np.ndarray, "D 4"]  # pixels of the image
    labels: Int64[np.ndarray, " D"]
    kinds: Int64[np.ndarray, " D"]  # of mistakes, by `KINDS`; -1 for what is none
    captions: list[str]
    colors: list[Color]


def worst_images(at: AtThresholds, limit: int = 30) -> list[tuple[int, int]]:
    """(image, kind) of the worst mistakes: the kinds take turns, and no image comes twice.

    False alarms are the worse the higher they score, missed objects the more there are in an image.
    """
    of_kinds = []
    for kind in range(MISSED):
        rows = np.flatnonzero(at.false_alarm_of(kind))
        images = at.found.image_index[rows[np.argsort(-at.found.scores[rows], kind="stable")]]
        of_kinds.append(images[np.sort(np.unique(images, return_index=True)[1])].tolist())
    missed = at.by_image()[:, MISSED]
    of_kinds.append([int(image) for image in np.argsort(-missed, kind="stable") if missed[image]])
    chosen: dict[int, int] = {}
    for turn in range(max(map(len, of_kinds), default=0)):
        for kind, images in enumerate(of_kinds):
            if turn < len(images) and len(chosen) < limit:
                chosen.setdefault(images[turn], kind)
    return list(chosen.items())


def best_images(at: AtThresholds, limit: int = 6, without: Sequence[int] = ()) -> list[int]:
    """The images with the best F1, `without` those that are shown already.

    Among equals the classes take turns, so that the best are not all of the easiest class; then more hits come first.
    """
    counts = at.by_image()
    hits, mistakes = counts[:, HITS], counts[:, :MISSED].sum(axis=1) + counts[:, NOT_FOUND]
    f1 = np.where(mistakes == 0, 1.0, 2 * hits / np.maximum(1, 2 * hits + mistakes))
    first_label = np.full(len(hits), -1)
    images, rows = np.unique(at.truth.image_index, return_index=True)
    first_label[images] = at.truth.labels[rows]
    order = np.lexsort((-hits, -f1))
    by_class = order[np.argsort(first_label[order], kind="stable")]
    turn = np.empty(len(hits), dtype=np.int64)
    turn[by_class] = np.arange(len(hits)) - np.searchsorted(first_label[by_class], first_label[by_class])
    best = np.lexsort((-hits, turn, hits == 0, -f1))
    good = ((f1[best] > 0.5) | (mistakes[best] == 0)) & ~np.isin(best, without)
    return best[good][:limit].tolist()


def draw_image(
    at: AtThresholds, image: int, kind: int | None, source: ImageSource, categories: Categories
) -> DrawnImage:
    """An image with its hits, objects not found and false alarms; where they are small, the part around the worst.

    The worst is of `kind`; None looks at its best hit.
    """
    pixels = source.pixels_of(image)
    marks = _marks(at, image, categories)
    middle = next(iter(np.flatnonzero(marks.kinds == kind).tolist()), 0)
    x0, y0, x1, y1 = _window(marks.boxes_xyxy[middle : middle + 1], (pixels.shape[0], pixels.shape[1]))
    part = pixels[y0:y1, x0:x1]
    scale = DRAWN_SIDE / max(part.shape[:2])
    size_wh = tuple(max(1, round(side * scale)) for side in (x1 - x0, y1 - y0))
    shown = cv2.resize(part, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    tiles = source.windows_of((pixels.shape[0], pixels.shape[1]))
    if len(tiles) > 1:
        shown = _with_tiles(shown, (tiles - (x0, y0, x0, y0)) * scale)
    boxes_xyxy = marks.boxes_xyxy - (x0, y0, x0, y0)
    rows = np.flatnonzero(((boxes_xyxy[:, :2] < (x1 - x0, y1 - y0)) & (boxes_xyxy[:, 2:] > 0)).all(axis=1)).tolist()
    colors = [marks.colors[row] for row in rows]
    drawn = draw_objects(
        shown,
        (boxes_xyxy[rows] * scale).astype(np.float32),
        marks.labels[rows],
        np.array([color == IGNORED_COLOR for color in colors], dtype=bool),
        categories.names,
        captions=[marks.captions[row] if place < MOST_TAGS else "" for place, row in enumerate(rows)],
        colors=colors,
    )
    kinds = [one for one in marks.kinds[rows].tolist() if one >= 0]
    urls = (jpeg_url(drawn, quality) for quality in QUALITIES)
    whole = part.shape == pixels.shape
    return DrawnImage(
        name=source.name_of(image),
        url=next((url for url in urls if len(url) < MOST_LETTERS), jpeg_url(drawn, QUALITIES[-1])),
        kinds=tuple(dict.fromkeys(KINDS[one] for one in kinds)),
        text=_in_words(colors),
        part="" if whole else f"{x1 - x0} x {y1 - y0} of {pixels.shape[1]} x {pixels.shape[0]} pixels",
    )


def _marks(at: AtThresholds, image: int, categories: Categories) -> _Marks:
    """All there is to draw in an image, the mistakes first: false alarms, objects not found, hits, ignored objects."""
    in_image = np.flatnonzero(at.found.image_index == image)
    in_image = in_image[np.argsort(-at.found.scores[in_image], kind="stable")]
    wrong, right = (in_image[verdict[in_image]] for verdict in (at.assigned.false_positive, at.assigned.hit))
    objects = np.flatnonzero(at.truth.image_index == image)
    lost = objects[~at.truth.ignored[objects] & ~at.is_found[objects]]
    lost = lost[np.argsort(~at.mistakes.missed[lost], kind="stable")]
    ignored = objects[at.truth.ignored[objects]]
    counts = (len(wrong), len(lost), len(right), len(ignored))
    kinds = np.concatenate([at.mistakes.kind[wrong], np.where(at.mistakes.missed[lost], MISSED, -1)])
    tables = ((at.found, wrong), (at.truth, lost), (at.found, right), (at.truth, ignored))
    labels = np.concatenate([table.labels[rows] for table, rows in tables])
    names = [categories.names[label] for label in labels[: len(kinds)]]
    scored = zip(names, at.found.scores[wrong], kinds.tolist(), strict=False)
    captions = [f"{name} {score:.2f}: {KIND_WORDS[kind]}" for name, score, kind in scored] + names[len(wrong) :]
    palette = (FALSE_ALARM_COLOR, NOT_FOUND_COLOR, FOUND_COLOR, IGNORED_COLOR)
    return _Marks(
        boxes_xyxy=np.concatenate([table.boxes_xyxy[rows] for table, rows in tables]),
        labels=labels,
        kinds=np.concatenate([kinds, np.full(len(right) + len(ignored), -1)]),
        captions=[*captions, *[""] * (len(right) + len(ignored))],
        colors=[color for color, count in zip(palette, counts, strict=True) for _ in range(count)],
    )


def _window(box_xyxy: Float[np.ndarray, "D 4"], size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """The image, or where the box (one, or none) would be too small on the page, a square around it."""
    height, width = size_hw
    if not len(box_xyxy):
        return 0, 0, width, height
    x0, y0, x1, y1 = box_xyxy[0].tolist()
    side = max(((x1 - x0) * (y1 - y0)) ** 0.5, 1.0)
    if side * DRAWN_SIDE / max(size_hw) >= SEEN_SIDE:
        return 0, 0, width, height
    wanted = round(max(PART_SIDES * side, 1.3 * max(x1 - x0, y1 - y0), 64))
    wide, high = min(wanted, width), min(wanted, height)
    left = round(min(max((x0 + x1) / 2 - wide / 2, 0), width - wide))
    top = round(min(max((y0 + y1) / 2 - high / 2, 0), height - high))
    return left, top, left + wide, top + high


def _with_tiles(
    image: UInt8[np.ndarray, "H W 3"], windows_xyxy: Float[np.ndarray, "T 4"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy with the borders of all tiles, half transparent; between two lines lies what neighbours share."""
    lines = image.copy()
    for x0, y0, x1, y1 in windows_xyxy.round().astype(int).tolist():
        cv2.rectangle(lines, (x0, y0), (x1 - 1, y1 - 1), TILE_COLOR, 1)
    return cv2.addWeighted(lines, 0.5, image, 0.5, 0)


def _in_words(colors: Sequence[Color]) -> str:
    """As "2 found, 1 not found, 1 false alarm"."""
    count = Counter(colors)
    parts = [(count[FOUND_COLOR], "found"), (count[NOT_FOUND_COLOR], "not found")]
    words = [f"{number} {what}" for number, what in parts if number]
    if alarms := count[FALSE_ALARM_COLOR]:
        words.append(f"{alarms} false alarm{'s' if alarms > 1 else ''}")
    return ", ".join(words) or "nothing to find, nothing found"
