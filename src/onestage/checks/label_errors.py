"""Candidates for wrong labels: where a trained model sees what is not labelled, or not what is.

Each candidate gets a doubt from 0 to 1, and the largest come first. What the model does not know says little about
labels: an object that is never found counts by how much of its class is noticed, one that is not labelled by the
precision of its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torchvision.ops import box_iou

from onestage.checks.checkup import Checkup
from onestage.checks.findings import LEVELS, Candidate, Example, Finding
from onestage.compute.device import choose_compute
from onestage.data.table import Table
from onestage.errors import UserError
from onestage.models.model_file import load_model
from onestage.structures import Detections
from onestage.terminal import Display
from onestage.texts import counted
from onestage.training.detect_all import detect_all

SURE = 0.5  # score of a detection that counts against a label
TOUCHES, FITS = 0.3, 0.5  # IoU of boxes that are about one object, and that agree
FAINT = 0.1  # score below which nothing was found
LOOSE = 0.7  # IoU below which a sure detection doubts the box
SHOWN = 200  # candidates that are listed


_WHY = {
    "missing": ("object", "that may be unlabelled", "what is not labelled is taught to be background"),
    "class": ("object", "that may be of another class", "a wrong class teaches both classes wrongly"),
    "box": ("box", "that may be loose or shifted", "boxes are learned as they are drawn"),
    "never-found": ("object", "never found by the model", "they may be no object of their class, or hard ones"),
}


def check_labels(checkup: Checkup, model: str, *, device: str | None, display: Display) -> Checkup:
    """The checkup with candidates for wrong labels, the most doubtful first.

    Raises:
        UserError: no such model, or its classes are not those of the data.
    """
    loaded = load_model(model)
    compute = choose_compute(device)
    compute.place(loaded.detector)
    candidates: list[Candidate] = []
    for split, table in checkup.tables.items():
        if set(table.categories.names) != set(loaded.categories.names):
            raise UserError(
                f"{model}: its classes ({', '.join(loaded.categories.names)}) are not those of {checkup.data} "
                f"({', '.join(table.categories.names)}); take a model that was trained on them"
            )
        own = table.with_categories(loaded.categories)
        with display.stage(f"detecting in {split}", len(own)) as stage:
            found = detect_all(loaded.detector, own, compute, advance=stage.advance)
        candidates += candidates_of(own, split, found)
    candidates.sort(key=lambda one: -one.doubt)
    candidates = candidates[:SHOWN]
    findings = [*checkup.findings, *_findings(candidates)]
    findings.sort(key=lambda one: LEVELS.index(one.level))
    return replace(checkup, findings=findings, candidates=candidates)


def _findings(candidates: list[Candidate]) -> Iterator[Finding]:
    for kind, (noun, what, why) in _WHY.items():
        examples = [
            Example(
                f"{one.text} (doubt {one.doubt:.2f})",
                one.split,
                one.image,
                one.objects,
                None if one.objects else one.box_xyxy,
            )
            for one in candidates
            if one.kind == kind
        ]
        if examples:
            count, mend = len(examples), "look at them, and correct the labels that are wrong"
            yield Finding(f"label-{kind}", "warning", count, f"{counted(count, noun)} {what}", why, mend, examples)


def candidates_of(table: Table, split: str, found: list[Detections]) -> list[Candidate]:
    """Candidates of one split, in no order; `found` in the table's order and with its labels."""
    known = _known(table, found)
    return [one for index in range(len(table)) for one in _of_image(table, split, index, found[index], known)]


class Known(NamedTuple):
    """How well the model knows each class."""

    noticed: Float[np.ndarray, " K"]  # the part of the objects that any detection touches
    precision: Float[np.ndarray, " K"]  # the part of the sure detections that find an object of the class


