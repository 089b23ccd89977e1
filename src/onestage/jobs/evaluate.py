"""Measure a model on a labelled split: the table, `metrics.json`, `report.html`."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from onestage.compute.device import Compute, choose_compute
from onestage.compute.memory import keep_freed_memory
from onestage.data import choose_splits
from onestage.data.table import Table
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.evaluation import measure, print_table
from onestage.evaluation.metrics import decimal
from onestage.evaluation.report import ReportExample, choose_examples, count_by_image, write_report
from onestage.export import format_of
from onestage.inference.predictor import ExportedPredictor
from onestage.jobs.dataset import open_dataset
from onestage.models.model_file import LoadedModel, RunFolder, load_model
from onestage.runtime.decode import ImageError
from onestage.runtime.tiles import Tiling
from onestage.selection import Nms, Selection
from onestage.settings import plain
from onestage.structures import Detections, DetectionTable
from onestage.terminal import Display, command_display
from onestage.texts import json_text
from onestage.tiled_detections import changed_tiling, count_windows, windows_of
from onestage.training.detect_all import detect_all
from onestage.training.processes import ALONE, World
from onestage.whole_file import write_whole

Log = Sequence[Mapping[str, Any]]  # rows of `log.csv`, by column


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
    tile: int | Literal["auto", "none"] | None = None,
    tile_overlap: int | None = None,
    data_options: DataOptions = AS_IT_IS,
    batch_size: int = 8,
    device: str | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Measure a model by the VOC and COCO protocols; gives the content of `metrics.json`.

    Args:
        model: a run folder, a model file or an exported file.
        data: a folder of labelled images with the classes of the model.
        split: None takes the test split.
        out: the folder of `metrics.json` and `report.html`; None takes `evaluation/` beside the model file.
        score_threshold, nms, iou_threshold, class_agnostic, max_detections: post-processing; None takes the model's.
        tile, tile_overlap: how images are cut into tiles; see `changed_tiling`. None takes the model's.
        data_options: how the data is read.
        device: None takes a GPU if there is one.

    Raises:
        UserError: no model, no data, data that does not fit the classes of the model, or post-processing that an
            exported file can't do.
    """
    display = command_display(display)
    keep_freed_memory()
    data, path = os.fspath(data), Path(model)
    split = split or choose_splits(data, data_options).evaluated
    folder = Path(out) if out is not None else (path if path.is_dir() else path.parent) / "evaluation"
    loaded = load_model(model) if format_of(model) is None else ExportedPredictor(model, device=device)
    exported = isinstance(loaded, ExportedPredictor)
    own_selection = loaded.papers_selection if exported else loaded.detector.evaluation_selection
    chosen = {"score_threshold": score_threshold, "nms": nms, "iou_threshold": iou_threshold}
    selection = own_selection.changed(**chosen, class_agnostic=class_agnostic, max_detections=max_detections)
    tiled = loaded if exported else loaded.detector
    tiled.tiling = changed_tiling(tiled.tiling, tile, tile_overlap)
    settings = {"model": str(model), "data": data, "split": split}
    settings |= {"selection": plain(selection), "tiling": plain(tiled.tiling)}
    if exported:
        loaded.selection = selection  # before data is read: raises if the file can't do it
    table = open_dataset(data, split, display=display, options=data_options, categories=loaded.categories)
    table = table.with_bits(loaded.input_bits)
    if exported:
        found = _detect_exported(loaded, table, display, batch_size)
        return _measure_and_report(found, table, folder, display, settings, tiling=tiled.tiling)
    return evaluate_and_report(
        loaded,
        table,
        folder,
        compute=choose_compute(device),
        display=display,
        settings=settings,
        selection=selection,
        batch_size=batch_size,
    )


def _detect_exported(predictor: ExportedPredictor, table: Table, display: Display, batch_size: int) -> list[Detections]:
    found, started = [], time.perf_counter()
    with display.stage("evaluating", len(table)) as stage:
        paths = (table.image_path(index) for index in range(len(table)))
        for file in predictor.predict_files(paths, batch_size):
            if isinstance(file.outcome, ImageError):
                raise file.outcome
            found.append(file.outcome)
            stage.advance()
    _say_cost(predictor.tiling, table, time.perf_counter() - started, display)
    return found


def evaluate_and_report(
    loaded: LoadedModel,
    table: Table,
    folder: Path,
    *,
    compute: Compute,
    display: Display,
    settings: Mapping[str, Any],
    log: Log = (),
    selection: Selection | None = None,
    batch_size: int = 8,
    world: World = ALONE,
) -> dict[str, Any]:
    """Detect in every image, measure, print the table, write `metrics.json` and `report.html` into `folder`.

    `selection` None takes the model's own. The ranks of `world` share the images; the main rank does the rest.
    """
    network = loaded.detector
    compute.place(network)
    started = time.perf_counter()
    with display.stage("evaluating", len(table)) as stage:
        found = detect_all(
            network, table, compute, selection=selection, batch_size=batch_size, advance=stage.advance, world=world
        )
    _say_cost(network.tiling, table, time.perf_counter() - started, display)
    return world.on_main(
        lambda: _measure_and_report(found, table, folder, display, settings, log, tiling=network.tiling)
    )


def _say_cost(tiling: Tiling | None, table: Table, seconds: float, display: Display) -> None:
    """Say what tiles cost, if there are any."""
    if tiling is not None and len(table):
        tiles = count_windows(tiling, table.image_sizes_hw)
        display.say(f"{tiles / len(table):.3g} tiles and {seconds / len(table):.2g} s an image")


def _measure_and_report(
    found: list[Detections],
    table: Table,
    folder: Path,
    display: Display,
    settings: Mapping[str, Any],
    log: Log = (),
    *,
    tiling: Tiling | None,
) -> dict[str, Any]:
    truth, detections = table.ground_truth(), DetectionTable.from_detections(found)
    measurement = measure(truth, detections, table.categories)
    print_table(measurement.voc, table.categories, display.console)
    if table.ignored.all():  # or there are none at all
        display.say(f"warning: {table.split}: no objects in {len(table):,} images, so there is nothing to measure")
    counts = count_by_image(truth, detections)
    best, worst = choose_examples(truth, counts)

    def example(index: int) -> ReportExample:
        image = table.pixels(index)
        f1, windows_xyxy = float(counts.f1[index]), windows_of(tiling, (image.shape[0], image.shape[1]))
        return ReportExample(table.image_name(index), image, *table.objects(index), found[index], f1, windows_xyxy)

    folder.mkdir(parents=True, exist_ok=True)
    files = RunFolder(folder)
    title = f"{settings.get('detector', settings.get('model', 'detector'))} on {Path(settings['data']).name}"
    write_whole(files.metrics, (json_text(measurement.metrics, indent=1) + "\n").encode())
    write_report(
        files.report,
        title=title,
        measurement=measurement,
        categories=table.categories,
        training_log=log,
        examples={"Best images": [*map(example, best)], "Worst images": [*map(example, worst)]},
        settings=settings,
    )
    display.say(
        f"{title}, {table.split}: AP50 {decimal(measurement.metrics['voc']['map_area'])} (VOC, area), "
        f"AP {decimal(measurement.coco['AP'])} (COCO) on {len(table):,} images with {len(truth.labels):,} objects",
        f"written: {files.metrics}, {files.report}, after {display.took}",
    )
    return measurement.metrics
