"""The results of an evaluation: the printed table, `metrics.json`, `report.html`, and what `compare` reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from onestage.data import dataset_name
from onestage.data.table import Table
from onestage.evaluation import measure, print_at_thresholds, print_table
from onestage.evaluation.explained import explain
from onestage.evaluation.measured import Measured
from onestage.evaluation.report import write_report
from onestage.evaluation.report_images import ImageSource
from onestage.evaluation.report_tables import decimal
from onestage.evaluation.words import TrainedOn, in_words
from onestage.models.hub import hub_name
from onestage.models.model_file import RunFolder, write_tensors
from onestage.runtime.calibration import ScoreCalibration
from onestage.runtime.tiles import Tiling
from onestage.structures import Detections, DetectionTable
from onestage.terminal import Display
from onestage.texts import counted, json_text
from onestage.tiled_detections import windows_of
from onestage.whole_file import write_whole

Log = Sequence[Mapping[str, Any]]  # rows of `log.csv`, by column


@dataclass(frozen=True)
class Results:
    """What an evaluation found, and what is known about it.

    Attributes:
        found: the detections of each image of `table`.
        settings: what was evaluated or trained, and how, for the report.
        about: the model, its pace and the device, for comparisons.
        thresholds: the score above which a user of the model gets detections of each class, by label.
        tiling: how the images were cut.
        log: of the training, where this is its end.
        trained_on: what it learned from, the same.
        calibration: what the model's scores mean; None where nobody has found it.
        anchor_iou: each object's IoU with the anchor that fits it best; None for a detector without anchors.
    """

    found: list[Detections]
    table: Table
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    thresholds: Sequence[float]
    tiling: Tiling | None = None
    log: Log = ()
    trained_on: TrainedOn | None = None
    anchor_iou: Float[np.ndarray, " N"] | None = None
    calibration: ScoreCalibration | None = None

    def write(self, folder: Path, display: Display) -> dict[str, Any]:
        """Measure, print the table, write the files; gives the content of `metrics.json`."""
        table = self.table
        truth, detections = table.ground_truth(), DetectionTable.from_detections(self.found)
        measurement = measure(truth, detections, table.categories)
        scores = np.array(self.thresholds)
        explained = explain(truth, detections, table.categories, scores, self.anchor_iou, self.calibration)
        print_at_thresholds(explained.at, table.categories, display.console)
        print_table(measurement.voc, table.categories, display.console)
        absent = np.bincount(table.labels[~table.ignored], minlength=len(table.categories)) == 0
        if absent.all():
            display.say(
                f"warning: {table.split}: no objects in {counted(len(table), 'image')}, so there is nothing to measure"
            )
        elif absent.any():
            names = table.categories.names
            display.say(
                f"note: {table.split}: no objects of {counted(int(absent.sum()), 'class')} (as "
                f"{names[int(absent.argmax())]}); what is found of them counts as false alarms, but not in AP"
            )
        display.say(*in_words(explained.at, table.categories, self.trained_on))
        metrics = measurement.metrics | explained.as_json(table.categories)
        files, settings = RunFolder(folder), self.settings
        title = f"{settings.get('detector', settings.get('model', 'detector'))} on {dataset_name(settings['data'])}"
        write_whole(files.metrics, (json_text(metrics, indent=1) + "\n").encode())
        write_report(
            files.report,
            title=title,
            measurement=measurement,
            explained=explained,
            categories=table.categories,
            trained_on=self.trained_on,
            training_log=self.log,
            images=ImageSource(table.image_name, table.pixels, partial(windows_of, self.tiling)),
            settings=settings,
        )
        model = settings.get("model", folder)
        model = model if hub_name(model) is not None else os.path.abspath(model)
        about = {**self.about, "model": model, "split": table.split, "bits": table.bits}
        names, root = tuple(table.image_names()), table.root.absolute()
        measured = Measured(truth, detections, table.categories, names, root, scores, about)
        write_tensors(files.measured, *measured.file_content())
        display.say(
            f"{title}, {table.split}: AP50 {decimal(metrics['voc']['map_area'])} (VOC, area), AP "
            f"{decimal(metrics['coco']['AP'])} (COCO) on {counted(len(table), 'image')} with "
            f"{counted(len(truth.labels), 'object')}",
            f"written: {files.metrics}, {files.report}, {files.measured}, after {display.took}",
        )
        return metrics
