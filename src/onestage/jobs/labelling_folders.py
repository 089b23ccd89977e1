"""Detections as data sets that labelling tools import, to be corrected there: copies of the images, and annotations.

    VOC            voc/            labelmap.txt, Annotations/STEM.xml, JPEGImages/NAME, ImageSets/Main/trainval.txt
    COCO           coco-folder/    annotations/instances_default.json, images/default/NAME
    YOLO           yolo/           data.yaml, labels/train/STEM.txt, images/train/NAME
    Label Studio   label-studio/   tasks.json, labels.xml, images/NAME

The data readers read what is written, with the same boxes. Detections without area, as at a border, are left out:
no tool has such boxes.
"""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import yaml

from onestage.data.formats.voc import voc_annotation
from onestage.data.writing import coco_annotation, yolo_lines
from onestage.jobs.result_files import Add, ImageResult, JsonList, Output, write_image
from onestage.structures import Detections
from onestage.texts import as_file_name, json_text, one_line


class _Copies:
    """Copies of images in one folder, each with a stem of its own."""

    def __init__(self, output: Output, folder: str) -> None:
        self.written, self.folder = output.written, output.written.folder / folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.taken: set[str] = set()

    def add(self, result: ImageResult) -> str:
        """Copy an image; gives the file name of the copy."""
        flat = Path(as_file_name(result.name.replace("/", "-")))
        stem, numbers = flat.stem, count(2)
        while stem.lower() in self.taken:
            stem = f"{flat.stem}-{next(numbers)}"
        self.taken.add(stem.lower())
        image = self.written.begin(self.folder / f"{stem}{(result.file or flat).suffix}")
        if result.file is not None:
            shutil.copyfile(result.file, image)
        else:
            write_image(image, result.image_rgb)
        self.written.done(image)
        return image.name


def voc_folder(output: Output) -> Add:
    """`voc/`, to correct in LabelImg, CVAT or another tool; `labelmap.txt` names the classes for CVAT.

    Source: docs.cvat.ai, "Dataset formats, Pascal VOC".
    """
    copies, annotations = _Copies(output, "voc/JPEGImages"), output.written.folder / "voc" / "Annotations"
    names_file = output.opened("voc/ImageSets/Main/trainval.txt")
    classes = "".join(f"{one_line(name)}:::\n" for name in output.categories.names)
    output.opened("voc/labelmap.txt").write(f"# label:color_rgb:parts:actions\nbackground:0,0,0::\n{classes}")

    def add(result: ImageResult) -> None:
        name, found = copies.add(result), _with_area(result.found)
        names, boxes_xyxy = [found.name_of(label) for label in found.labels.tolist()], found.boxes_xyxy.cpu().numpy()
        text = voc_annotation(name, result.size_hw, boxes_xyxy, names, [False] * len(names))
        _write(output, annotations / f"{Path(name).stem}.xml", text)
        names_file.write(f"{Path(name).stem}\n")

    return add


def yolo_folder(output: Output) -> Add:
    """`yolo/`, to correct in CVAT, Roboflow or another tool."""
    copies, labels = _Copies(output, "yolo/images/train"), output.written.folder / "yolo" / "labels" / "train"
    names = {label: one_line(name) for label, name in enumerate(output.categories.names)}
    settings = yaml.safe_dump({"train": "images/train", "names": names}, allow_unicode=True, sort_keys=False)
    output.opened("yolo/data.yaml").write(settings)

    def add(result: ImageResult) -> None:
        name, found = copies.add(result), _with_area(result.found)
        lines = yolo_lines(found.boxes_xyxy.cpu().numpy(), found.labels.cpu().numpy(), result.size_hw)
        _write(output, labels / f"{Path(name).stem}.txt", "".join(f"{line}\n" for line in lines))

    return add


