"""Copies of an image are found, other images are not taken for copies, and frames of a video stay together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onestage.data.similar import copies, fingerprints, groups_of_similar
from onestage.data.splits import held_out_images
from onestage.data.table import Table, TableBuilder
from onestage.structures import Categories


def scene(seed: int, shift: int = 0, size_wh: tuple[int, int] = (320, 240)) -> Image.Image:
    """A photo's like: smooth patches of light; `shift` moves the camera by some pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    wide = Image.fromarray(coarse).resize((size_wh[0] + 32, size_wh[1]), Image.Resampling.BICUBIC)
    return wide.crop((shift, 0, size_wh[0] + shift, size_wh[1]))


def table_of(root: Path, images: Mapping[str, Image.Image | bytes]) -> Table:
    """A table of these images by name, each with one object; bytes are a damaged file."""
    builder = TableBuilder(root, "train", "voc")
    for name, image in images.items():
        if isinstance(image, bytes):
            (root / name).write_bytes(image)
        else:
            image.save(root / name)
        boxes_xyxy = np.array([(1.0, 1.0, 9.0, 9.0)])
        builder.add(path=name, image_id=name, size_hw=(240, 320), boxes_xyxy=boxes_xyxy, labels=[0], ignored=[False])
    return builder.build(Categories.from_names(["cat"]))


def test_an_image_that_was_compressed_again_or_scaled_is_a_copy(tmp_path: Path) -> None:
    images = {f"{seed}.png": scene(seed) for seed in range(12)}
    scene(3).save(tmp_path / "again.jpg", quality=60)
    copied = {
        "compressed.jpg": Image.open(tmp_path / "again.jpg"),
        "half.png": scene(5).resize((160, 120), Image.Resampling.LANCZOS),
        "double.webp": scene(7).resize((640, 480)),
        "gray.png": scene(9).convert("L").convert("RGB"),
    }
    prints = fingerprints(table_of(tmp_path, images | copied))
    assert copies(prints) == [(3, 12), (5, 13), (7, 14), (9, 15)]


def test_different_images_are_no_copies_however_many_there_are(tmp_path: Path) -> None:
    prints = fingerprints(table_of(tmp_path, {f"{seed}.jpg": scene(seed, size_wh=(96, 72)) for seed in range(150)}))
    assert copies(prints) == []


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 30)])
def test_blank_and_damaged_images_are_no_copies(colour: tuple[int, int, int], tmp_path: Path) -> None:
    blank = {f"blank {number}.png": Image.new("RGB", (320, 240), colour) for number in range(3)}
    table = table_of(tmp_path, {**blank, "bad.jpg": b"no image", "worse.jpg": b""})
    assert copies(fingerprints(table)) == []


def test_copies_and_neighbouring_frames_of_a_video_are_in_one_group(tmp_path: Path) -> None:
    frames = {f"street_{number:04}.jpg": scene(1, shift=4 * number) for number in range(4)}
    cut = {f"street_{number:04}.jpg": scene(2, shift=4 * number) for number in range(4, 8)}  # another scene follows
    others = {f"photo {seed}.jpg": scene(seed) for seed in range(20, 40)}
    copied = {"copy of a photo.png": scene(25)}
    groups = groups_of_similar(table_of(tmp_path, frames | cut | others | copied)).tolist()
    assert len(set(groups[:4])) == len(set(groups[4:8])) == 1
    assert groups[0] != groups[4]
    assert groups[-1] == groups[8 + 5]
    assert len(set(groups)) == 2 + 20


def test_frames_that_look_alike_by_chance_of_their_names_alone_are_not_grouped(tmp_path: Path) -> None:
    table = table_of(tmp_path, {f"IMG_{seed:04}.jpg": scene(seed) for seed in range(12)})
    assert len(set(groups_of_similar(table).tolist())) == 12


def test_a_group_of_nearly_all_images_says_nothing(tmp_path: Path) -> None:
    table = table_of(tmp_path, {f"{number}.jpg": scene(0) for number in range(6)})
    assert sorted(groups_of_similar(table).tolist()) == [0, 1, 2, 3, 4, 5]


def test_frames_of_one_video_are_held_out_together(tmp_path: Path) -> None:
    images = {f"v{seed}_{number}.jpg": scene(seed, shift=4 * number) for seed in range(12) for number in range(3)}
    held_out = held_out_images(table_of(tmp_path, images), 0.3).reshape(12, 3)
    assert (held_out.all(axis=1) | ~held_out.any(axis=1)).all()
    assert 0 < held_out.all(axis=1).sum() < 12
