"""Measure a model on a labelled split: the table, `metrics.json`, `report.html`."""

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onestage.anchors import best_anchor_iou
from onestage.compute.device import Compute, choose_compute
from onestage.compute.memory import keep_freed_memory
from onestage.data import choose_splits
from onestage.data.splits import base_of
from onestage.data.table import Table
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.detectors.base import Detector
from onestage.errors import UserError
from onestage.evaluation import find_thresholds
from onestage.evaluation.words import TrainedOn
from onestage.export import format_of
from onestage.inference.predictor import ExportedPredictor
from onestage.jobs.dataset import open_dataset
from onestage.jobs.results import Log, Results
from onestage.models.hub import hub_name
from onestage.models.model_file import LoadedModel, keep_thresholds, load_model, named_file
from onestage.runtime.decode import ImageError
from onestage.runtime.tiles import Tiling
from onestage.selection import Nms, Selection
from onestage.settings import plain
from onestage.structures import Detections, DetectionTable
from onestage.terminal import Display, command_display
from onestage.thresholds import BEST_F1, Aim, Thresholds
from onestage.tiled_detections import changed_tiling, count_windows
from onestage.training.detect_all import detect_all
from onestage.training.old_classes import without_classes
from onestage.training.processes import ALONE, World
from onestage.whole_file import make_folder


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
    wanted_precision: float | None = None,
    wanted_recall: float | None = None,
    data_options: DataOptions = AS_IT_IS,
    batch_size: int = 8,
    device: str | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Measure a model by the VOC and COCO protocols; gives the content of `metrics.json`.

    Args:
        model: a run folder, a model file, an exported file or a hub's name (`hf://USER/NAME[@REVISION]`).
        data: a folder of labelled images with the classes of the model.
        split: None takes the test split.
        out: the folder of `metrics.json` and `report.html`; None takes `evaluation/` beside the model file, for a
            hub's model `NAME/evaluation/`.
        score_threshold, nms, iou_threshold, class_agnostic, max_detections: post-processing; None takes the model's.
        tile, tile_overlap: how images are cut into tiles; see `changed_tiling`. None takes the model's.
        wanted_precision, wanted_recall: find the score thresholds that reach it, and keep them in the model file. None:
            those of the best F1, which are kept where the file has none yet.
        data_options: how the data is read.
        device: None takes a GPU if there is one.

    Raises:
        UserError: no model, no data, data that does not fit the classes of the model, or post-processing that an
            exported file can't do.
    """
    keep_freed_memory()
    display, data = command_display(display), os.fspath(data)
    if split is None and base_of(split := choose_splits(data, data_options).evaluated) != split:
        whole = base_of(split)
        display.say(f"evaluated on {split}, what training on this data holds out; --split {whole} takes all of it")
    folder = Path(out) if out is not None else named_file(model).parent / "evaluation"
    loaded = load_model(model) if format_of(model) is None else ExportedPredictor(model, device=device)
    exported = isinstance(loaded, ExportedPredictor)
    own_selection = loaded.papers_selection if exported else loaded.detector.evaluation_selection
    chosen = {"score_threshold": score_threshold, "nms": nms, "iou_threshold": iou_threshold}
    selection = own_selection.changed(**chosen, class_agnostic=class_agnostic, max_detections=max_detections)
    tiled = loaded if exported else loaded.detector
    tiled.tiling = changed_tiling(tiled.tiling, tile, tile_overlap)
    about = {"model": str(model), "data": data, "split": split}
    settings = {**about, "selection": plain(selection), "tiling": plain(tiled.tiling)}
    as_it_is = selection == own_selection and tile is None and tile_overlap is None
    find_in = _thresholds_to_find(model, loaded, Aim(wanted_precision, wanted_recall), as_it_is)
    if exported:
        loaded.selection = selection  # before data is read: raises if the file can't do it
    table = open_dataset(data, split, display=display, options=data_options, categories=loaded.categories)
    table = table.with_bits(loaded.input_bits)
    make_folder(folder)
    if exported:
        return _evaluate_exported(loaded, table, folder, display, settings, batch_size, device)
    how = {"display": display, "settings": settings, "compute": choose_compute(device), "batch_size": batch_size}
    find_in = _unless_empty(find_in, table)
    return evaluate_and_report(loaded, table, folder, selection=selection, find_thresholds_in=find_in, **how)


def _thresholds_to_find(
    model: str | os.PathLike[str], loaded: LoadedModel | ExportedPredictor, aim: Aim, as_it_is: bool
) -> tuple[Path, Aim] | None:
    """The model file whose score thresholds the evaluation finds, and their aim; None leaves what is there.

    Raises:
        UserError: there is an aim, and the model is an exported file or a hub's, or `as_it_is` says that it works
            otherwise.
    """
    exported = isinstance(loaded, ExportedPredictor)
    on_hub = hub_name(model)
    if aim != BEST_F1 and on_hub is not None:
        raise UserError(
            f"{model}: score thresholds are kept in the model file, and a hub's is not changed; take a copy: "
            f"hf download {on_hub.repository} --local-dir {named_file(model).parent}"
        )
    if aim != BEST_F1 and exported:
        raise UserError(f"{model}: an exported file, which keeps its score thresholds; give its run, then export anew")
    if aim != BEST_F1 and not as_it_is:
        raise UserError(
            f"{model}: score thresholds are found for a model file as it is; leave out other post-processing"
        )
    if exported or on_hub is not None or not as_it_is or (aim == BEST_F1 and loaded.thresholds is not None):
        return None
    return named_file(model), aim


def _unless_empty(find_in: tuple[Path, Aim] | None, table: Table) -> tuple[Path, Aim] | None:
    """The same, if the table has objects to find thresholds by; a UserError if there are none, but an aim."""
    if find_in is None or not table.ignored.all():
        return find_in
    if find_in[1] != BEST_F1:
        place = f"{table.root}, {table.split}"
        raise UserError(f"{place}: no objects, so no threshold has a {find_in[1]}; name another --split")
    return None


def _evaluate_exported(
    predictor: ExportedPredictor,
    table: Table,
    folder: Path,
    display: Display,
    settings: Mapping[str, Any],
    batch_size: int,
    device: str | None,
) -> dict[str, Any]:
    found, started = [], time.perf_counter()
    with display.stage("evaluating", len(table)) as stage:
        paths = (table.image_path(index) for index in range(len(table)))
        for file in predictor.predict_files(paths, batch_size):
            if isinstance(file.outcome, ImageError):
                raise file.outcome
            found.append(file.outcome)
            stage.advance()
    seconds = time.perf_counter() - started
    _say_cost(predictor.tiling, table, seconds, display)
    thresholds = _thresholds(predictor.usual_selection, predictor.selection, len(table.categories))
    about = {"detector": predictor.detector_name, "device": device or "cpu"}
    about |= {"ms_per_image": 1e3 * seconds / max(1, len(table))}
    results = Results(found, table, settings, about, thresholds, predictor.tiling, calibration=predictor.calibration)
    return results.write(folder, display)


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
    find_thresholds_in: tuple[Path, Aim] | None = None,
    world: World = ALONE,
    trained_on: TrainedOn | None = None,
    unlabelled: Collection[str] = (),
) -> dict[str, Any]:
    """Detect in every image, measure, print the table, write `metrics.json` and `report.html` into `folder`.

    `selection` None takes the model's own. The thresholds of its classes are found anew for the model file of
    `find_thresholds_in`; `trained_on` is known at the end of a run. `unlabelled` are classes of the model that
    the data does not label: what is found of them is left out. The ranks of `world` share the images; the main
    rank does the rest.
    """
    network = loaded.detector
    compute.place(network)
    started = time.perf_counter()
    with display.stage("evaluating", len(table)) as stage:
        found = detect_all(
            network, table, compute, selection=selection, batch_size=batch_size, advance=stage.advance, world=world
        )
    seconds = time.perf_counter() - started
    if unlabelled:
        found = without_classes(found, table.categories, unlabelled)
        display.say(f"{', '.join(unlabelled)}: what is found of them is left out, since the data does not label them")
    _say_cost(network.tiling, table, seconds, display)
    about = {"detector": network.name, "parameters": sum(one.numel() for one in network.parameters())}
    about |= {"ms_per_image": 1e3 * seconds / max(1, len(table)), "device": str(compute.device)}

    def finish() -> dict[str, Any]:
        model = loaded
        if find_thresholds_in is not None:
            model = replace(loaded, thresholds=_kept_thresholds(*find_thresholds_in, loaded, found, table, display))
        scores = _thresholds(model.selection, selection, len(table.categories))
        more = {"log": log, "trained_on": trained_on, "anchor_iou": _anchor_iou(network, table)}
        more |= {"calibration": model.calibration}
        return Results(found, table, settings, about, scores, network.tiling, **more).write(folder, display)

    return world.on_main(finish)


def _kept_thresholds(
    model: Path, aim: Aim, loaded: LoadedModel, found: list[Detections], table: Table, display: Display
) -> Thresholds:
    """The thresholds that reach the aim on these images, put into the model file, if it can be written.

    What scores mean stays as it is where too few objects are found here to tell.
    """
    detections = DetectionTable.from_detections(found)
    split, classes = table.split, table.categories.names
    thresholds = find_thresholds(table.ground_truth(), detections, len(classes), aim=aim, split=split)
    if thresholds.calibration is None:
        thresholds = replace(thresholds, calibration=loaded.calibration)
    short = [name for name, one in zip(classes, thresholds.classes, strict=True) if one.objects and not one.reached]
    if short:
        display.say(f"warning: no threshold of {', '.join(short)} reaches a {aim}; theirs come nearest")
    try:
        keep_thresholds(model, thresholds)
        display.say(f"score thresholds {thresholds}, kept in {model}")
    except UserError as error:
        display.say(f"score thresholds {thresholds}, not kept: {error}")
    return thresholds


def _thresholds(usual: Selection, used: Selection | None, num_classes: int) -> list[float]:
    """The score above which each class's detections count: the usual ones, but for those that a user cut off."""
    scores = usual.class_thresholds or [usual.score_threshold] * num_classes
    return [max(score, used.score_threshold) if used is not None else score for score in scores]


def _say_cost(tiling: Tiling | None, table: Table, seconds: float, display: Display) -> None:
    """Say what tiles cost, if there are any."""
    if tiling is not None and len(table):
        tiles = count_windows(tiling, table.image_sizes_hw)
        display.say(f"{tiles / len(table):.3g} tiles and {seconds / len(table):.2g} s an image")


def _anchor_iou(network: Detector, table: Table) -> np.ndarray | None:
    """Each object's IoU with the anchor that fits it best, 0 for ignored ones; None without anchors."""
    shapes = network.config.anchor_shapes()
    if not shapes:
        return None
    sizes_hw = table.box_sizes_hw(network.resize if network.tiling is None else None)
    if network.tiling is not None:
        side = network.tiling.side
        sizes_hw = sizes_hw * (network.resize.image_hw((side, side))[0] / side)
    iou = np.zeros(len(table.labels))
    iou[~table.ignored] = best_anchor_iou(sizes_hw, shapes)
    return iou
