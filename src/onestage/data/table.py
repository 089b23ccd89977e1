"""The flat table that every reader fills: all annotations of a split in a few numpy arrays.

There is no Python object for a box or an image, so memory stays flat and loader workers share it. Image i owns the
objects from `first_object[i]` up to (not including) `first_object[i + 1]`. Legend: I images, N objects.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, Integer, UInt8

from onestage.data.decoded_images import DecodedImages
from onestage.data.shrunk_images import ShrunkImages
from onestage.errors import UserError
from onestage.input_size import Resize
from onestage.runtime.decode import decode_image
from onestage.structures import Categories, GroundTruth
from onestage.texts import counted

IMAGE_COLUMNS = ("image_paths", "image_ids", "image_sizes_hw")
OBJECT_COLUMNS = ("boxes_xyxy", "labels", "ignored", "difficult", "areas")


class Objects(NamedTuple):
    """The objects of one image, as views into the table."""

    boxes_xyxy: Float32[np.ndarray, "N 4"]  # pixels of the upright image
    labels: Int64[np.ndarray, " N"]
    ignored: Bool[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class Table:
    """The annotations of one split. Paths (`os.fsencode`) and ids (UTF-8) are bytes of one width."""

    root: Path  # the folder that `image_paths` start from
    split: str  # its name in the data set
    kind: str  # the format of the data set, a key of `onestage.data.FORMATS`
    categories: Categories
    image_paths: np.ndarray
    image_ids: np.ndarray  # stems (VOC, YOLO) or ids (COCO)
    image_sizes_hw: Int32[np.ndarray, "I 2"]  # pixels of the upright images
    first_object: Int64[np.ndarray, " I+1"]  # index of each image's first object, then the number of all objects
    boxes_xyxy: Float32[np.ndarray, "N 4"]  # pixels of the upright image, 0-based, half-open
    labels: Int64[np.ndarray, " N"]  # 0..K-1
    ignored: Bool[np.ndarray, " N"]  # VOC difficult, COCO crowd
    difficult: Bool[np.ndarray, " N"]  # those that VOC calls difficult, and that are good boxes all the same
    areas: Float32[np.ndarray, " N"]  # square pixels, of the segment (COCO) or the box (others)
    bits: int = 16  # that hold values in 16-bit images
    max_pixels: int | None = None  # of an image that is decoded; None: see `decode_image`
    windows_xyxy: Int32[np.ndarray, "I 4"] | None = None  # of a table of tiles: what each row shows of its image
    whole_sizes_hw: Int32[np.ndarray, "I 2"] | None = None  # of such a table: pixels of the image of each row
    decoded: DecodedImages = field(default_factory=DecodedImages)  # where tiles are read from
    shrunk: ShrunkImages | None = None  # of a table whose images are read smaller than they are
    spare: int = 0  # so many rows at the end show no object; an epoch of training takes only
    spare_shown: int = 0  # so many of them, others each time

    def __len__(self) -> int:
        return len(self.image_sizes_hw)

    @property
    def rows_per_epoch(self) -> int:
        """How many rows an epoch of training shows."""
        return len(self) - self.spare + self.spare_shown

    @property
    def most_objects(self) -> int:
        """Objects of the image that has most of them, ignored ones aside."""
        before = np.concatenate([[0], np.cumsum(~self.ignored)])[self.first_object]
        return int(np.diff(before).max(initial=0))

    def image_name(self, index: SupportsIndex) -> str:
        """The path of an image below `root`, with forward slashes."""
        return os.fsdecode(bytes(self.image_paths[index]))

    def image_names(self) -> list[str]:
        """The paths of all images below `root`."""
        return [self.image_name(index) for index in range(len(self))]

    def image_path(self, index: SupportsIndex) -> Path:
        return self.root / self.image_name(index)

    def image_id(self, index: SupportsIndex) -> str:
        """The name of an image in its data set: a stem (VOC, YOLO) or an id (COCO)."""
        return bytes(self.image_ids[index]).decode("utf-8", "surrogateescape")

    def objects(self, index: SupportsIndex) -> Objects:
        """The objects of one image (views; copy before changing them)."""
        rows = slice(self.first_object[int(index)], self.first_object[int(index) + 1])
        return Objects(self.boxes_xyxy[rows], self.labels[rows], self.ignored[rows])

    def subset(
        self,
        *,
        fraction: float | None = None,
        count: int | None = None,
        indices: Sequence[int] | None = None,
    ) -> Table:
        """Some of the images: a fraction or a count of them (drawn at random, but always the same), or given rows.

        Raises:
            UserError: not exactly one of the three is given, or it asks for more images than there are.
        """
        if sum(choice is not None for choice in (fraction, count, indices)) != 1:
            raise UserError("subset: give exactly one of fraction, count and indices")
        if fraction is not None:
            if not 0.0 < fraction <= 1.0:
                raise UserError(f"subset: fraction {fraction} is not in (0, 1]")
            count = min(max(1, round(fraction * len(self))), len(self))
        if count is not None:
            if not 0 <= count <= len(self):
                raise UserError(f"subset: count {count}, but there are {len(self)} images")
            indices = np.sort(np.random.default_rng(0).permutation(len(self))[:count]).tolist()
        images = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.first_object)[images]
        first = _offsets(counts)
        # the old row of each kept object: its image's old start plus its place within the image
        objects = np.repeat(self.first_object[:-1][images] - first[:-1], counts) + np.arange(first[-1])
        columns = {name: getattr(self, name)[images] for name in IMAGE_COLUMNS}
        columns |= {name: getattr(self, name)[objects] for name in OBJECT_COLUMNS}
        if self.windows_xyxy is not None and self.whole_sizes_hw is not None:
            columns |= {"windows_xyxy": self.windows_xyxy[images], "whole_sizes_hw": self.whole_sizes_hw[images]}
        if self.shrunk is not None:
            columns["shrunk"] = self.shrunk.of_rows(images)
        return replace(self, first_object=first, spare=0, spare_shown=0, **columns)

    def pixels(self, index: SupportsIndex, *, min_side: int | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """An image, decoded; see `decode_image`, also for what it raises.

        With a `min_side` it may be smaller than the image is. Without, a UserError says that it is not of the size that
        its boxes are for.
        """
        row, path = int(index), self.image_path(index)
        if self.windows_xyxy is not None and self.whole_sizes_hw is not None:
            x0, y0, x1, y1 = self.windows_xyxy[row].tolist()
            image = self.decoded.read(path, max_pixels=self.max_pixels, bits=self.bits)
            return np.ascontiguousarray(_of_size(image, path, *self.whole_sizes_hw[row].tolist())[y0:y1, x0:x1])
        if min_side is not None:
            return decode_image(path, max_pixels=self.max_pixels, min_side=min_side, bits=self.bits)
        height, width = self.image_sizes_hw[row].tolist()
        if self.shrunk is None:
            return self._whole(path, height, width)
        original_hw = self.shrunk.original_sizes_hw[row].tolist()
        return self.shrunk.read(row, (height, width), partial(self._whole, path, *original_hw))

    def _whole(self, path: Path, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
        return _of_size(decode_image(path, max_pixels=self.max_pixels, bits=self.bits), path, height, width)

    def with_smaller_images(self, shorter_side: int, file: Path, max_bytes: int) -> Table:
        """The same images, the larger ones with a shorter side of so many pixels, and their objects in those pixels.

        They are made when they are first read, and kept in `file`, up to `max_bytes`: see `ShrunkImages`.
        """
        before_hw = self.image_sizes_hw
        factor = np.minimum(1.0, shorter_side / before_hw.min(axis=1, keepdims=True))
        sizes_hw = np.maximum(1, np.round(before_hw * factor)).astype(np.int32)
        of_image = (sizes_hw / before_hw).astype(np.float32)[:, ::-1]  # along x and along y
        scale = np.repeat(of_image, np.diff(self.first_object), axis=0)
        return replace(
            self,
            image_sizes_hw=sizes_hw,
            boxes_xyxy=self.boxes_xyxy * np.tile(scale, 2),
            areas=self.areas * scale.prod(axis=1),
            shrunk=ShrunkImages.room_for(file, before_hw, sizes_hw, max_bytes),
        )

    def with_bits(self, bits: int) -> Table:
        """The same images, whose 16-bit ones are read as having so many bits."""
        return replace(self, bits=bits)

    def with_difficult(self, trained: bool = True) -> Table:
        """The same objects, of which those that VOC calls difficult are not ignored if they are `trained`."""
        return replace(self, ignored=self.ignored & ~self.difficult) if trained else self

    def renamed(self, split: str) -> Table:
        """The same images under another name of the split."""
        return replace(self, split=split)

    def with_categories(self, categories: Categories) -> Table:
        """The same objects with the labels of another class list, which has all classes of this one, by name."""
        label_of = categories.label_of
        if missing := [name for name in self.categories.names if name not in label_of]:
            raise UserError(f"{self.root}: the class list {', '.join(categories.names)} lacks {', '.join(missing)}")
        new_labels = np.array([label_of[name] for name in self.categories.names], dtype=np.int64)
        return replace(self, categories=categories, labels=new_labels[self.labels])

    def with_renamed_classes(self, new_names: Mapping[str, str]) -> Table:
        """The same objects under other names of their classes; classes that get the same name become one."""
        renamed = [new_names.get(name, name) for name in self.categories.names]
        ids = dict(zip(reversed(renamed), reversed(self.categories.source_ids), strict=True))  # of each name's first
        names = list(dict.fromkeys(renamed))
        categories = Categories(tuple(names), tuple(ids[name] for name in names))
        new_labels = np.array([categories.label_of[name] for name in renamed], dtype=np.int64)
        return replace(self, categories=categories, labels=new_labels[self.labels])

    def with_objects_of(self, other: Table) -> Table:
        """The same images; each has its own objects, then those that it has in `other`, a table of the same images."""
        counts = [np.diff(table.first_object) for table in (self, other)]
        image = np.concatenate([np.repeat(np.arange(len(self)), count) for count in counts])
        order = np.argsort(image, kind="stable")
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)])[order] for name in OBJECT_COLUMNS}
        return replace(self, first_object=_offsets(counts[0] + counts[1]), **columns)

    def with_rows_joined(self, first: Sequence[int]) -> Table:
        """Rows of one image as one, with all of their objects; `first[i]` is the first row of the image of row i."""
        of_row = np.asarray(first, dtype=np.int64)
        if np.array_equal(of_row, np.arange(len(self))):
            return self
        kept = np.flatnonzero(of_row == np.arange(len(self)))
        by_image = np.argsort(of_row, kind="stable")
        ordered = self.subset(indices=by_image.tolist())
        counts = np.bincount(of_row, np.diff(self.first_object), minlength=len(self)).astype(np.int64)[kept]
        columns = {name: getattr(self, name)[kept] for name in IMAGE_COLUMNS}
        return replace(ordered, first_object=_offsets(counts), **columns)

    def join(self, *others: Table) -> Table:
        """The images of this table, then those of the others, below their common folder; all need one class list."""
        tables = (self, *others)
        for table in others:
            if table.categories != self.categories:
                raise UserError(
                    f"{table.root}: its classes ({', '.join(table.categories.names)}) are not those of {self.root} "
                    f"({', '.join(self.categories.names)}); join only sets with one class list"
                )
        roots = [os.path.abspath(table.root) for table in tables]
        root = Path(os.path.commonpath(roots))
        prefixes = [os.fsencode(f"{Path(one).relative_to(root).as_posix()}/".removeprefix("./")) for one in roots]
        paths = [np.strings.add(prefix, table.image_paths) for prefix, table in zip(prefixes, tables, strict=True)]
        columns = {
            name: np.concatenate([getattr(table, name) for table in tables]) for name in IMAGE_COLUMNS + OBJECT_COLUMNS
        }
        columns["image_paths"] = np.concatenate(paths)
        return replace(
            self,
            root=root,
            split="+".join(dict.fromkeys(table.split for table in tables)),
            kind="+".join(dict.fromkeys(table.kind for table in tables)),
            first_object=_offsets(np.concatenate([np.diff(table.first_object) for table in tables])),
            **columns,
        )

    def ground_truth(self) -> GroundTruth:
        """All objects as the metrics take them; images are numbered as the rows of the table."""
        return GroundTruth(
            num_images=len(self),
            image_index=np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.first_object)),
            labels=self.labels,
            boxes_xyxy=self.boxes_xyxy.astype(np.float64),
            ignored=self.ignored,
            areas=self.areas.astype(np.float64),
        )

    def box_sizes_hw(self, resize: Resize | None) -> Float[np.ndarray, "N 2"]:
        """Height and width of every object that is not ignored, in pixels of the network's input, or of the image."""
        sizes_hw, size_of_image = np.unique(self.image_sizes_hw, axis=0, return_inverse=True)
        resized_hw = [resize.image_hw((height, width)) for height, width in sizes_hw.tolist()] if resize else sizes_hw
        factors = (np.array(resized_hw).reshape(-1, 2) / sizes_hw)[size_of_image]  # (images, 2)
        boxes_xyxy = self.boxes_xyxy[~self.ignored].astype(np.float64)
        sizes = np.stack([boxes_xyxy[:, 3] - boxes_xyxy[:, 1], boxes_xyxy[:, 2] - boxes_xyxy[:, 0]], axis=1)
        return sizes * np.repeat(factors, np.diff(self.first_object), axis=0)[~self.ignored]

    def digest(self) -> str:
        """SHA-256 of the image names and all annotations, the same on every machine."""
        digest = hashlib.sha256(repr(self.categories.names).encode())
        names = b"\0".join(bytes(path) for path in self.image_paths)
        numbers = (self.image_sizes_hw, self.first_object, self.boxes_xyxy, self.labels, self.ignored)
        for part in (names, *(np.ascontiguousarray(rows).tobytes() for rows in numbers)):
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()

    def describe(self) -> str:
        """One line: format, folder, split, and what is in it."""
        ignored = f" ({self.ignored.sum():,} ignored)" if self.ignored.any() else ""
        return (
            f"{self.kind.upper()} {self.root}, {self.split}: {counted(len(self), 'image')}, "
            f"{counted(len(self.labels), 'object')}{ignored} of {counted(len(self.categories), 'class')}"
        )


