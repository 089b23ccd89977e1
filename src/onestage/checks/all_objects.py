"""The objects of all splits in one set of columns, for counting and drawing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from onestage.checks.checkup import Checkup


class AllObjects(NamedTuple):
    """One row an object."""

    splits: Int64[np.ndarray, " N"]  # index of the split in `Checkup.tables`
    images: Int64[np.ndarray, " N"]  # row of the split's table
    numbers: Int64[np.ndarray, " N"]  # of the object in its image, from 0
    labels: Int64[np.ndarray, " N"]
    ignored: Bool[np.ndarray, " N"]
    boxes_xyxy: Float[np.ndarray, "N 4"]  # pixels of the image
    image_sizes_hw: Float[np.ndarray, "N 2"]  # pixels of the object's image
    sizes: Float[np.ndarray, " N"]  # square root of the area in pixels of the detector's input; NaN of ignored ones


def all_objects(checkup: Checkup) -> AllObjects:
    """The objects of all splits, in the order of their tables."""
    parts = []
    for index, (split, table) in enumerate(checkup.tables.items()):
        counts = np.diff(table.first_object)
        images = np.repeat(np.arange(len(table), dtype=np.int64), counts)
        sizes = np.full(len(images), np.nan)
        if split in checkup.input_sizes:
            sizes[~table.ignored] = np.sqrt(np.asarray(checkup.input_sizes[split], dtype=np.float64).prod(axis=1))
        parts.append(
            AllObjects(
                splits=np.full(len(images), index, dtype=np.int64),
                images=images,
                numbers=np.arange(len(images), dtype=np.int64) - table.first_object[images],
                labels=table.labels,
                ignored=table.ignored,
                boxes_xyxy=table.boxes_xyxy.astype(np.float64),
                image_sizes_hw=table.image_sizes_hw[images].astype(np.float64),
                sizes=sizes,
            )
        )
    return AllObjects(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
