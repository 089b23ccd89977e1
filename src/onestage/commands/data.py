"""Commands about data sets, and the list of recipes: doctor, convert, recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

import onestage
from onestage.command import Command
from onestage.options import Data, DataOptions, Device, Maybe


@dataclass(frozen=True)
class Doctor(Command):
    """Look through a data set before training: what is in it, and what is wrong, with a page to look at."""

    data: Data = tyro.MISSING
    detector: Maybe[str] = None
    """Detector at whose input objects are measured. Default: that of --model, else train's."""
    model: Maybe[str] = None
    """Trained model; its detections are held against the labels, to find wrong ones."""
    out: Maybe[Path] = None
    """Folder for report.html. Default: doctor/DATA."""
    json_file: Annotated[Path | None, arg(name="json", help_behavior_hint="")] = None
    """File for all findings as JSON."""
    strict: bool = False
    """End with status 1 where the data has errors."""
    fix: Maybe[Path] = None
    """New folder for a copy without what is wrong, with a list of all changes."""
    device: Device = None
    data_options: Annotated[DataOptions, arg(name="")] = field(default_factory=DataOptions)

    def run(self) -> None:
        self.call(onestage.doctor)


@dataclass(frozen=True)
class Convert(Command):
    """Write a data set of any format that is read as VOC, COCO or YOLO, boxes exact, images linked."""

    data: Data = tyro.MISSING
    to: Literal["voc", "coco", "yolo"] = tyro.MISSING
    """Format to write."""
    out: Path = tyro.MISSING
    """Folder to write, new or empty."""
    split: Maybe[str] = None
    """Parts of new splits train, val and test, as 0.8,0.1,0.1. Default: the splits of the data."""
    rename: Annotated[tuple[str, ...], arg(metavar="OLD=NEW ...")] = ()
    """Other names of classes; classes that get the same name become one."""
    copy: bool = False
    """Copy the images, instead of giving the same files a second name."""
    data_options: Annotated[DataOptions, arg(name="")] = field(default_factory=DataOptions)

    def run(self) -> None:
        self.call(onestage.convert)


@dataclass(frozen=True)
class Recipes(Command):
    """List the named recipes, with the results to expect and those measured."""

    def run(self) -> None:
        onestage.list_recipes()
