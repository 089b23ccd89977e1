"""The checks of a data set, and all that they found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onestage.checks.classes import check_classes
from onestage.checks.copies import check_copies
from onestage.checks.findings import LEVELS, Candidate, Example, Finding
from onestage.checks.images import check_images, check_turned
from onestage.checks.objects import check_empty, check_objects
from onestage.checks.problems import findings_of
from onestage.data import Found, find_datasets, read_dataset, unite
from onestage.data.reading import ALL
from onestage.data.split_names import split_key
from onestage.data.splits import in_order, splits_of_joined
from onestage.data.table import Table
from onestage.data.validate import Problem, drop_bad, validate_images
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.detectors import DetectorConfig, detector_config
from onestage.errors import UserError


@dataclass(frozen=True)
class Checkup:
    """A data set as it was found."""

    data: str
    about: Sequence[str]  # what each folder was taken for
    tables: Mapping[str, Table]  # by split, with one list of classes
    detector: str
    input_sizes: Mapping[str, np.ndarray]  # by split: (N, 2) height and width of the objects at the detector's input
    findings: Sequence[Finding]
    problems: Mapping[str, Sequence[Problem]]  # by split, as the readers noted them
    candidates: Sequence[Candidate] = ()  # for wrong labels, the most doubtful first

    @property
    def errors(self) -> list[Finding]:
        return [one for one in self.findings if one.level == "error"]

    def without_errors(self) -> dict[str, Table]:
        """The tables without the images that an error is about, and without those that a later split has too."""
        tables = {split: drop_bad(table, self.problems[split]) for split, table in self.tables.items()}
        twice = {
            (one.split, self.tables[one.split].image_name(one.image))
            for finding in self.findings
            if finding.code == "overlap"
            for one in finding.examples
            if one.image is not None
        }
        return {
            split: table.subset(
                indices=[row for row, name in enumerate(table.image_names()) if (split, name) not in twice]
            )
            for split, table in tables.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: what is in the data set, and the findings."""
        splits = {}
        for name, table in self.tables.items():
            counts = np.bincount(table.labels, minlength=len(table.categories)).tolist()
            sizes = np.sqrt(self.input_sizes[name].prod(axis=1))
            splits[name] = {
                "images": len(table),
                "objects": len(table.labels),
                "ignored": int(table.ignored.sum()),
                "classes": dict(zip(table.categories.names, counts, strict=True)),
                "size_at_input_px": dict(zip(("p5", "median", "p95"), _quantiles(sizes), strict=True)),
            }
        return {
            "data": self.data,
            "about": list(self.about),
            "detector": self.detector,
            "splits": splits,
            "findings": [one.as_dict() for one in self.findings],
            "label_candidates": [
                {"doubt": round(one.doubt, 3), "kind": one.kind, "split": one.split, "what": one.text}
                for one in self.candidates
            ],
        }


def _quantiles(values: np.ndarray) -> list[float | None]:
    if not len(values):
        return [None, None, None]
    return [round(float(value), 1) for value in np.quantile(values, (0.05, 0.5, 0.95))]


def check_up(data: str, *, detector: str, options: DataOptions = AS_IT_IS) -> Checkup:
    """Read all splits of a data set and look for everything that is wrong or odd in them.

    Args:
        detector: objects are measured at the input of this one.

    Raises:
        UserError: no such data, no data set, or none of its splits has a usable image; an unknown detector.
    """
    config = detector_config(detector)
    found = find_datasets(data, options.format)
    tables, problems, unusable = _read_splits(data, found, options)
    categories = unite([table.categories for table in tables.values()])
    tables = {split: table.with_categories(categories) for split, table in tables.items()}
    sizes = {split: table.box_sizes_hw(config.input_resize) for split, table in tables.items()}
    findings = [*unusable, *findings_of(problems, tables)]
    findings += check_classes(tables)
    findings += check_objects(tables, sizes, detector, _fitted(config, tables, sizes))
    findings += check_images(found, tables)
    findings += check_copies(tables)
    in_levels = sorted(findings, key=lambda one: (LEVELS.index(one.level), -one.count))
    return Checkup(data, [one.describe() for one in found], tables, detector, sizes, in_levels, problems)


def quick_findings(tables: Mapping[str, Table]) -> list[Finding]:
    """What is serious about the tables of a training run, as far as that is found out at once."""
    findings = [*check_classes(tables), *check_empty(tables), *check_copies(tables, quick=True), *check_turned(tables)]
    return [one for one in findings if one.level != "notice"]


def _read_splits(
    data: str, found: Sequence[Found], options: DataOptions
) -> tuple[dict[str, Table], dict[str, list[Problem]], list[Finding]]:
    tables: dict[str, Table] = {}
    problems: dict[str, list[Problem]] = {}
    unusable = []
    known = splits_of_joined([one.source.splits for one in found])
    keys = {split_key(split) for split in known}
    for split in in_order(known):
        if keys >= {"train", "val"} and split_key(split) == "trainval":
            continue  # train and val together: each image would come twice
        name = "train" if split == ALL and keys.isdisjoint(("train", "trainval")) else split
        try:
            tables[name], faults = read_dataset(data, split, None, options)
            problems[name] = [*faults, *validate_images(tables[name])]
        except UserError as error:
            reason = str(error)
            why, mend = "nothing of it can be used", "mend what the line names"
            unusable.append(Finding("unusable-split", "error", 1, reason, why, mend, [Example(reason)]))
    if not tables:
        raise UserError(unusable[0].what)
    return tables, problems, unusable


def _fitted(config: DetectorConfig, tables: Mapping[str, Table], sizes: Mapping[str, np.ndarray]) -> list[Any]:
    """The anchor shapes of the paper, and those that a recipe made for the data would take; none without anchors."""
    papers = config.anchor_shapes()
    training = sizes[next(iter(tables))]
    if not papers or not len(training):
        return []
    return [papers, config.adjusted(config.anchors_for(training)).anchor_shapes()]
