"""Label Studio's own JSON: a list of tasks, with rectangles, polygons and ellipses in percent of the image.

JSON-MIN has the regions of a task beside its image. Tasks that are to be imported, with predictions and without a list
of annotations, are read with their first prediction. A rectangle may be turned around its top left corner, an ellipse
around its centre. Of several annotations of a task the first counts. Key points and choices are no objects; what a
brush painted is one, but is not read, so such images are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from onestage.data.folder import DataFolder, is_image, shown
from onestage.data.reading import (
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Faults,
    FilesSource,
    numbers_of,
    objects_of,
    read_list,
    whole_size,
)
from onestage.data.served_names import without_server
from onestage.data.shapes import UnreadShapeError, box_around_corners, box_of_ellipse, turned_box

LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels")
WITH_BOX = ("rectangle", "polygon", "ellipse", *LABELS)  # types of regions
MASKS = ("rle", "imageDataURL")  # how brushes write what they painted


def find_label_studio(folder: DataFolder) -> LabelStudioSource | None:
    """The JSON files of a folder that hold tasks with regions."""
    files = folder.annotations_like(is_label_studio, ".json")
    return LabelStudioSource(folder, files) if files else None


def is_label_studio(head: str) -> bool:
    """True for the beginning of a list of tasks with regions."""
    return bool(re.match(r"\s*\[\s*\{", head) and re.search(r'"(rectangle|polygon|ellipse|brush|bitmask)labels"', head))


class LabelStudioSource(FilesSource):
    """JSON files, each of many tasks."""

    tool = "Label Studio"

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        for file in self.of_split(split):
            unlabelled = several = predicted = 0
            for number, task in enumerate(read_list(self.folder, file), start=1):
                place = f"{file}, task {number}"
                names, annotations = _images_and_annotations(task) if isinstance(task, dict) else ([], None)
                name = next(iter(names), None)
                if len(names) > 1 and len(tags := _tags(annotations)) > 1:
                    message = (
                        f"it has {len(names)} images and regions of {', '.join(tags)[:100]}, but not which is whose"
                    )
                    faults.report(place, "annotation", f"{message}; export a task an image")
                elif name is None or annotations is None:
                    message = f"{shown(task)} is no task with an image and annotations; delete it"
                    faults.report(place, "annotation", message)
                elif (path := faults.find_image(name, file)) is not None:
                    unlabelled += not annotations
                    several += len(annotations) > 1
                    predicted += "predictions" in task and "annotations" not in task
                    for regions in annotations[:1]:
                        try:
                            objects = list(_objects(place, regions, faults))
                        except UnreadShapeError as error:
                            faults.report(place, "annotation", str(error))
                            continue
                        size_hw = next(filter(None, map(_size_hw, regions)), None)
                        yield AnnotatedImage(place, path, objects, size_hw, fractions=True)
            if several:
                message = f"{several:,} tasks have several annotations; the first of each is taken"
                faults.report(file, "several-annotations", message, "notice")
            if predicted:
                message = f"{predicted:,} tasks have no annotations but predictions; these are taken"
                faults.report(file, "predictions", message, "notice")
            if unlabelled:
                message = f"{unlabelled:,} tasks are not labelled yet; their images are left out"
                faults.report(file, "not-labelled", message, "notice")


def _tags(annotations: list[list[Any]] | None) -> list[str]:
    """What the regions are drawn on, by the names in the labelling interface."""
    regions = (region for regions in annotations or () for region in regions if isinstance(region, dict))
    return sorted({str(region["to_name"]) for region in regions if region.get("to_name")})


def _images_and_annotations(task: Mapping[str, Any]) -> tuple[list[str], list[list[Any]] | None]:
    """The images of a task, without what servers put before a name, and the regions of each of its annotations."""
    lists = ("annotations", "completions", "predictions")  # those of an unlabelled task are not its annotations
    key = next((key for key in lists if key in task), None)
    data, annotations = task.get("data", task), task.get(key or "")
    values = (value for value in (data.values() if isinstance(data, dict) else ()) if isinstance(value, str))
    names = list(filter(is_image, (without_server(value).partition("?")[0] for value in values)))
    if key is None:  # JSON-MIN
        lists = (value for value in task.values() if isinstance(value, list))
        return names, [[region for regions in lists for region in regions if isinstance(region, dict)]]
    if key == "predictions" and isinstance(annotations, list):
        annotations = annotations[:1]
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        return names, None
    results = [one.get("result") for one in annotations if not one.get("was_cancelled")]
    regions = [one for one in results if isinstance(one, list)]
    return names, regions if len(regions) == len(results) else None


def _size_hw(region: object) -> tuple[int, int] | None:
    values = region if isinstance(region, dict) else {}
    return whole_size(values.get("original_height"), values.get("original_width"))


def _shape_of(region: object) -> dict[str, Any]:
    """The numbers and labels of a region; JSON-MIN has them beside its other values."""
    values = region if isinstance(region, dict) else {}
    shape = values.get("value", values)
    return shape if isinstance(shape, dict) else {}


def _objects(place: str, regions: list[Any], faults: Faults) -> Iterator[AnnotatedObject]:
    """The objects of an annotation; an UnreadShapeError for a mask."""
    shapes = [_shape_of(region) for region in regions]
    boxes = [_box(shape, _size_hw(region)) for shape, region in zip(shapes, regions, strict=True)]
    labelled = {box for shape, box in zip(shapes, boxes, strict=True) if shape.get("labels")}
    for number, (region, shape, box) in enumerate(zip(regions, shapes, boxes, strict=True), start=1):
        key = next((key for key in LABELS if key in shape), None)
        kind = region.get("type") if isinstance(region, dict) else None
        kind = kind or next((key for key in shape if key.endswith("labels")), None)
        if any(mask in shape for mask in MASKS):
            raise UnreadShapeError(
                f"region {number} is a mask ({shown(kind)}), which is not read; draw a box around it"
            )
        if key is None and isinstance(kind, str) and kind not in WITH_BOX:
            faults.without_box[kind] += 1
        elif key is not None or box is None or box not in labelled:  # else its label is a region of its own
            names = shape.get(key or "")
            for name in names if isinstance(names, list) and names else [names]:
                yield from objects_of(faults, place, number, name, box, f"the region {shown(shape or region)}")


def _box(shape: Mapping[str, Any], size_hw: tuple[int, int] | None) -> Box | None:
    """The upright box of a region in fractions; None without its numbers, or without a size if it is turned."""
    height, width = size_hw or (1, 1)
    if "points" in shape:
        width, height, box = 1, 1, box_around_corners(shape["points"])
    else:
        round_ = "radiusX" in shape
        keys = ("x", "y", "radiusX", "radiusY") if round_ else ("x", "y", "width", "height")
        sides = numbers_of(shape.get(key, 0.0 if key == "rotation" else None) for key in (*keys, "rotation"))
        if sides is None or (sides[4] and size_hw is None):
            return None
        x, y, w, h = sides[0] * width, sides[1] * height, sides[2] * width, sides[3] * height
        turned = turned_box((x, y, x + w, y + h), sides[4], (x, y))
        box = box_of_ellipse(x, y, w, h, sides[4]) if round_ else turned
    if box is None:
        return None
    return box[0] / width / 100, box[1] / height / 100, box[2] / width / 100, box[3] / height / 100
