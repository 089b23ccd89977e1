"""Commands that make models and measure them: demo, train, evaluate, compare."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

import onestage
from onestage.command import Command
from onestage.errors import UserError
from onestage.options import (
    Data,
    DataOptions,
    Device,
    Maybe,
    Model,
    PostprocessingOfModel,
    given_settings,
    recipe_options,
)


@dataclass(frozen=True)
class Demo(Command):
    """Draw a small data set, train SSD300 on it, evaluate, and write a report: a few minutes on two CPU cores."""

    out: Path = Path("runs/demo")
    """Folder for the data, the run and the images."""
    minutes: float = 5.25
    """Minutes of training, with its evaluations."""
    seed: int = 0
    """Seed of the images that are drawn, and of the training."""

    def run(self) -> None:
        self.call(onestage.demo)


@dataclass(frozen=True)
class Train(Command):
    """Train a detector on a folder of labelled images, as labelling tools write it (the format is found out).

    Options after --device are settings of the recipe; one that is left out stays as the recipe has it."""

    data: Annotated[Positional[str | None], arg(metavar="DATA", help_behavior_hint="")] = None
    """Folder of labelled images, or its annotation file; several VOC years as VOC2007+VOC2012."""
    detector: Maybe[str] = None
    """gfl-NAME, ssd300-NAME, ssd512-NAME, retinanet-NAME or m2det320-NAME with any timm backbone as NAME, also
    hf-hub:USER/NAME; ssd300-vgg16 and other papers' (docs/detectors.md). Default: that of --from or --recipe, else
    gfl-tf_efficientnet_lite0."""
    recipe: Maybe[str] = None
    """Name of a recipe (ssd300-voc0712, ...) or a TOML file, as a run's recipe.toml. Default: one made for the data."""
    out: Maybe[Path] = None
    """Run folder. Default: runs/DATA-DETECTOR, with a number where that exists."""
    epochs: Maybe[float] = None
    """Length of the run in passes over the training images. Default: the recipe's length."""
    steps: Maybe[int] = None
    """Length of the run in batches."""
    minutes: Maybe[float] = None
    """Length of the run in minutes, with set-up, evaluations and the report."""
    backbone_weights: Maybe[str] = None
    """imagenet, none, hf-hub:USER/NAME (timm's weights on a hub), or a .safetensors or .pth file. Default: imagenet."""
    start_from: Annotated[str | None, arg(name="from", metavar="MODEL", help_behavior_hint="")] = None
    """Trained detector to start from: a run folder, a model file, hf://USER/NAME[@REVISION], torchvision:ssd300_vgg16
    (or retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2), or another project's checkpoint with its --detector."""
    old_classes: Literal["drop", "label"] = "drop"
    """Classes of --from that the data lacks: drop them, or label what it sees of them in the training images."""
    train_split: Maybe[str] = None
    """Split to train on. Default: train, or what is not held out of it."""
    val_split: Maybe[str] = None
    """Split that chooses the best weights. Default: val, else images that are held out of the training split."""
    test_split: Maybe[str] = None
    """Split that gives the final figures. Default: test, else the one that chooses."""
    subset: Maybe[int | float] = None
    """Number of training images to use, as 100, or a part of them, as 0.1. Default: all."""
    seed: Maybe[int] = None
    """Seed of fresh weights, the order of the images and their augmentation. Default: 0."""
    resume: bool = False
    """Go on with the run in --out, by its own recipe; --epochs, --steps or --minutes may change its length."""
    save_minutes: float = 5.0
    """Minutes between two checkpoints; there is one at every evaluation besides."""
    log_to: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow"], ...], arg(aliases=("--track",), help_behavior_hint="")
    ] = ()
    """Experiment logs that get the numbers of log.csv too, and images. (--track is the old name.)"""
    replay: Maybe[Path] = None
    """Instead of training, repeat a step that was skipped, from the file that the run wrote (no DATA then)."""
    device: Device = None
    data_options: Annotated[DataOptions, arg(name="")] = field(default_factory=DataOptions)
    if TYPE_CHECKING:
        settings: Any = None  # added by `train_with_settings`

    def run(self) -> None:
        if self.replay is not None:
            onestage.replay(self.replay, device=self.device)
            return
        if self.data is None:
            raise UserError("train: which data? give a folder: onestage train DATA")
        settings = given_settings(self.settings)
        self.call(onestage.train, without=("replay", "settings"), settings=settings)


@dataclass(frozen=True)
class Evaluate(Command):
    """Measure a model on a labelled split by the VOC and COCO protocols: table, metrics.json, report.html."""

    model: Model = tyro.MISSING
    """Run folder, model file, exported file, or a hub's model: hf://USER/NAME[@REVISION]."""
    data: Data = tyro.MISSING
    split: Maybe[str] = None
    """Split to evaluate on. Default: test, else val, else the images that training holds out."""
    out: Maybe[Path] = None
    """Folder for the results. Default: evaluation/ beside the model, NAME/evaluation for a hub's."""
    wanted_precision: Maybe[float] = None
    """Find the score threshold of each class that gives this precision, and keep them in the model file."""
    wanted_recall: Maybe[float] = None
    """The same by recall. Default of both: the best F1, kept where the file has no thresholds yet."""
    batch_size: int = 8
    """Images that go through the network together."""
    device: Device = None
    data_options: Annotated[DataOptions, arg(name="")] = field(default_factory=DataOptions)
    postprocessing: Annotated[PostprocessingOfModel, arg(name="")] = field(default_factory=PostprocessingOfModel)

    def run(self) -> None:
        self.call(onestage.evaluate)


@dataclass(frozen=True)
class Compare(Command):
    """Say whether a run is better than another, in what, and on which images: table, compare.json, compare.html."""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN RUN ...", help_behavior_hint="")] = ()
    """Run folders or folders of evaluations; the first is what the others are held against."""
    out: Maybe[Path] = None
    """Folder for the results. Default: compare/A-B, by the names of the runs."""

    def run(self) -> None:
        self.call(onestage.compare)


def train_with_settings() -> type[Train]:
    """`Train` with the recipe's settings as options, which only that command waits for: they need torch."""
    settings = recipe_options()
    options: list[Any] = [("settings", Annotated[settings, arg(name="")], settings())]
    return make_dataclass("Train", options, bases=(Train,), frozen=True, namespace={"__doc__": Train.__doc__})
