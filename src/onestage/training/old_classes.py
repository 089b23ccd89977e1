"""Classes of a trained detector that new data lacks, kept while it is trained further.

Images of the new data may show objects of the old classes, which nobody has labelled there: trained as background, the
detector unlearns them. So the detector itself looks for them first: what it is sure of is taken for an object (as in
Li & Hoiem 2016, arXiv 1606.09282, the old network's answers teach the new), what it is not sure of is ignored. To
ignore all of it keeps nothing: without positives the old classes only learn where they are not (docs/ledger.md).
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from onestage.boxes import pairwise_iou
from onestage.compute.device import Compute
from onestage.data.table import Table, TableBuilder
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.models.model_file import read_tensors, write_tensors
from onestage.structures import Categories, Detections
from onestage.training.detect_all import detect_all

OldClasses = Literal["drop", "label"]
SEEN, SURE = 0.2, 0.5  # scores above which a detection is ignored in training, and taken for an object
COLUMNS = ("first_object", "boxes_xyxy", "labels", "ignored", "difficult")  # of the table that a run folder keeps
SAME_IOU = 0.5  # with a labelled object, from which a detection is of that


def united(new: Categories, old: Categories, known: dict[int, int]) -> Categories:
    """The classes of the new data, then those of the old that are not among them; `known`: as `same_classes` gives."""
    more = [name for label, name in enumerate(old.names) if label not in known.values()]
    if twice := set(more) & set(new.names):  # two old classes that differ in case, say
        raise UserError(f"old classes: {min(twice)!r} would be there twice; rename one of them in the data")
    first = max(new.source_ids) + 1
    return Categories((*new.names, *more), (*new.source_ids, *range(first, first + len(more))))


def find_old_objects(
    table: Table,
    categories: Categories,
    detector: Detector,
    old: Categories,
    compute: Compute,
    advance: Callable[[int], None],
) -> Table:
    """The objects of old classes that a trained detector sees in the images of new data, as a table of these images.

    Those that it is not sure of are ignored in training.

    Args:
        table: the new data, whose classes are the first of `categories`.
        categories: see `united`.
        detector: with the classes `old`.
        advance: called with the number of images after each batch.
    """
    selection = replace(detector.evaluation_selection, score_threshold=SEEN)
    found = detect_all(detector, replace(table, categories=old), compute, selection=selection, advance=advance)
    first_new = len(table.categories)
    label_of = torch.tensor([categories.label_of.get(name, -1) for name in old.names])
    label_of[label_of < first_new] = -1
    builder = TableBuilder(table.root, table.split, table.kind)
    for index, one in enumerate(found):
        boxes_xyxy, labels, sure = _of_old_classes(one, label_of, torch.from_numpy(table.objects(index).boxes_xyxy))
        builder.add(
            path=table.image_name(index),
            image_id=table.image_id(index),
            size_hw=tuple(table.image_sizes_hw[index].tolist()),
            boxes_xyxy=boxes_xyxy,
            labels=labels,
            ignored=~sure,
        )
    return builder.build(categories)


def _of_old_classes(
    found: Detections, label_of: torch.Tensor, labelled_xyxy: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, new labels and whether the detector is sure, of detections of old classes that nobody has labelled."""
    labels = label_of[found.labels]
    overlap = pairwise_iou(found.boxes_xyxy, labelled_xyxy)  # (M, N)
    keep = (labels >= 0) & ~(overlap > SAME_IOU).any(dim=1)
    return found.boxes_xyxy[keep].numpy(), labels[keep].numpy(), (found.scores[keep] > SURE).numpy()


def without_classes(found: list[Detections], categories: Categories, names: Collection[str]) -> list[Detections]:
    """Each image's detections of the other classes: where nobody labels these, what is right of them can't be told."""
    left_out = torch.tensor([categories.label_of[name] for name in names], dtype=torch.int64)
    return [one[~torch.isin(one.labels, left_out)] for one in found] if len(left_out) else found


def save_old_objects(file: Path, old: Table) -> None:
    """Write them, so that a resumed run has the same."""
    tensors = {name: torch.from_numpy(getattr(old, name)) for name in COLUMNS}
    names, ids = old.categories.names, old.categories.source_ids
    write_tensors(file, tensors, {"categories": {"names": names, "source_ids": ids}})


def load_old_objects(file: Path, table: Table) -> Table:
    """What `save_old_objects` wrote, for the images of `table`; a UserError if it is damaged or of other images."""
    tensors, header = read_tensors(file)
    try:
        columns: dict[str, Any] = {name: tensors[name].numpy() for name in COLUMNS}
        categories = Categories.from_dict(header["categories"])
    except KeyError as error:
        raise UserError(f"{file}: holds no objects of old classes; start another run") from error
    if len(columns["first_object"]) != len(table) + 1:
        raise UserError(f"{file}: is of other images than those that train now; put the data back")
    sizes = columns["boxes_xyxy"][:, 2:] - columns["boxes_xyxy"][:, :2]
    return replace(table, categories=categories, areas=sizes.prod(axis=1), **columns)
