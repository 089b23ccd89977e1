"""What an evaluation measured, as the tensors and the header of a file, so that runs can be compared later.

A row of `truth_*` is an object, one of `found_*` a detection. Names of images are bytes (`os.fsencode`) with a zero
after each, because there may be more of them than a header may hold.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onestage.errors import UserError
from onestage.structures import Categories, DetectionTable, GroundTruth

KIND = "measured"
_KINDS = {
    "image_index": torch.int32,
    "labels": torch.int32,
    "boxes_xyxy": torch.float32,
    "scores": torch.float32,
    "areas": torch.float32,
    "ignored": torch.bool,
}  # of a table's columns
_COLUMNS = {
    "truth": ("image_index", "labels", "boxes_xyxy", "ignored", "areas"),
    "found": ("image_index", "labels", "boxes_xyxy", "scores"),
}


@dataclass(frozen=True)
class Measured:
    """The objects and the detections of one evaluation.

    Attributes:
        image_names: by number, as `Table.image_names` has them.
        root: the folder that holds the images.
        score_thresholds: by label; detections above count for F1.
        about: what else the evaluation knew of the model: see `jobs.evaluate`. From a file it may hold anything.
    """

    truth: GroundTruth
    found: DetectionTable
    categories: Categories
    image_names: tuple[str, ...]
    root: Path
    score_thresholds: Float[np.ndarray, " K"]
    about: Mapping[str, Any]

    def file_content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and the header of its file."""
        names = b"".join(os.fsencode(name) + b"\0" for name in self.image_names)
        tensors = {"image_names": torch.from_numpy(np.frombuffer(names, dtype=np.uint8).copy())}
        for table in _COLUMNS:
            for column in _COLUMNS[table]:
                values = torch.from_numpy(np.ascontiguousarray(getattr(getattr(self, table), column)))
                tensors[f"{table}_{column}"] = values.to(_KINDS[column])
        header = {
            "kind": KIND,
            "categories": asdict(self.categories),
            "images": len(self.image_names),
            "root": os.fspath(self.root),
            "score_thresholds": self.score_thresholds.tolist(),
            "about": dict(self.about),
        }
        return tensors, header

    @classmethod
    def from_file_content(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any], where: str) -> Measured:
        """The inverse of `file_content`, of a file that may be a stranger's.

        Raises:
            UserError: it is something else, with `where`, what is wrong and what was expected.
        """
        if header.get("kind") != KIND:
            raise UserError(f"{where}: not what an evaluation measured; give a run, or the folder of an evaluation")
        try:
            return cls._read(tensors, header)
        except UserError as error:
            raise UserError(f"{where}: {error}; evaluate the model again") from error

    @classmethod
    def _read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Measured:
        categories, images = Categories.from_dict(header.get("categories")), header.get("images")
        names = _image_names(tensors, images)
        rows = {table: _columns(tensors, table, len(names), len(categories)) for table in _COLUMNS}
        thresholds, about, root = (header.get(name) for name in ("score_thresholds", "about", "root"))
        if not isinstance(thresholds, list) or len(thresholds) != len(categories):
            raise UserError(f"score_thresholds: expected {len(categories)} numbers, one a class")
        if not all(type(one) in (int, float) and 0 <= one <= 1 for one in thresholds):
            raise UserError("score_thresholds: expected numbers from 0 to 1")
        if not isinstance(about, dict) or not isinstance(root, str) or "\0" in root:
            raise UserError("its header has no table `about`, or no folder `root`")
        return cls(
            GroundTruth(num_images=len(names), **rows["truth"]),
            DetectionTable(**rows["found"]),
            categories,
            names,
            Path(root),
            np.array(thresholds, dtype=np.float64),
            about,
        )


def _image_names(tensors: Mapping[str, Tensor], images: Any) -> tuple[str, ...]:
    _check("image_names", tensors.get("image_names"), torch.uint8, columns=0)
    *names, rest = tensors["image_names"].numpy().tobytes().split(b"\0")
    if type(images) is not int or len(names) != images or rest or len(set(names)) != images or b"" in names:
        raise UserError(f"image_names: {len(names)} names; expected {images}, each another")
    return tuple(os.fsdecode(name) for name in names)


def _columns(tensors: Mapping[str, Tensor], table: str, images: int, classes: int) -> dict[str, np.ndarray]:
    """The columns of a table, in the types of its class, every value in its range."""
    columns: dict[str, np.ndarray] = {}
    for name in _COLUMNS[table]:
        whole = f"{table}_{name}"
        _check(whole, tensors.get(whole), _KINDS[name], columns=4 if name == "boxes_xyxy" else 0)
        values = tensors[whole].numpy()
        if values.dtype == np.int32:
            most = images if name == "image_index" else classes
            good, expected, values = (values >= 0) & (values < most), f"0..{most - 1}", values.astype(np.int64)
        elif values.dtype == np.float32:
            good, expected, values = np.isfinite(values), "finite numbers", values.astype(np.float64)
        else:
            good, expected = np.ones(len(values), dtype=bool), ""
        if not good.all():
            raise UserError(f"{whole}: {values[~good][0]} is out of its range; expected {expected}")
        columns[name] = values
    if len({len(values) for values in columns.values()}) > 1:
        raise UserError(f"{table}: its columns have different lengths")
    return columns


def _check(name: str, tensor: Tensor | None, kind: torch.dtype, *, columns: int) -> None:
    """Raise a UserError if it is not a list of values of this type, or with `columns` of rows of so many."""
    shape = None if tensor is None else tuple(tensor.shape[1:])
    if tensor is None or tensor.dtype != kind or tensor.ndim == 0 or shape != ((columns,) if columns else ()):
        raise UserError(f"{name} is missing, or has another type or shape")
