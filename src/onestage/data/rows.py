"""How annotated images become rows of a table.

They get the sizes that annotations lack, their objects are checked, and everything that is wrong is noted.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from itertools import compress, islice
from math import isfinite
from operator import not_

import numpy as np

from onestage.data.folder import DataFolder, shown, stem_of
from onestage.data.reading import FRACTION_LIMIT, AnnotatedImage, AnnotatedObject, Box, Faults, Source
from onestage.data.table import Table, TableBuilder
from onestage.data.validate import Problem, Severity, checked_images, same_proportions
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.structures import Categories

BORDER_TOLERANCE = 2.0  # pixels that a box may reach beyond its image by rounding
BORDER_NOISE = 0.05  # pixels that the decimals of a file lose: clipped without a notice
CHUNK = 4096  # images whose annotations are in memory at once


def read_source(
    source: Source,
    folder: DataFolder,
    kind: str,
    split: str,
    categories: Categories | None = None,
    options: DataOptions = AS_IT_IS,
) -> tuple[Table, list[Problem]]:
    """One split of a source as a table, with everything that was wrong; see `read_dataset`."""
    faults = Faults(folder, split)
    own = source.categories(split)
    known, builder = categories or own, TableBuilder(folder.root, split, kind)
    names: dict[str, int] = {}  # found, in that order, where there is no list of classes
    rows = AnnotatedRows(source.one_image_each, faults)
    in_pixels, count = False, 0
    images = source.images(split, faults)
    while chunk := list(islice(images, CHUNK)):
        for image, size_hw in zip(chunk, _sizes_hw(folder, chunk, options), strict=True):
            if isinstance(size_hw, str):
                faults.report(image.path, "unreadable-image", size_hw)
                continue
            objects = ImageObjects(image, size_hw, names if known is None else known, faults)
            for one in image.objects:
                objects.add(one)
                in_pixels |= image.fractions or not _is_fraction(one.box_xyxy)
                count += 1
            if rows.take(objects):
                objects.into(builder)
    if faults.without_box:
        shapes = ", ".join(f"{number:,} {shown(shape)}" for shape, number in faults.without_box.most_common())
        faults.report(kind, "no-box", f"{shapes} in {split}: shapes without a box are no objects", "notice")
    if count and not in_pixels:
        message = f"all {count:,} boxes are at most 1 wide: fractions of the image, where pixels are expected"
        faults.report(split, "box-outside", f"{message}; multiply them by the size of their image")
    table = builder.build(known or Categories.from_names(names)).with_rows_joined(rows.first)
    if known is None:
        table = table.with_categories(Categories.from_names(sorted(names)))
    return replace(table, max_pixels=options.max_pixels), faults.problems


def _is_fraction(box_xyxy: Box) -> bool:
    """True for sides that are hardly pixels: broken numbers up to 1, or a little more."""
    return max(map(abs, box_xyxy)) <= FRACTION_LIMIT and any(side % 1 for side in box_xyxy)


def _sizes_hw(folder: DataFolder, images: list[AnnotatedImage], options: DataOptions) -> list[tuple[int, int] | str]:
    """The size of each image: as annotated, else its own, or why that can't be read."""
    if all(image.size_hw is not None for image in images) and not options.rescale_boxes:
        return [image.size_hw or "" for image in images]
    checks = checked_images(folder.root, [image.path for image in images], options.max_pixels)
    own = [check if isinstance(check, str) else (check.height, check.width) for check in checks]
    keep = not options.rescale_boxes
    return [image.size_hw if keep and image.size_hw else size for image, size in zip(images, own, strict=True)]


