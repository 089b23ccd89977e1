"""Candidates for wrong labels: where a trained model sees what is not labelled, or not what is.

Each candidate gets a doubt from 0 to 1, and the largest come first. What the model does not know says little about
labels: an object that is never found counts by the recall of its class, one that is not labelled by its precision, and
a box that fits badly by how many of its class fit better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torchvision.ops import box_iou

from onestage.checks.checkup import Checkup
from onestage.checks.findings import LEVELS, Candidate, Example, Finding, counted, finding
from onestage.compute.device import choose_compute
from onestage.data.table import Table
from onestage.errors import UserError
from onestage.models.model_file import load_model
from onestage.structures import Detections
from onestage.terminal import Display
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
        ones = [one for one in candidates if one.kind == kind]
        if ones:
            examples = [
                Example(
                    f"{one.text} (doubt {one.doubt:.2f})",
                    one.split,
                    one.image,
                    one.objects,
                    None if one.objects else one.box_xyxy,
                )
                for one in ones
            ]
            mend = "look at them, and correct the labels that are wrong"
            yield finding(
                f"label-{kind}", "warning", len(ones), f"{counted(len(ones), noun)} {what}", why, mend, examples
            )


def candidates_of(table: Table, split: str, found: list[Detections]) -> list[Candidate]:
    """Candidates of one split, in no order; `found` in the table's order and with its labels."""
    known = _known(table, found)
    return [one for index in range(len(table)) for one in _of_image(table, split, index, found[index], known)]


class Known(NamedTuple):
    """How well the model knows each class, by its sure detections."""

    recall: Float[np.ndarray, " K"]  # the part of the objects that one finds
    precision: Float[np.ndarray, " K"]  # the part of them that finds an object
    fits: list[Float[np.ndarray, " M"]]  # of each class: the best IoU of a sure detection with each object it touches


def _known(table: Table, found: list[Detections]) -> Known:
    objects, found_objects, detections, right_detections = np.zeros((4, len(table.categories)))
    touched_labels, touched_ious = [], []
    for index in range(len(table)):
        boxes, labels, ignored = table.objects(index)
        iou, scores, found_labels = _against(boxes, found[index])
        sure = scores >= SURE
        own_iou = np.where((found_labels[:, None] == labels) & sure[:, None], iou, 0.0)  # (detections, objects)
        right, best = own_iou >= FITS, own_iou.max(axis=0, initial=0.0)
        touched_labels.append(labels[best >= TOUCHES])
        touched_ious.append(best[best >= TOUCHES])
        np.add.at(objects, labels[~ignored], 1)
        np.add.at(found_objects, labels[~ignored], right.any(axis=0)[~ignored])
        np.add.at(detections, found_labels[sure], 1)
        np.add.at(right_detections, found_labels[sure], right.any(axis=1)[sure])
    all_labels, all_ious = np.concatenate([*touched_labels, []]), np.concatenate([*touched_ious, []])
    fits = [all_ious[all_labels == label] for label in range(len(table.categories))]
    return Known(found_objects / np.maximum(objects, 1), right_detections / np.maximum(detections, 1), fits)


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
    for place in np.flatnonzero(~ignored).tolist():
        label = int(labels[place])
        doubted = _doubt(iou[:, place], scores, found_labels, label, names, known)
        if doubted is not None:
            doubt, kind, why = doubted
            x0, y0, x1, y1 = boxes[place].tolist()
            yield Candidate(doubt, kind, split, index, (place,), (x0, y0, x1, y1), f"{image}: {why}")


def _doubt(
    iou: Float[np.ndarray, " M"],
    scores: Float[np.ndarray, " M"],
    found_labels: Int64[np.ndarray, " M"],
    label: int,
    names: Sequence[str],
    known: Known,
) -> tuple[float, str, str] | None:
    """(doubt, kind, why) for one object; None where the detections agree with it.

    `iou` is that of each detection with the object.
    """
    name, same = names[label], found_labels == label
    own = scores[same & (iou >= FITS)].max(initial=0.0)
    others = np.where(~same & (iou >= FITS), scores, 0.0)
    best_other, touched = others.max(initial=0.0), scores[iou >= TOUCHES].max(initial=0.0)
    if best_other >= SURE and best_other > own:
        return float(best_other - own), "class", f"the {name} looks like a {names[found_labels[others.argmax()]]}"
    if touched < FAINT:
        return float(known.recall[label] * (1 - touched)), "never-found", f"the {name} is never found"
    about = same & (iou >= TOUCHES) & (scores >= SURE)
    best = iou[about].max(initial=0.0)
    if about.any() and best < LOOSE:
        why = f"the box of the {name} and the model's overlap by {best:.0%}"
        return float(scores[about].max() * (known.fits[label] > best).mean()), "box", why
    return None
