"""The demo's data set: the same from the same seed, sound, and varied enough to be worth learning."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from onestage.data import read_dataset, validate_images
from onestage.data.generated import KINDS, draw_image, write_generated_voc
from onestage.data.table import Table


def content(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    write_generated_voc(folder, seed=3, train=60, test=15)
    return folder


@pytest.fixture(scope="module")
def table(root: Path) -> Table:
    return read_dataset(root, "trainval")[0]


def test_the_same_seed_draws_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        write_generated_voc(tmp_path / name, seed=seed, train=4, test=2)
    first, again, other = (content(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    images = [name for name in first if name.endswith(".jpg")]
    assert len(images) == 6
    assert all(first[name] != other[name] for name in images)


def test_both_splits_read_without_a_problem(root: Path) -> None:
    for split, count in (("trainval", 60), ("test", 15)):
        table, problems = read_dataset(root, split)
        assert len(table) == count
        assert problems == []
        assert validate_images(table) == []
        assert table.categories.names == tuple(KINDS)


def test_there_are_all_classes_empty_images_and_difficult_objects(table: Table) -> None:
    assert len(KINDS) >= 5
    assert set(table.labels.tolist()) == set(range(len(KINDS)))
    counts = np.diff(table.first_object)
    assert (counts == 0).any()
    assert counts.max() >= 4
    assert 0 < table.ignored.sum() < 0.15 * len(table.ignored)


def test_objects_differ_widely_in_size_and_shape(table: Table) -> None:
    width, height = (table.boxes_xyxy[:, 2:] - table.boxes_xyxy[:, :2]).T
    assert (width * height).max() > 40 * (width * height).min()
    assert (width / height).max() > 2.5
    assert (width / height).min() < 0.4


def test_some_objects_overlap(table: Table) -> None:
    overlapping = 0
    for index in range(len(table)):
        boxes_xyxy = table.objects(index).boxes_xyxy
        shared = np.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[:, 2:]) - np.maximum(
            boxes_xyxy[:, None, :2], boxes_xyxy[:, :2]
        )
        overlapping += int((shared > 0).all(axis=-1).sum()) - len(boxes_xyxy)
    assert overlapping > 10


def test_boxes_hold_more_edges_than_the_images_around_them() -> None:
    inside, whole = [], []
    for index in range(20):
        drawing = draw_image(np.random.default_rng((9, index)))
        steps = np.abs(np.diff(drawing.image.astype(int), axis=0)).sum(axis=-1)
        whole.append(np.percentile(steps, 95))
        for x0, y0, x1, y1 in drawing.boxes_xyxy.astype(int):
            inside.append(np.percentile(steps[y0 : y1 - 1, x0:x1], 95))
    assert np.mean(inside) > 1.3 * np.mean(whole)