class ImageObjects:
    """The objects of one image: the good are kept, the others reported by their number in the annotation, from 1."""

    def __init__(
        self, image: AnnotatedImage, size_hw: tuple[int, int], categories: Categories | dict[str, int], faults: Faults
    ) -> None:
        self.image, self.size_hw, self.categories, self.faults = image, size_hw, categories, faults
        self.scale = scale_of(image, size_hw)
        self.boxes_xyxy: list[Box] = []
        self.labels: list[int] = []
        self.ignored: list[bool] = []
        self.difficult: list[bool] = []
        self.areas: list[float] = []
        self._seen: set[tuple[int, bool, Box]] = set()

    def into(self, builder: TableBuilder) -> None:
        """Append the image and its objects to a table."""
        builder.add(
            path=self.image.path,
            image_id=self.image.image_id or stem_of(self.image.path),
            size_hw=self.size_hw,
            boxes_xyxy=np.array(self.boxes_xyxy, dtype=np.float64).reshape(-1, 4),
            labels=self.labels,
            ignored=self.ignored,
            areas=np.array(self.areas, dtype=np.float64),
            difficult=self.difficult,
        )

    def add(self, one: AnnotatedObject) -> None:
        """Check one object and keep it if it is good.

        Nothing that is visible becomes background: what lies beyond the border is clipped, and a box without area
        makes the pixels that it names ignored.
        """
        labels = self._labels(one)
        if labels is None:
            return
        width, height = float(self.size_hw[1]), float(self.size_hw[0])
        scale_x, scale_y = self.scale
        x0, y0, x1, y1 = one.box_xyxy
        x0, y0, x1, y1 = box = x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y
        ignored, difficult, area = one.ignored, one.difficult, one.area
        if not all(map(isfinite, box)):
            return self._report(one, "box-not-finite", f"{one.written}; give finite numbers or delete the box")
        if x1 <= x0 or y1 <= y0:
            message = f"{one.written} has no area; its pixels are ignored in training; fix or delete the box"
            self._report(one, "box-empty", message, "notice")
            x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
            x1, y1, ignored, difficult, area = max(x1, x0 + 1.0), max(y1, y0 + 1.0), True, False, None
        beyond = max(-x0, -y0, x1 - width, y1 - height)  # pixels over the border
        x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
        if x1 <= x0 or y1 <= y0:
            message = f"{one.written} lies outside the {width:.0f}x{height:.0f} image; fix or delete the box"
            return self._report(one, "box-outside", message)
        if beyond > BORDER_TOLERANCE:
            message = f"{one.written} reaches {beyond:.4g} px outside the {width:.0f}x{height:.0f} image; clipped to it"
            self._report(one, "box-clipped", message, "notice")
        elif beyond > BORDER_NOISE:
            message = f"{one.written} reaches {beyond:.3g} px over the border of {width:.0f}x{height:.0f}; clipped"
            self._report(one, "box-border", message, "notice")
        if (labels[0], ignored, box) in self._seen:
            return self._report(one, "duplicate-object", f"{one.written} is the same object again; left out", "notice")
        self._seen.add((labels[0], ignored, box))
        for label in labels:
            self.boxes_xyxy.append((x0, y0, x1, y1))
            self.labels.append(label)
            self.ignored.append(ignored)
            self.difficult.append(difficult)
            self.areas.append((x1 - x0) * (y1 - y0) if area is None else area)
        return None

    def _labels(self, one: AnnotatedObject) -> list[int] | None:
        """The label of an object's class, all labels for a region to ignore; None, and a problem, for none."""
        if one.name is None:
            return list(range(len(self.categories))) or None
        if isinstance(self.categories, dict):
            return [self.categories.setdefault(one.name, len(self.categories))]
        label = self.categories.label_of.get(one.name)
        if label is None:
            return self._report(one, "class", _unknown_class(one.name, self.categories))
        return [label]

    def _report(self, one: AnnotatedObject, kind: str, message: str, severity: Severity = "error") -> None:
        self.faults.report(self.image.file, kind, message, severity, one.number)


class AnnotatedRows:
    """The rows of a table in the making: which of them are annotations of one image.

    Files of a class each, over the same images, are joined. Of two annotations with a class in common nobody knows
    which is right: that is an error, and the image is left out.
    """

    def __init__(self, one_image_each: bool, faults: Faults) -> None:
        self.one_image_each, self.faults = one_image_each, faults
        self.first: list[int] = []  # of each row the first one of its image
        self._seen: dict[str, tuple[int, ImageObjects, set[int]]] = {}  # path -> first row, its objects, all labels

    def take(self, objects: ImageObjects) -> bool:
        """True if the annotation becomes the next row."""
        image, labels = objects.image, set(compress(objects.labels, map(not_, objects.ignored)))
        row, first, before = self._seen.setdefault(image.path, (len(self.first), objects, set()))
        differ = self.one_image_each or first.size_hw != objects.size_hw
        if row < len(self.first) and (differ or before & labels):
            message = f"is the image of {first.image.file} and of {image.file}; delete one of the two"
            self.faults.report(image.path, "duplicate-image", message)
            return False
        before |= labels
        self.first.append(row)
        return True


def scale_of(image: AnnotatedImage, size_hw: tuple[int, int]) -> tuple[float, float]:
    """Factors from the units of an annotation's boxes to pixels of an image of `size_hw`."""
    height, width = size_hw
    if image.fractions:
        return float(width), float(height)
    if image.size_hw is None or image.size_hw == size_hw or not same_proportions(image.size_hw, size_hw):
        return 1.0, 1.0
    return width / image.size_hw[1], height / image.size_hw[0]


@lru_cache  # every object of an unknown class asks
def _unknown_class(name: str, categories: Categories) -> str:
    """The message for a class that is not in the list, with the nearest one that is."""
    lowered = {known.lower(): known for known in categories.names}
    nearest = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"; the nearest is {lowered[nearest[0]]!r}" if nearest else ""
    listed = ", ".join(categories.names[:10]) + (", ..." if len(categories) > 10 else "")
    return f"class {name[:80]!r} is not among the {len(categories)} known ones ({listed}){hint}; rename it or list it"
