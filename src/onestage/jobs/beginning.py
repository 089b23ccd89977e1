"""What a run begins with: ImageNet weights, nothing, or a trained detector with its classes."""

import os
from dataclasses import replace
from typing import get_args

from onestage.compute.device import choose_compute
from onestage.data.table import Table
from onestage.detectors import Detector, untagged
from onestage.errors import UserError
from onestage.jobs.run_folder import record_of_beginning
from onestage.models.imagenet import HUB_PREFIX, detector_on_hub, load_backbone_weights
from onestage.models.model_file import RunFolder
from onestage.models.start_from import Start, open_start, same_classes, take_layers
from onestage.settings import plain
from onestage.structures import Categories
from onestage.terminal import Display
from onestage.training.old_classes import OldClasses, find_old_objects, load_old_objects, save_old_objects, united
from onestage.training.recipe import Recipe


class Beginning:
    """The weights that a run begins with; what is opened, the main rank alone has.

    Attributes:
        start: the trained detector, once it is open.
        kept_classes: its classes that the data lacks, where they stay.
    """

    def __init__(
        self,
        backbone_weights: str | os.PathLike[str] | None,
        start_from: str | os.PathLike[str] | None,
        old_classes: OldClasses,
    ) -> None:
        """See `train`. Raises a UserError for what does not go together."""
        if start_from is not None and backbone_weights is not None:
            raise UserError("--backbone-weights and --from: both say what the backbone starts with; give one of them")
        if old_classes not in get_args(OldClasses):
            raise UserError(f"--old-classes {old_classes}: expected {', '.join(get_args(OldClasses))}")
        if old_classes != "drop" and start_from is None:
            raise UserError(f"--old-classes {old_classes}: keeps classes of a trained detector; say which by --from")
        self._weights, self._from = os.fspath(backbone_weights or "imagenet"), start_from
        self._weights_named = backbone_weights is not None
        self._how: OldClasses = old_classes
        self._begun: RunFolder | None = None
        self._old_objects: Table | None = None
        self.start: Start | None = None
        self.kept_classes: tuple[str, ...] = ()

    @property
    def pretrained(self) -> bool:
        """True if the backbone does not start fresh."""
        return self._from is not None or self._weights != "none"

    def named_detector(self, detector: str | None) -> str | None:
        """The detector that a run asks for; of one with `hf-hub:` the plain name: the run begins with its weights."""
        if detector is None or HUB_PREFIX not in detector:
            return detector
        if self._weights_named or self._from is not None:
            other = "--backbone-weights" if self._weights_named else "--from"
            raise UserError(f"--detector {detector} and {other}: both say what the backbone starts with; give one")
        name, self._weights = detector_on_hub(detector)
        return name

    def open(self, begun: RunFolder | None, detector: str | None, named: Recipe | None) -> None:
        """Open the trained detector, if there is one. A checkpoint of another project is of the named network.

        `begun`: the folder of a run that goes on, which has all that is needed of it.
        """
        self._begun = begun
        if begun is not None:
            self._check_as_begun(begun)
        elif self._from is not None:
            self.start = open_start(self._from, detector or (named.detector if named else None))

    @property
    def record(self) -> dict[str, str | None]:
        """What the run began with, JSON-able, to be kept in its folder."""
        if self._begun is not None:
            return record_of_beginning(self._begun)
        start = None if self._from is None else os.fspath(self._from)
        return {"from": start, "backbone_weights": self._weights if start is None else None, "old_classes": self._how}

    def _check_as_begun(self, begun: RunFolder) -> None:
        """Raise a UserError if the run that goes on began with something else than is asked for now."""
        if not (before := record_of_beginning(begun)):  # of an earlier version
            return
        asked = {
            "from": None if self._from is None else os.fspath(self._from),
            "backbone_weights": self._weights if self._weights_named else None,
            "old_classes": None if self._how == "drop" else self._how,
        }
        options = {name: f"--{name.replace('_', '-')}" for name in asked}
        began = " ".join(f"{options[name]} {before[name]}" for name in asked if before.get(name))
        for name, value in asked.items():
            if value is not None and not _same(value, before.get(name)):
                mend = f"leave {options[name]} out, or start another run"
                raise UserError(f"{options[name]} {value}: the run in {begun.root} began with {began}; {mend}")
        if before.get("old_classes") == "label" and not begun.old_objects.exists():
            raise UserError(f"{begun.old_objects}: missing; the run needs it to go on with its old classes")

    def recipe_for(self, named: Recipe, detector: str | None, display: Display) -> Recipe:
        """A named recipe with the network's settings of the trained detector, where it is for the same network."""
        detector = detector or named.detector
        if self.start is None or untagged(self.start.detector.name) != untagged(detector):
            return named
        named = named.with_settings({"detector": detector})
        settings, trained = plain(named.network), plain(self.start.detector.config)
        if replaced := [
            f"{name} {trained[name]}, not {settings[name]}" for name in trained if trained[name] != settings[name]
        ]:
            display.say(f"recipe: settings of the network are those of the trained detector: {'; '.join(replaced)}")
        return replace(named, network=self.start.detector.config)

    def with_old_classes(self, tables: dict[str, Table], device: str | None, display: Display) -> dict[str, Table]:
        """The tables of a run with the classes that it keeps, and in its training images what is seen of them."""
        if self._begun is not None and self._begun.old_objects.exists():
            return self._with_objects(tables, load_old_objects(self._begun.old_objects, tables["train"]))
        if self.start is None or self._how == "drop":
            return tables
        train, old = tables["train"], self.start.categories
        if old is None:
            raise UserError(f"--old-classes {self._how}: {self._from} does not name its classes; import it first")
        categories = united(train.categories, old, same_classes(train.categories.names, old.names))
        compute = choose_compute(device, "auto")
        compute.place(self.start.detector)
        with display.stage("looking for old classes", len(train)) as stage:
            found = find_old_objects(train, categories, self.start.detector, old, compute, stage.advance)
        self.start.detector.to("cpu")
        kept, sure = categories.names[len(train.categories) :], int((~found.ignored).sum())
        display.say(
            f"old classes kept: {', '.join(kept) or 'none, the data has all of them'}; in the training images "
            f"{sure:,} objects of them are labelled by the trained detector, {len(found.labels) - sure:,} ignored"
        )
        self._old_objects = found
        return self._with_objects(tables, found)

    def _with_objects(self, tables: dict[str, Table], old: Table) -> dict[str, Table]:
        """The tables with the classes of `old`, which the training images get the objects of."""
        self.kept_classes = old.categories.names[len(tables["train"].categories) :]
        tables = {name: table.with_categories(old.categories) for name, table in tables.items()}
        return tables | {"train": tables["train"].with_objects_of(old)}

    def put_into(self, network: Detector, categories: Categories) -> tuple[str, ...]:
        """Put the weights into a network, and return what to print of it."""
        if self.start is None:
            return tuple(load_backbone_weights(network, self._weights).lines())
        return take_layers(network, categories, self.start).lines

    def save(self, folder: RunFolder) -> None:
        """Write into the run folder what a resumed run needs of the trained detector."""
        if self._old_objects is not None:
            save_old_objects(folder.old_objects, self._old_objects)


def _same(value: str, before: str | None) -> bool:
    """True for the same word, or for paths that lead to the same place."""
    return before is not None and (value == before or os.path.realpath(value) == os.path.realpath(before))
