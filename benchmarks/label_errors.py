"""How many wrong labels `onestage doctor --model` finds: a part of the labels is spoilt on purpose, then looked for.

A quarter of the spoilt objects each is deleted, given another class, moved and resized, or put where there is none.
With `--minutes`, the model is trained on the spoilt training images, as a user's would be.

    python benchmarks/label_errors.py DATA --minutes 10 [--detector ssd300-tf_efficientnet_lite0] [--part 0.05]
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from tyro.conf import Positional

import onestage
from onestage.checks import check_up
from onestage.checks.findings import Candidate
from onestage.checks.label_errors import check_labels
from onestage.data.table import Table, TableBuilder
from onestage.data.writing import write_voc
from onestage.data_options import DataOptions
from onestage.jobs.convert import read_all_splits
from onestage.terminal import Display

KINDS = ("missing", "class", "box", "never-found")  # as the doctor calls them
LISTED = 100


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    model: Path | None = None  # instead of training one
    detector: str = "ssd300-tf_efficientnet_lite0"
    minutes: float = 10.0
    part: float = 0.05
    seed: int = 0
    backbone_weights: str = "imagenet"


class Spoilt(NamedTuple):
    """One label that was spoilt."""

    image: str
    kind: str
    box_xyxy: np.ndarray  # as it is now; of a deleted object, as it was


def spoil(table: Table, part: float, rng: np.random.Generator) -> tuple[Table, list[Spoilt]]:
    """The table with a part of its objects spoilt, and the list of these."""
    builder, spoilt = TableBuilder(table.root, table.split, table.kind), []
    count = len(table.labels)
    chosen = rng.permutation(np.flatnonzero(~table.ignored))[: round(part * count)]
    kind_of = {int(row): KINDS[place % len(KINDS)] for place, row in enumerate(chosen)}
    for index in range(len(table)):
        height, width = table.image_sizes_hw[index].tolist()
        boxes, labels, ignored, image = [], [], [], table.image_name(index).rpartition("/")[2]
        for row in range(int(table.first_object[index]), int(table.first_object[index + 1])):
            box, label, kind = table.boxes_xyxy[row].copy(), int(table.labels[row]), kind_of.get(row)
            if kind is not None:
                if kind == "class":
                    label = int((label + rng.integers(1, len(table.categories))) % len(table.categories))
                elif kind == "box":
                    box = _moved(box, width, height, rng)
                elif kind == "never-found":
                    size = box[2:] - box[:2]
                    start = rng.random(2) * np.maximum((width, height) - size, 0)
                    boxes.append(np.concatenate([start, start + size]))
                    labels.append(label)
                    ignored.append(False)
                    spoilt.append(Spoilt(image, kind, boxes[-1]))
                if kind != "never-found":
                    spoilt.append(Spoilt(image, kind, box))
            if kind != "missing":
                boxes.append(box)
                labels.append(label)
                ignored.append(bool(table.ignored[row]))
        builder.add(
            path=table.image_name(index),
            image_id=table.image_id(index),
            size_hw=(height, width),
            boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            labels=labels,
            ignored=ignored,
        )
    return builder.build(table.categories), spoilt


def _moved(box: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Moved by a quarter to a half of its sides and up to a third larger or smaller, within the image."""
    size = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + size * rng.uniform(0.25, 0.5, 2) * rng.choice((-1, 1), 2)
    size = size * rng.uniform(0.67, 1.33, 2)
    moved = np.concatenate([centre - size / 2, centre + size / 2]).clip(0, (width, height, width, height))
    return moved if (moved[2:] > moved[:2] + 1).all() else box


def is_hit(candidate: Candidate, image: str, spoilt: list[Spoilt]) -> bool:
    """True for a candidate that points at a spoilt label."""
    box = np.array(candidate.box_xyxy)
    return any(one.image == image and _iou(box, one.box_xyxy) > 0.4 for one in spoilt)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    overlap = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()
    return float(overlap / max((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - overlap, 1e-9))


def main(options: Options) -> None:
    rng, display = np.random.default_rng(options.seed), Display()
    tables, spoilt = {}, []
    clean = read_all_splits(options.data, display, DataOptions(skip_bad_data=True))
    for split, table in clean.items():
        if split == "trainval" and {"train", "val"} <= set(clean):
            continue
        tables[split], bad = spoil(table, options.part, rng)
        spoilt += bad
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "spoilt"
        write_voc(tables, data)
        model = options.model
        if model is None:
            model = Path(folder) / "run"
            onestage.train(
                data,
                detector=options.detector,
                minutes=options.minutes,
                backbone_weights=options.backbone_weights,
                out=model,
            )
        checkup = check_up(str(data), detector=options.detector)
        checkup = check_labels(replace(checkup), str(model), device=None, display=display)
        listed = checkup.candidates[:LISTED]
        names = [checkup.tables[one.split].image_name(one.image).rpartition("/")[2] for one in listed]
        hits = [is_hit(one, name, spoilt) for one, name in zip(listed, names, strict=True)]
    for kind in KINDS:
        of_kind = [hit for hit, one in zip(hits, listed, strict=True) if one.kind == kind]
        print(f"{kind:12} {sum(of_kind):3} of {len(of_kind):3} candidates are spoilt ones")
    made = Counter(one.kind for one in spoilt)
    print(f"spoilt: {', '.join(f'{count} {kind}' for kind, count in made.items())}")
    print(f"of the first {len(listed)} candidates, {sum(hits)} are spoilt on purpose")


if __name__ == "__main__":
    main(tyro.cli(Options))
