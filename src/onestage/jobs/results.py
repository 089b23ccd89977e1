"""The results of an evaluation: the printed table, `metrics.json`, `report.html`, and what `compare` reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onestage.data.table import Table
from onestage.evaluation import measure, print_table
from onestage.evaluation.measured import Measured
from onestage.evaluation.report import SHOWN_SCORE, ReportExample, choose_examples, count_by_image, write_report
from onestage.models.model_file import RunFolder, write_tensors
from onestage.runtime.tiles import Tiling
from onestage.structures import Detections, DetectionTable
from onestage.terminal import Display
from onestage.texts import json_text
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
        tiling: how the images were cut.
        thresholds: the score thresholds of the model's classes, by label; None: nobody has found them.
        log: of the training, where this is its end.
    """

    found: list[Detections]
    table: Table
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    tiling: Tiling | None = None
    thresholds: Sequence[float] | None = None
    log: Log = ()

    def write(self, folder: Path, display: Display) -> dict[str, Any]:
        """Measure, print the table, write the files; gives the content of `metrics.json`."""
        table = self.table
        truth, detections = table.ground_truth(), DetectionTable.from_detections(self.found)
        measurement = measure(truth, detections, table.categories)
        print_table(measurement.voc, table.categories, display.console)
        if table.ignored.all():  # or there are none at all
            display.say(f"warning: {table.split}: no objects in {len(table):,} images, so there is nothing to measure")
        counts = count_by_image(truth, detections)
        best, worst = choose_examples(truth, counts)

        def example(index: int) -> ReportExample:
            image = table.pixels(index)
            f1, windows_xyxy = float(counts.f1[index]), windows_of(self.tiling, (image.shape[0], image.shape[1]))
            return ReportExample(
                table.image_name(index), image, *table.objects(index), self.found[index], f1, windows_xyxy
            )

        folder.mkdir(parents=True, exist_ok=True)
        files, settings = RunFolder(folder), self.settings
        write_whole(files.metrics, (json_text(measurement.metrics, indent=1) + "\n").encode())
        write_report(
            files.report,
            title=f"{settings.get('detector', settings.get('model', 'detector'))} on {Path(settings['data']).name}",
            measurement=measurement,
            categories=table.categories,
            training_log=self.log,
            examples={"Best images": [*map(example, best)], "Worst images": [*map(example, worst)]},
            settings=settings,
        )
        scores = np.array(self.thresholds or [SHOWN_SCORE] * len(table.categories))
        about = {
            **self.about,
            "model": os.path.abspath(settings.get("model", folder)),
            "split": table.split,
            "bits": table.bits,
        }
        names, root = tuple(table.image_names()), table.root.absolute()
        measured = Measured(truth, detections, table.categories, names, root, scores, about)
        write_tensors(files.measured, *measured.file_content())
        display.say(f"written: {files.metrics}, {files.report}, {files.measured.name}")
        return measurement.metrics
