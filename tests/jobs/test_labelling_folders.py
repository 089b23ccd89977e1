"""Detections as data sets for labelling tools, read by our readers and by supervision, in the documented forms."""

from __future__ import annotations

import io
import json
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import cv2
import jsonschema
import numpy as np
import pytest
import supervision
import torch
import yaml
from films import write_film
from nasty_names import NASTY_NAMES
from pycocotools.coco import COCO
from read_back import objects, read
from red_box import RedBoxDetector
from rich.console import Console

import onestage
from onestage.inference.predictor import Predictor
from onestage.structures import Categories, Detections
from onestage.terminal import Display
from onestage.texts import one_line

BOXES = [[20.25, 30.5, 80.125, 90.0], [0.0, 0.0, 33.3, 12.0], [100.0, 10.0, 100.0, 50.0]]  # the third has no area
FOUND = Detections(torch.tensor(BOXES), torch.tensor([0.9, 0.6, 0.55]), torch.tensor([1, 0, 1]))
EXPECTED = [("blue", 0.0, 0.0, 33.3, 12.0), ("red", 20.25, 30.5, 80.125, 90.0)]
FORMATS = ("voc", "yolo", "coco-folder", "label-studio")


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """Every model finds the same in any image that isn't black."""
    nothing = FOUND[:0]
    monkeypatch.setattr(
        RedBoxDetector, "detect", lambda self, raw, *_: [FOUND if box[0, 2] > 0 else nothing for box in raw.box_deltas]
    )
    predictor = Predictor(RedBoxDetector(), Categories.from_names(["blue", "red"]), device="cpu", precision="fp32")
    monkeypatch.setattr("onestage.jobs.predict.load", lambda model, **_: predictor)
    return predictor


