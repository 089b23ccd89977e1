"""Measure a model on a labelled split: the table, `metrics.json`, `report.html`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onestage.compute.device import Compute, choose_compute, keep_freed_memory
from onestage.data import choose_splits
from onestage.data.table import Table
from onestage.evaluation import Measurement, measure, print_table
from onestage.evaluation.examples import ReportExample, choose_examples, image_scores
from onestage.evaluation.report import write_report
from onestage.inference.exported import ExportedPredictor, is_exported
from onestage.jobs.dataset import open_dataset
from onestage.models.model_file import LoadedModel, RunFolder, load_model
from onestage.runtime.decode import ImageError, decode_image
from onestage.structures import Categories, Detections, DetectionTable
from onestage.terminal import Display
from onestage.training.detect_all import detect_all
from onestage.training.log_file import LogRow
from onestage.training.processes import ALONE, World


def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: str | None = None,
    out: str | os.PathLike[str] | None = None,
    skip_bad_data: bool = False,
    batch_size: int = 8,
    device: str | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Measure a model by the VOC and COCO protocols.

    Args:
        model: a run folder, a model file or an exported file.
        data: a VOC, COCO or YOLO folder with the model's classes.
        split: None takes the test split.
        out: where `metrics.json` and `report.html` go; None: `evaluation/` beside the model file.
        skip_bad_data: leave out what is broken instead of stopping.
        batch_size: images at once.
        device: None takes a GPU where there is one.
        display: where to print.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: no model, no data, or data that the model's classes do not fit.
    """
    display = display or Display()
    keep_freed_memory()
    data = os.fspath(data)
    split = split or choose_splits(data).test
    settings = {"model": str(model), "data": data, "split": split}

    def open_table(categories: Categories) -> Table:
        return open_dataset(data, split, display=display, skip_bad_data=skip_bad_data, categories=categories)

    if is_exported(model):
        exported = ExportedPredictor(model, device=device)
        table = open_table(exported.categories)
        found = _detect_exported(exported, table, display, batch_size)
        folder = Path(out) if out is not None else Path(model).parent / "evaluation"
        return _report(found, table, folder, display=display, settings=settings)
    loaded = load_model(model)
    table = open_table(loaded.categories)
    model_file = RunFolder(Path(model)).model if Path(model).is_dir() else Path(model)
    folder = Path(out) if out is not None else model_file.parent / "evaluation"
    compute = choose_compute(device)
    return evaluate_and_report(
        loaded, table, folder, compute=compute, display=display, settings=settings, batch_size=batch_size
    )


def _detect_exported(predictor: ExportedPredictor, table: Table, display: Display, batch_size: int) -> list[Detections]:
    """What the file finds in every image, by its paper's selection."""
    predictor.selection = predictor.papers_selection
    found = []
    with display.stage("evaluating", len(table)) as stage:
        files = (table.image_path(index) for index in range(len(table)))
        for _, outcome in predictor.predict_paths(files, batch_size):
            if isinstance(outcome, ImageError):
                raise outcome
            found.append(outcome)
            stage.advance(1)
    return found


def evaluate_and_report(
    loaded: LoadedModel,
    table: Table,
    folder: Path,
    *,
    compute: Compute,
    display: Display,
    settings: dict[str, Any],
    log: Sequence[LogRow] = (),
    batch_size: int = 8,
    world: World = ALONE,
) -> dict[str, Any]:
    """Detect in every image, measure, print the table, write `metrics.json` and `report.html` into `folder`.

    The processes of `world` share the images; process 0 does the rest.
    """
    compute.place(loaded.detector)
    with display.stage("evaluating", len(table)) as stage:
        found = detect_all(loaded.detector, table, compute, batch_size=batch_size, advance=stage.advance, world=world)
    return world.on_main(lambda: _report(found, table, folder, display=display, settings=settings, log=log))


def _report(
    found: list[Detections],
    table: Table,
    folder: Path,
    *,
    display: Display,
    settings: dict[str, Any],
    log: Sequence[LogRow] = (),
) -> dict[str, Any]:
    measurement = measure(table.ground_truth(), DetectionTable.from_detections(found), table.categories)
    print_table(measurement.voc, table.categories, display.console)
    folder.mkdir(parents=True, exist_ok=True)
    files = RunFolder(folder)
    files.metrics.write_text(json.dumps(measurement.metrics, indent=1) + "\n")
    _write_report(files.report, table, found, measurement, log, settings)
    display.say(f"written: {files.metrics}, {files.report}")
    return measurement.metrics


def _write_report(
    path: Path,
    table: Table,
    found: list[Detections],
    measurement: Measurement,
    log: Sequence[LogRow],
    settings: dict[str, Any],
) -> None:
    truth, rows = table.ground_truth(), DetectionTable.from_detections(found)
    best, worst = choose_examples(truth, rows)
    f1 = image_scores(truth, rows).f1

    def example(index: int) -> ReportExample:
        image = decode_image(table.image_path(index))
        return ReportExample(table.image_name(index), image, *table.objects(index), found[index], float(f1[index]))

    write_report(
        path,
        title=f"{settings.get('detector', settings.get('model', 'detector'))} on {Path(settings['data']).name}",
        metrics=measurement.metrics,
        voc_result=measurement.voc,
        categories=table.categories,
        training_log=[asdict(row) for row in log],
        best=[example(index) for index in best],
        worst=[example(index) for index in worst],
        settings=settings,
    )