def coco_folder(output: Output) -> Add:
    """`coco-folder/`, as CVAT exports and imports it ("COCO 1.0"); annotations have a `score`, as FiftyOne reads it.

    Source: docs.cvat.ai, "Dataset formats, COCO"; docs.voxel51.com, `COCODetectionDataset`.
    """
    copies, numbers, image_ids = _Copies(output, "coco-folder/images/default"), count(1), count(1)
    class_ids = range(1, len(output.categories) + 1)  # CVAT takes 0 for no category
    classes = [
        {"id": one, "name": one_line(name)} for one, name in zip(class_ids, output.categories.names, strict=True)
    ]
    file = output.opened("coco-folder/annotations/instances_default.json")
    file.write('{"annotations": ')
    annotations = JsonList(file)
    images = JsonList(output.files.enter_context(TemporaryFile("w+", encoding="utf-8")))  # noqa: SIM115

    def end() -> None:
        annotations.end(',\n"images": ')
        images.end(f',\n"categories": {json_text(classes)}}}\n')
        images.file.seek(0)
        shutil.copyfileobj(images.file, file)

    output.files.callback(end)

    def add(result: ImageResult) -> None:
        image_id, (height, width), found = next(image_ids), result.size_hw, _with_area(result.found)
        images.append({"id": image_id, "file_name": copies.add(result), "width": width, "height": height})
        for box_xyxy, label, score in zip(
            found.boxes_xyxy.cpu().numpy(), found.labels.tolist(), found.scores.tolist(), strict=True
        ):
            one = coco_annotation(next(numbers), image_id, class_ids[label], box_xyxy)
            annotations.append({**one, "score": round(score, 5)})

    return add


def label_studio_folder(output: Output) -> Add:
    """`label-studio/`: tasks with predictions, and the labelling interface that these are for.

    Images are named as Label Studio's local file serving has them, below its document root. Boxes are in percent of
    the image. The score of a task is the mean of its detections'; Label Studio can sort by it.

    Source: labelstud.io/guide/predictions ("JSON format for pre-annotations") and labelstud.io/guide/storage ("Local
    storage").
    """
    copies, tasks = _Copies(output, "label-studio/images"), output.json_list("label-studio/tasks.json")
    names = [one_line(name) for name in output.categories.names]
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
    output.opened("label-studio/labels.xml").write(
        f'<View>\n  <Image name="image" value="$image"/>\n  <RectangleLabels name="label" toName="image">\n{labels}'
        "  </RectangleLabels>\n</View>\n"
    )
    numbers = count(1)

    def add(result: ImageResult) -> None:
        found, (height, width) = _with_area(result.found), result.size_hw
        x0, y0, x1, y1 = found.boxes_xyxy.double().cpu().numpy().T / [[width], [height], [width], [height]] * 100
        sides = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).tolist()
        region = {"type": "rectanglelabels", "from_name": "label", "to_name": "image", "image_rotation": 0}
        region |= {"original_width": width, "original_height": height}
        regions = [
            {
                **region,
                "id": f"detection-{next(numbers)}",
                "score": round(score, 5),
                "value": dict(
                    zip(("x", "y", "width", "height"), box, strict=True), rotation=0, rectanglelabels=[names[label]]
                ),
            }
            for box, label, score in zip(sides, found.labels.tolist(), found.scores.tolist(), strict=True)
        ]
        prediction = {"model_version": output.model, "result": regions}
        if regions:
            prediction["score"] = round(float(found.scores.mean()), 5)
        address = f"/data/local-files/?d=images/{quote(copies.add(result))}"
        tasks.append({"data": {"image": address, **result.where}, "predictions": [prediction]})

    return add


def _with_area(found: Detections) -> Detections:
    corners = found.boxes_xyxy
    return found[(corners[:, 2:] > corners[:, :2]).all(dim=1)]


def _write(output: Output, path: Path, text: str) -> None:
    output.written.begin(path).write_text(text, encoding="utf-8")
    output.written.done(path)