def _known(table: Table, found: list[Detections]) -> Known:
    objects, noticed, detections, right = np.zeros((4, len(table.categories)))
    for index in range(len(table)):
        boxes, labels, ignored = table.objects(index)
        iou, scores, found_labels = _against(boxes, found[index])
        touched = np.where(scores[:, None] >= FAINT, iou, 0.0).max(axis=0, initial=0.0) >= TOUCHES
        sure, finds = scores >= SURE, ((iou >= FITS) & (found_labels[:, None] == labels)).any(axis=1)
        np.add.at(objects, labels[~ignored], 1)
        np.add.at(noticed, labels[~ignored], touched[~ignored])
        np.add.at(detections, found_labels[sure], 1)
        np.add.at(right, found_labels[sure], finds[sure])
    return Known(noticed / np.maximum(objects, 1), right / np.maximum(detections, 1))


def _against(boxes_xyxy: np.ndarray, found: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(detections, objects) IoU, scores and labels."""
    iou = box_iou(found.boxes_xyxy.double().cpu(), torch.from_numpy(boxes_xyxy.astype(np.float64)))
    return iou.numpy(), found.scores.double().cpu().numpy(), found.labels.cpu().numpy()


def _of_image(table: Table, split: str, index: int, found: Detections, known: Known) -> Iterator[Candidate]:
    names, image = table.categories.names, table.image_name(index)
    boxes, labels, ignored = table.objects(index)
    iou, scores, found_labels = _against(boxes, found)
    for row in np.flatnonzero((iou < TOUCHES).all(axis=1) & (scores >= SURE)):
        x0, y0, x1, y1 = found.boxes_xyxy[row].tolist()
        text = f"{image}: a {names[found_labels[row]]} at {x0:.0f}, {y0:.0f}, {x1:.0f}, {y1:.0f} is not labelled"
        doubt = float(scores[row] * known.precision[found_labels[row]])
        yield Candidate(doubt, "missing", split, index, (), (x0, y0, x1, y1), text)
    nearest = iou.argmax(axis=1) if len(boxes) else np.zeros(len(scores), dtype=np.int64)  # object of each detection
    for place in np.flatnonzero(~ignored).tolist():
        label = int(labels[place])
        name, same = names[label], found_labels == label
        seen = Seen(iou[:, place], scores, same, nearest == place)
        x0, y0, x1, y1 = boxes[place].tolist()
        doubted = _doubt(seen, float(known.noticed[label]))
        if doubted is not None:
            doubt, kind, detection = doubted
            why = f"the {name} is never found"
            if kind == "class":
                why = f"the {name} looks like a {names[found_labels[detection]]}"
            elif kind == "box":
                why = f"the box of the {name} and the model's overlap by {seen.iou[detection]:.0%}"
            yield Candidate(doubt, kind, split, index, (place,), (x0, y0, x1, y1), f"{image}: {why}")


class Seen(NamedTuple):
    """The detections of an image, as seen from one object; all (M,)."""

    iou: np.ndarray  # with the object
    scores: np.ndarray
    same: np.ndarray  # True: of its class
    nearest: np.ndarray  # True: the object is the one that it overlaps most


def _doubt(seen: Seen, noticed: float) -> tuple[float, str, int] | None:
    """(doubt, kind, the detection that speaks against the label) of one object; None where the detections agree.

    `noticed` is the part of its class that the model notices at all.
    """
    own = seen.scores[seen.same & (seen.iou >= FITS)].max(initial=0.0)
    others = np.where(~seen.same & (seen.iou >= FITS), seen.scores, 0.0)
    best_other = others.max(initial=0.0)
    if best_other >= SURE and best_other > own:
        return float(best_other / (best_other + own)), "class", int(others.argmax())
    touched = seen.scores[seen.iou >= TOUCHES].max(initial=0.0)
    if touched < FAINT:
        return float(noticed * (1 - touched)), "never-found", 0
    about = np.where(seen.same & seen.nearest & (seen.scores >= SURE), seen.iou, 0.0)
    best = about.max(initial=0.0)
    if TOUCHES <= best < LOOSE:
        loose = (LOOSE - best) / (LOOSE - TOUCHES)
        return float(seen.scores[about.argmax()] * loose), "box", int(about.argmax())
    return None