def _of_size(image: UInt8[np.ndarray, "H W 3"], path: Path, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    if image.shape[:2] != (height, width):
        found = f"the image is {image.shape[1]}x{image.shape[0]}"
        raise UserError(f"{path}: {found}, its annotation says {width}x{height}; correct it")
    return image


# One image's rows of each column of numbers; `num_objects` becomes `Table.first_object`.
_NUMBERS: dict[str, type[np.generic]] = {
    "image_sizes_hw": np.int32,
    "num_objects": np.int64,
    "boxes_xyxy": np.float32,
    "labels": np.int64,
    "ignored": np.bool_,
    "difficult": np.bool_,
    "areas": np.float32,
}


class TableBuilder:
    """Collects a table image by image, in compact arrays."""

    def __init__(self, root: Path, split: str, kind: str) -> None:
        self.root, self.split, self.kind = root, split, kind
        self._paths: list[bytes] = []
        self._ids: list[bytes] = []
        self._numbers = {name: bytearray() for name in _NUMBERS}

    def add(
        self,
        *,
        path: str,
        image_id: str,
        size_hw: tuple[int, int],
        boxes_xyxy: Float[np.ndarray, "N 4"],
        labels: Integer[np.ndarray, " N"] | Sequence[int],
        ignored: Bool[np.ndarray, " N"] | Sequence[bool],
        areas: Float[np.ndarray, " N"] | None = None,
        difficult: Bool[np.ndarray, " N"] | Sequence[bool] | None = None,
    ) -> None:
        """Append one image with its objects; `areas` None takes the areas of the boxes, `difficult` None is none."""
        if areas is None:
            areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
        self._paths.append(os.fsencode(path))
        self._ids.append(image_id.encode("utf-8", "surrogateescape"))
        if difficult is None:
            difficult = np.zeros(len(boxes_xyxy), dtype=bool)
        rows = (size_hw, len(boxes_xyxy), boxes_xyxy, labels, ignored, difficult, areas)
        for (name, kind), values in zip(_NUMBERS.items(), rows, strict=True):
            self._numbers[name] += np.asarray(values, dtype=kind).tobytes()

    def build(self, categories: Categories) -> Table:
        """The finished table."""
        numbers = {name: np.frombuffer(self._numbers[name], dtype=kind).copy() for name, kind in _NUMBERS.items()}
        return Table(
            root=self.root,
            split=self.split,
            kind=self.kind,
            categories=categories,
            image_paths=np.array(self._paths, dtype=np.bytes_),
            image_ids=np.array(self._ids, dtype=np.bytes_),
            image_sizes_hw=numbers["image_sizes_hw"].reshape(-1, 2),
            first_object=_offsets(numbers["num_objects"]),
            boxes_xyxy=numbers["boxes_xyxy"].reshape(-1, 4),
            labels=numbers["labels"],
            ignored=numbers["ignored"],
            difficult=numbers["difficult"],
            areas=numbers["areas"],
        )


def _offsets(counts: Int64[np.ndarray, " I"]) -> Int64[np.ndarray, " I+1"]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
