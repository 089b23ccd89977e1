"""Boxes drawn at random, and data sets of any size made of them in seconds, for `scaling.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from onestage.data.formats.voc import voc_annotation

Kind = Literal["voc", "coco", "yolo"]

IMAGE_SIDE = 500  # pixels
DIFFERENT_IMAGES = 100  # then their objects come again


def draw_boxes(rng: np.random.Generator, count: int, side: int = IMAGE_SIDE) -> np.ndarray:
    """Boxes xyxy inside a square image, their sides a tenth to a half of its side."""
    sides = rng.uniform(0.1 * side, 0.5 * side, (count, 2))
    corners = rng.uniform(0.0, 1.0, (count, 2)) * (side - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def write_dataset(kind: Kind, folder: Path, images: int, objects: int, classes: int) -> None:
    """A data set with the split `train`. All images are one file by many names."""
    rng = np.random.default_rng(0)
    different = min(images, DIFFERENT_IMAGES)
    boxes_xyxy = draw_boxes(rng, different * objects).round(1).reshape(different, objects, 4)
    labels = rng.integers(0, classes, (different, objects))
    write = {"voc": _write_voc, "coco": _write_coco, "yolo": _write_yolo}[kind]
    write(folder, images, boxes_xyxy, labels, [f"class {label}" for label in range(classes)])


def _write_voc(folder: Path, images: int, boxes_xyxy: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    stems = _write_images(folder / "JPEGImages", images)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("\n".join(stems))
    size_hw, easy = (IMAGE_SIDE, IMAGE_SIDE), [False] * labels.shape[1]
    texts = [
        voc_annotation("a.jpg", size_hw, boxes, [names[label] for label in of_image], easy)
        for boxes, of_image in zip(boxes_xyxy, labels.tolist(), strict=True)
    ]
    _write_in_turn(folder / "Annotations", [f"{stem}.xml" for stem in stems], texts)


def _write_coco(folder: Path, count: int, boxes_xyxy: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    stems = _write_images(folder / "train", count)
    size = f'"height":{IMAGE_SIDE},"width":{IMAGE_SIDE}'
    images = (f'{{"id":{number},"file_name":"{stem}.jpg",{size}}}' for number, stem in enumerate(stems))
    boxes_xywh = np.concatenate([boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]], axis=-1)
    rows = zip(boxes_xywh.round(1).reshape(-1, 4).tolist(), labels.ravel().tolist(), strict=True)
    records = [f'"category_id":{label},"bbox":{box},"area":1.0,"iscrowd":0' for box, label in rows]
    objects = labels.shape[1]
    annotations = (
        f'{{"id":{row},"image_id":{row // objects},{records[row % len(records)]}}}' for row in range(count * objects)
    )
    categories = json.dumps([{"id": label, "name": name} for label, name in enumerate(names)])
    (folder / "annotations").mkdir()
    with (folder / "annotations" / "instances_train.json").open("w") as file:
        file.write(f'{{"images":[{",".join(images)}],"categories":{categories},"annotations":[')
        file.write(",".join(annotations))
        file.write("]}")


def _write_yolo(folder: Path, images: int, boxes_xyxy: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    stems = _write_images(folder / "images" / "train", images)
    (folder / "data.yaml").write_text(json.dumps({"train": "images/train", "names": names}))  # JSON is YAML
    centres, sides = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2, boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    boxes_cxcywh = np.concatenate([centres, sides], axis=-1) / IMAGE_SIDE
    texts = []
    for boxes, of_image in zip(boxes_cxcywh.tolist(), labels.tolist(), strict=True):
        rows = zip(of_image, boxes, strict=True)
        texts.append("\n".join(f"{label} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}" for label, (cx, cy, w, h) in rows))
    _write_in_turn(folder / "labels" / "train", [f"{stem}.txt" for stem in stems], texts)


def _write_images(folder: Path, count: int) -> list[str]:
    """One image by many names; their stems."""
    folder.mkdir(parents=True)
    stems = [f"{number:07d}" for number in range(count)]
    first = folder / f"{stems[0]}.jpg"
    cv2.imwrite(str(first), np.zeros((IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8))
    for stem in stems[1:]:
        os.link(first, folder / f"{stem}.jpg")
    return stems


def _write_in_turn(folder: Path, names: list[str], texts: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_text(texts[number % len(texts)])