@pytest.fixture
def out(tmp_path: Path, predictor: Predictor) -> Path:
    """The results for three images, of which the last has no detection and two have the same name."""
    for name, value in (("a b.png", 255), ("deep/a b.png", 255), ("z/empty.png", 0)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.zeros((100, 100, 3), dtype=np.uint8)
        image[:, :, 2] = value
        cv2.imwrite(str(tmp_path / "in" / name), image)
    return write(tmp_path, [str(tmp_path / "in")])


def write(folder: Path, sources: list[str]) -> Path:
    display = Display(Console(file=io.StringIO()))
    onestage.predict("runs/mine", sources, out=folder / "out", formats=FORMATS, display=display)
    return folder / "out"


@pytest.mark.parametrize(
    ("folder", "kind", "split", "digits"),
    [
        ("voc", "voc", "trainval", 0),
        ("yolo", "yolo", "train", 1e-5),
        ("coco-folder", "coco", "all", 1e-5),
        ("label-studio", "label-studio", "all", 1e-5),
    ],
)
def test_our_own_readers_find_the_same_boxes(out: Path, folder: str, kind: str, split: str, digits: float) -> None:
    table, problems = read(out / folder, kind, split)
    names = sorted(table.image_name(index).rpartition("/")[2] for index in range(len(table)))
    assert names == ["a b.png", "deep-a b.png", "z-empty.png"]
    for index in range(len(table)):
        rows = sorted(objects(table, index))
        assert [row[0] for row in rows] == ([] if "empty" in table.image_name(index) else ["blue", "red"])
        expected = [row[1:] for row in EXPECTED][: len(rows)]
        np.testing.assert_allclose([row[1:] for row in rows], expected, atol=max(digits, 1e-3))
    assert [kind for kind, _ in problems] == (["predictions"] if folder == "label-studio" else [])


def test_supervision_reads_the_voc_yolo_and_coco_folders(out: Path) -> None:
    coco, yolo, voc = out / "coco-folder", out / "yolo", out / "voc"
    sets = [
        supervision.DetectionDataset.from_coco(
            str(coco / "images/default"), str(coco / "annotations/instances_default.json")
        ),
        supervision.DetectionDataset.from_yolo(
            str(yolo / "images/train"), str(yolo / "labels/train"), str(yolo / "data.yaml")
        ),
        supervision.DetectionDataset.from_pascal_voc(str(voc / "JPEGImages"), str(voc / "Annotations")),
    ]
    for dataset in sets:
        assert sorted(dataset.classes) == ["blue", "red"]
        seen = {Path(path).name: found for path, _, found in dataset}
        assert sorted(seen) == ["a b.png", "deep-a b.png", "z-empty.png"]
        assert len(seen["z-empty.png"]) == 0
        for name in ("a b.png", "deep-a b.png"):
            assert seen[name].class_id is not None
            rows = sorted(
                (dataset.classes[label], *box.tolist())
                for label, box in zip(seen[name].class_id, seen[name].xyxy, strict=True)
            )
            assert [row[0] for row in rows] == ["blue", "red"]
            # supervision takes VOC's and YOLO's boxes for whole pixels
            np.testing.assert_allclose([row[1:] for row in rows], [row[1:] for row in EXPECTED], atol=1.01)


def test_the_voc_folder_names_its_classes_for_cvat(out: Path) -> None:
    lines = (out / "voc/labelmap.txt").read_text().splitlines()
    assert lines == ["# label:color_rgb:parts:actions", "background:0,0,0::", "blue:::", "red:::"]


def test_supervision_has_the_same_detections_with_their_names(predictor: Predictor) -> None:
    found = Detections(FOUND.boxes_xyxy, FOUND.scores, FOUND.labels, ("blue", "red")).to_supervision()
    assert found["class_name"].tolist() == ["red", "blue", "red"]
    np.testing.assert_array_equal(found.xyxy, np.array(BOXES, dtype=np.float32))


def test_the_coco_folder_is_as_cvat_and_fiftyone_import_it(out: Path) -> None:
    """CVAT: images/SPLIT beside annotations/instances_SPLIT.json, names without folders, category ids from 1."""
    file = out / "coco-folder/annotations/instances_default.json"
    coco = COCO(str(file))
    assert coco.cats == {1: {"id": 1, "name": "blue"}, 2: {"id": 2, "name": "red"}}
    assert [one["file_name"] for one in coco.imgs.values()] == ["a b.png", "deep-a b.png", "z-empty.png"]
    assert all((out / "coco-folder/images/default" / one["file_name"]).exists() for one in coco.imgs.values())
    annotations: list[dict] = json.loads(file.read_text())["annotations"]
    assert [(one["id"], one["image_id"], one["category_id"], one["iscrowd"]) for one in annotations] == [
        (1, 1, 2, 0), (2, 1, 1, 0), (3, 2, 2, 0), (4, 2, 1, 0),
    ]  # fmt: skip
    assert annotations[0]["bbox"] == [20.25, 30.5, 59.875, 59.5]
    assert annotations[0]["area"] == pytest.approx(3562.5625)
    assert [one["score"] for one in annotations] == [0.9, 0.6, 0.9, 0.6]  # FiftyOne's confidence
    assert all(one["segmentation"] == [] for one in annotations)


# labelstud.io/guide/predictions, "JSON format for pre-annotations": what an imported task has to have
PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
REGION = {
    "type": "object",
    "required": ["id", "type", "from_name", "to_name", "value"],
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "type": {"const": "rectanglelabels"},
        "from_name": {"const": "label"},
        "to_name": {"const": "image"},
        "original_width": {"const": 100},
        "original_height": {"const": 100},
        "image_rotation": {"const": 0},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "value": {
            "type": "object",
            "required": ["x", "y", "width", "height", "rotation", "rectanglelabels"],
            "properties": {
                **dict.fromkeys(("x", "y", "width", "height"), PERCENT),
                "rotation": {"const": 0},
                "rectanglelabels": {"type": "array", "items": {"enum": ["blue", "red"]}, "minItems": 1, "maxItems": 1},
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
PREDICTION = {
    "type": "object",
    "required": ["result"],
    "properties": {
        "model_version": {"const": "runs/mine"},
        "score": {"type": "number"},
        "result": {"type": "array", "items": REGION},
    },
    "additionalProperties": False,
}
TASKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "properties": {
            "data": {"type": "object", "required": ["image"]},
            "predictions": {"type": "array", "items": PREDICTION, "maxItems": 1},
        },
        "additionalProperties": False,
    },
}


def test_label_studio_tasks_have_the_documented_form(out: Path) -> None:
    tasks = json.loads((out / "label-studio/tasks.json").read_text())
    jsonschema.validate(tasks, TASKS)
    region = tasks[0]["predictions"][0]["result"][0]
    assert region["value"]["x"] == 20.25
    assert region["value"]["width"] == 59.875
    ids = [one["id"] for task in tasks for one in task["predictions"][0]["result"]]
    assert len(set(ids)) == len(ids) == 4  # no two of a file may be the same
    assert [task["predictions"][0].get("score") for task in tasks] == [0.75, 0.75, None]  # means of 0.9 and 0.6
    for task in tasks:
        path = unquote(task["data"]["image"].removeprefix("/data/local-files/?d="))
        assert (out / "label-studio" / path).is_file()
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=images/a%20b.png"
    config = ElementTree.parse(out / "label-studio/labels.xml").getroot()
    tags = {tag.tag: tag.attrib for tag in config}
    assert tags["Image"] == {"name": "image", "value": "$image"}
    assert tags["RectangleLabels"] == {"name": "label", "toName": "image"}
    assert [tag.attrib["value"] for tag in config.iter("Label")] == ["blue", "red"]


def test_frames_of_a_video_are_images_of_the_folders(tmp_path: Path, predictor: Predictor) -> None:
    out = write(tmp_path, [str(write_film(tmp_path / "film.mp4", 3))])
    for folder, kind, split in (("yolo", "yolo", "train"), ("coco-folder", "coco", "all")):
        table, _ = read(out / folder, kind, split)
        names = sorted(table.image_name(index).rpartition("/")[2] for index in range(len(table)))
        assert names == ["film-000000.jpg", "film-000001.jpg", "film-000002.jpg"]


def test_nasty_names_of_classes_are_the_same_text_in_all_folders(out: Path, predictor: Predictor) -> None:
    for name in NASTY_NAMES:
        predictor.categories = Categories.from_names(["blue", name])
        write(out.parent, [str(out.parent / "in")])
        config = ElementTree.parse(out / "label-studio/labels.xml").getroot()
        labels = [tag.attrib["value"] for tag in config.iter("Label")]
        (task, *_) = json.loads((out / "label-studio/tasks.json").read_text())
        used = task["predictions"][0]["result"][0]["value"]["rectanglelabels"]
        content = json.loads((out / "coco-folder/annotations/instances_default.json").read_text())
        settings = yaml.safe_load((out / "yolo/data.yaml").read_text(encoding="utf-8"))
        assert (labels[1:], used, content["categories"][1]["name"], settings["names"][1]) == (
            [one_line(name)], [one_line(name)], one_line(name), one_line(name),
        )  # fmt: skip
