"""Measure a model on a labelled split: the table, `metrics.json`, `report.html`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from onestage.compute.device import Compute, choose_compute
from onestage.compute.memory import keep_freed_memory
from onestage.data import choose_splits
from onestage.data.table import Table
from onestage.evaluation import measure, print_table
from onestage.evaluation.examples import ReportExample, choose_examples, count_by_image
from onestage.evaluation.report import write_report
from onestage.inference.exported import ExportedPredictor, is_exported
from onestage.jobs.dataset import open_dataset
from onestage.models.model_file import LoadedModel, RunFolder, load_model
from onestage.runtime.decode import ImageError, decode_image
from onestage.selection import Nms, Selection
from onestage.settings import plain
from onestage.structures import Categories, Detections, DetectionTable
from onestage.terminal import Display
from onestage.training.detect_all import detect_all
from onestage.training.log_file import LogRow
from onestage.training.processes import ALONE, World

BATCH_SIZE = 8


def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: str | None = None,
    out: str | os.PathLike[str] | None = None,
    score_threshold: float | None = None,
    nms: Literal["hard", "soft"] | Nms | None = None,
    iou_threshold: float | None = None,
    class_agnostic: bool | None = None,
    max_detections: int | None = None,
    skip_bad_data: bool = False,
    batch_size: int = BATCH_SIZE,
    device: str | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Measure a model by the VOC and COCO protocols.

    Args:
        model: a run folder, a model file or an exported file.
        data: a VOC, COCO or YOLO folder with the classes of the model.
        split: None takes the test split.
        out: the folder of `metrics.json` and `report.html`; None takes `evaluation/` beside the model file.
        score_threshold, nms, iou_threshold, class_agnostic, max_detections: post-processing; None takes the model's.
        skip_bad_data: leave out bad images and objects instead of stopping.
        batch_size: images at once.
        device: None takes a GPU if there is one.
        display: where to print.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: no model, no data, data that does not fit the classes of the model, or post-processing that an
            exported file can't do.
    """
    display = display or Display()
    keep_freed_memory()
    data = os.fspath(data)
    split = split or choose_splits(data).test
    settings: dict[str, Any] = {"model": str(model), "data": data, "split": split}
    folder = Path(out) if out is not None else _folder_of(model) / "evaluation"

    def open_table(categories: Categories) -> Table:
        return open_dataset(data, split, display=display, skip_bad_data=skip_bad_data, categories=categories)

    def choose_selection(usual: Selection) -> Selection:
        selection = usual.changed(
            score_threshold=score_threshold,
            nms=nms,
            iou_threshold=iou_threshold,
            class_agnostic=class_agnostic,
            max_detections=max_detections,
        )
        settings["selection"] = plain(selection)
        return selection

    if is_exported(model):
        predictor = ExportedPredictor(model, device=device)
        predictor.selection = choose_selection(predictor.papers_selection)
        table = open_table(predictor.categories)
        found = _detect_exported(predictor, table, display, batch_size)
        return _report(found, table, folder, display=display, settings=settings)
    loaded = load_model(model)
    selection = choose_selection(loaded.detector.evaluation_selection)
    table, compute = open_table(loaded.categories), choose_compute(device)
    found = _detect(loaded, table, compute, display, selection, batch_size, ALONE)
    return _report(found, table, folder, display=display, settings=settings)


def _folder_of(model: str | os.PathLike[str]) -> Path:
    return Path(model) if Path(model).is_dir() else Path(model).parent


def _detect_exported(predictor: ExportedPredictor, table: Table, display: Display, batch_size: int) -> list[Detections]:
    found = []
    with display.stage("evaluating", len(table)) as stage:
        paths = (table.image_path(index) for index in range(len(table)))
        for _, outcome in predictor.predict_paths(paths, batch_size):
            if isinstance(outcome, ImageError):
                raise outcome
            found.append(outcome)
            stage.advance(1)
    return found


def _detect(
    loaded: LoadedModel,
    table: Table,
    compute: Compute,
    display: Display,
    selection: Selection,
    batch_size: int,
    world: World,
) -> list[Detections]:
    compute.place(loaded.detector)
    with display.stage("evaluating", len(table)) as stage:
        return detect_all(
            loaded.detector,
            table,
            compute,
            selection=selection,
            batch_size=batch_size,
            advance=stage.advance,
            world=world,
        )


def evaluate_and_report(
    loaded: LoadedModel,
    table: Table,
    folder: Path,
    *,
    compute: Compute,
    display: Display,
    settings: dict[str, Any],
    log: Sequence[LogRow] = (),
    world: World = ALONE,
) -> dict[str, Any]:
    """Detect in every image, measure, print the table, write `metrics.json` and `report.html` into `folder`.

    The ranks of `world` share the images; the main rank does the rest.
    """
    found = _detect(loaded, table, compute, display, loaded.detector.evaluation_selection, BATCH_SIZE, world)
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
    truth, rows = table.ground_truth(), DetectionTable.from_detections(found)
    measurement = measure(truth, rows, table.categories)
    print_table(measurement.voc, table.categories, display.console)
    counts = count_by_image(truth, rows)
    best, worst = choose_examples(truth, counts)

    def example(index: int) -> ReportExample:
        image = decode_image(table.image_path(index))
        f1 = float(counts.f1[index])
        return ReportExample(table.image_name(index), image, *table.objects(index), found=found[index], f1=f1)

    folder.mkdir(parents=True, exist_ok=True)
    files = RunFolder(folder)
    files.metrics.write_text(json.dumps(measurement.metrics, indent=1) + "\n")
    write_report(
        files.report,
        title=f"{settings.get('detector', settings.get('model', 'detector'))} on {Path(settings['data']).name}",
        measurement=measurement,
        categories=table.categories,
        training_log=log,
        best=[example(index) for index in best],
        worst=[example(index) for index in worst],
        settings=settings,
    )
    display.say(f"written: {files.metrics}, {files.report}")
    return measurement.metrics
