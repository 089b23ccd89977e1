"""Images of a data set that calibrate an int8 export, and those that its AP is measured on."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import UInt8

from onestage.data import choose_splits
from onestage.data.decoded_images import DecodedImages
from onestage.data.table import Table
from onestage.data.tiles import training_tiles
from onestage.data_options import DataOptions
from onestage.evaluation.voc import voc_average_precision
from onestage.export.base import Calibration
from onestage.input_size import resize_image
from onestage.jobs.dataset import open_dataset
from onestage.models.model_file import LoadedModel
from onestage.structures import Detections, DetectionTable
from onestage.terminal import Display

IMAGES = 100  # more calibrated no better (docs/ledger.md, "Exported files")
MEASURED_IMAGES = 300


def calibration_for(
    data: str | os.PathLike[str], model: LoadedModel, *, search: bool = False, display: Display
) -> Calibration:
    """Training images, and those that choose the weights to measure on; their tiles where the model cuts images."""
    options = DataOptions(skip_bad_data=True)
    splits = choose_splits(os.fspath(data), options)
    train, measured = (
        _rows(os.fspath(data), split, count, model, options, display)
        for split, count in ((splits.train, IMAGES), (splits.choose, MEASURED_IMAGES))
    )
    return Calibration(
        [partial(_resized, train, index, model) for index in range(len(train))],
        [partial(_resized, measured, index, model) for index in range(len(measured))],
        None if measured.ignored.all() else partial(_map_area, measured, model),  # all: or there are none
        measured_on=f"{'tiles' if model.detector.tiling is not None else 'images'} of {measured.split}",
        search=search,
        display=display,
    )


def _rows(data: str, split: str, count: int, model: LoadedModel, options: DataOptions, display: Display) -> Table:
    table = open_dataset(data, split, display=display, options=options, categories=model.categories)
    table = table.with_bits(model.input_bits)
    if (tiling := model.detector.tiling) is not None:
        config, kept = model.detector.config, DecodedImages()
        table = training_tiles(
            table, tiling, resize=config.input_resize, least_object_side=config.least_object_side, decoded=kept
        )
        table = table.subset(indices=range(len(table) - table.spare + table.spare_shown))
    return table.subset(count=min(count, len(table)))


def _resized(table: Table, index: int, model: LoadedModel) -> UInt8[np.ndarray, "h w 3"]:
    """An image at the size at which it goes into the network."""
    image = table.pixels(index)
    return resize_image(image, model.detector.resize.image_hw((image.shape[0], image.shape[1])))


def _map_area(table: Table, model: LoadedModel, indices: Sequence[int], found: Sequence[Detections]) -> float:
    """AP50 (VOC, area) of detections in the resized images; 0 where these have no objects."""
    in_pixels = []
    for index, one in zip(indices, found, strict=True):
        height, width = table.image_sizes_hw[index].tolist()
        resized_height, resized_width = model.detector.resize.image_hw((height, width))
        scale = torch.tensor([width / resized_width, height / resized_height] * 2, dtype=torch.float32)
        in_pixels.append(replace(one, boxes_xyxy=one.boxes_xyxy * scale))
    truth = table.subset(indices=indices).ground_truth()
    detections = DetectionTable.from_detections(in_pixels)
    return float(np.nan_to_num(voc_average_precision(truth, detections, len(model.categories)).map_area))
