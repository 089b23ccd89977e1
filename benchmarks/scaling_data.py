"""Boxes drawn at random, and data sets of any size made of them in seconds, for `scaling.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from onestage.data.voc import voc_annotation

Kind = Literal["voc", "coco", "yolo"]

PICTURE_SIDE = 500  # pixels
DIFFERENT_PICTURES = 100  # then their objects come again


def draw_boxes(rng: np.random.Generator, count: int, side: int = PICTURE_SIDE) -> np.ndarray:
    """Boxes xyxy inside a square picture, their sides a tenth to a half of its side."""
    sides = rng.uniform(0.1 * side, 0.5 * side, (count, 2))
    corners = rng.uniform(0.0, 1.0, (count, 2)) * (side - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def write_dataset(kind: Kind, folder: Path, pictures: int, objects: int, classes: int) -> None:
    """A data set with the split `train`. All pictures are one file by many names."""
    rng = np.random.default_rng(0)
    different = min(pictures, DIFFERENT_PICTURES)
    boxes_xyxy = draw_boxes(rng, different * objects).round(1).reshape(different, objects, 4)
    labels = rng.integers(0, classes, (different, objects))
    write = {"voc": _write_voc, "coco": _write_coco, "yolo": _write_yolo}[kind]
    write(folder, pictures, boxes_xyxy, labels, [f"class {label}" for label in range(classes)])


def _write_voc(folder: Path, pictures: int, boxes_xyxy: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    stems = _write_pictures(folder / "JPEGImages", pictures)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("\n".join(stems))
    size_hw, easy = (PICTURE_SIDE, PICTURE_SIDE), [False] * labels.shape[1]
    texts = [
        voc_annotation("a.jpg", size_hw, boxes, [names[label] for label in of_picture], easy)
        for boxes, of_picture in zip(boxes_xyxy, labels.tolist(), strict=True)
    ]
    _write_in_turn(folder / "Annotations", [f"{stem}.xml" for stem in stems], texts)


def _write_coco(folder: Path, pictures: int, boxes_xyxy: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    stems = _write_pictures(folder / "train", pictures)
    size = f'"height":{PICTURE_SIDE},"width":{PICTURE_SIDE}'
    images = (f'{{"id":{number},"file_name":"{stem}.jpg",{size}}}' for number, stem in enumerate(stems))
    boxes_xywh = np.concatenate([boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]], axis=-1)
    rows = zip(boxes_xywh.round(1).reshape(-1, 4).tolist(), labels.ravel().tolist(), strict=True)
    records = [f'"category_id":{label},"bbox":{box},"area":1.0,"iscrowd":0' for box, label in rows]
    objects = labels.shape[1]
    annotations = (
        f'{{"id":{row},"image_id":{row // objects},{records[row % len(records)]}}}' for row in range(pictures * objects)
    )
    categories = json.dumps([{"id": label, "name": name} for label, name in enumerate(names)])
    (folder / "annotations").mkdir()
    with (folder / "annotations" / "instances_train.json").open("w") as file:
        file.write(f'{{"images":[{",".join(images)}],"categories":{categories},"annotations":[')
        file.write(",".join(annotations))
        file.write("]}")


def _write_yolo(folder: Path, pictures: int, boxes_xyxy: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    stems = _write_pictures(folder / "images" / "train", pictures)
    (folder / "data.yaml").write_text(json.dumps({"train": "images/train", "names": names}))  # JSON is YAML
    centres, sides = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2, boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    boxes_cxcywh = np.concatenate([centres, sides], axis=-1) / PICTURE_SIDE
    texts = []
    for boxes, of_picture in zip(boxes_cxcywh.tolist(), labels.tolist(), strict=True):
        rows = zip(of_picture, boxes, strict=True)
        texts.append("\n".join(f"{label} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}" for label, (cx, cy, w, h) in rows))
    _write_in_turn(folder / "labels" / "train", [f"{stem}.txt" for stem in stems], texts)


def _write_pictures(folder: Path, count: int) -> list[str]:
    """One picture by many names; their stems."""
    folder.mkdir(parents=True)
    stems = [f"{number:07d}" for number in range(count)]
    first = folder / f"{stems[0]}.jpg"
    cv2.imwrite(str(first), np.zeros((PICTURE_SIDE, PICTURE_SIDE, 3), dtype=np.uint8))
    for stem in stems[1:]:
        os.link(first, folder / f"{stem}.jpg")
    return stems


def _write_in_turn(folder: Path, names: list[str], texts: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_text(texts[number % len(texts)])
