"""The command line: arguments -> one call of the Python interface each; no logic.

Exit status: 0 done; 1 failed, with one readable line; 2 wrong usage.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import tyro
from tyro.conf import DisallowNone, Positional, arg, subcommand

import onestage
from onestage.command import Command
from onestage.errors import UserError
from onestage.options import (
    Data,
    DataOptions,
    Device,
    Maybe,
    Model,
    Postprocessing,
    PostprocessingOfModel,
    Sources,
    given_settings,
    recipe_options,
)
from onestage.terminal import print_error, seconds, spell_out_what_streams_lack


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
    """gfl-NAME, ssd300-NAME, ssd512-NAME, retinanet-NAME or m2det320-NAME with any timm backbone as NAME, ssd300-vgg16
    and other papers' (docs/detectors.md). Default: that of --from or --recipe, else gfl-tf_efficientnet_lite0."""
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
    """imagenet, none, or a .safetensors or .pth file. Default: imagenet."""
    start_from: Annotated[str | None, arg(name="from", metavar="MODEL", help_behavior_hint="")] = None
    """Trained detector to start from: a run folder, a model file, torchvision:ssd300_vgg16 (or
    retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2), or another project's checkpoint with its --detector."""
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
        settings: Any = None  # added by `_train_with_settings`

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
    """Run folder, model file or exported file."""
    data: Data = tyro.MISSING
    split: Maybe[str] = None
    """Split to evaluate on. Default: test, else val, else the images that training holds out."""
    out: Maybe[Path] = None
    """Folder for the results. Default: evaluation/ beside the model."""
    batch_size: int = 8
    """Images that go through the network together."""
    device: Device = None
    data_options: Annotated[DataOptions, arg(name="")] = field(default_factory=DataOptions)
    postprocessing: Annotated[PostprocessingOfModel, arg(name="")] = field(default_factory=PostprocessingOfModel)

    def run(self) -> None:
        self.call(onestage.evaluate)


@dataclass(frozen=True)
class Predict(Command):
    """Detect in images and videos: writes them with boxes drawn, and detections.json."""

    model: Model = tyro.MISSING
    """Run folder, model file or exported file."""
    sources: Sources = tyro.MISSING
    """Images, videos, folders, globs, @list.txt, camera:0, addresses (rtsp://, https://), - for standard input."""
    out: Path = Path("predictions")
    """Folder for the results."""
    postprocessing: Annotated[Postprocessing, arg(name="")] = field(default_factory=Postprocessing)
    every: int = 1
    """Look at each n-th frame of a video only."""
    start: Annotated[str | None, arg(name="from", help_behavior_hint="")] = None
    """Time in a video to begin at: seconds, or as 1:23:45.6."""
    end: Annotated[str | None, arg(name="to", help_behavior_hint="")] = None
    """Time in a video to end before."""
    track: bool = False
    """Number each object of a video through the frames (ByteTrack)."""
    write: Annotated[tuple[Literal["csv", "coco", "voc"], ...], arg(help_behavior_hint="")] = ()
    """Results also as CSV, in COCO's result format, or as a VOC folder to correct in a labelling tool and train on."""
    batch_size: int = 8
    """Images that go through the network together."""
    device: Device = None
    overwrite: bool = False
    """Replace files in --out, too, that no earlier predict wrote or that were changed since."""
    engine: Literal["local", "ray"] = "local"
    """ray is for collections too large for one machine: images also from Parquet files and object storage (s3://,
    gs://), results as Parquet, workers on all cores and GPUs; the same command again goes on where it stopped."""
    address: Maybe[str] = None
    """Address of a Ray cluster, as auto. Default: this machine alone."""
    concurrency: Maybe[int] = None
    """Number of Ray workers. Default: one a GPU, or where there is none one a core."""
    gpus_per_worker: Maybe[float] = None
    """GPUs of each Ray worker, as 1 or 0.5. Default: 1 where there are GPUs."""
    column: str = "bytes"
    """Column of Parquet files that holds the images; a dot leads into a struct, as image.bytes."""
    source_column: Maybe[str] = None
    """Column of Parquet files that holds the images' names. Default: FILE#ROW."""
    part_size: Maybe[int] = None
    """Images in a Parquet file of results, which is also what a worker that died does again. Default: 64 to 2000."""

    def run(self) -> None:
        without = ("engine", *_ONLY_LOCAL, *_ONLY_WITH_RAY)
        if self.engine == "ray":
            self._refuse(_ONLY_LOCAL, "not with --engine ray, which takes images and writes Parquet; leave one out")
            of_ray = {name: getattr(self, name) for name in _ONLY_WITH_RAY}
            self.call(onestage.predict_collection, without=without, **of_ray)
            return
        self._refuse(_ONLY_WITH_RAY, "only with --engine ray; add that, or leave it out")
        self.call(
            onestage.predict,
            without=without,
            every=self.every,
            start_s=seconds(self.start or "0"),
            end_s=None if self.end is None else seconds(self.end),
            track=self.track,
            formats=self.write,
            overwrite=self.overwrite,
        )

    def _refuse(self, names: Collection[str], why: str) -> None:
        spelled = {"start": "from", "end": "to"}
        for option in fields(self):
            if option.name in names and getattr(self, option.name) != option.default:
                raise UserError(f"--{spelled.get(option.name, option.name).replace('_', '-')}: {why}")


_ONLY_LOCAL = ("every", "start", "end", "track", "write", "overwrite")
_ONLY_WITH_RAY = ("address", "concurrency", "gpus_per_worker", "column", "source_column", "part_size")


@dataclass(frozen=True)
class Export(Command):
    """Write a model as one file from images of any size to final boxes, and check it against the model."""

    model: Model = tyro.MISSING
    """Run folder or model file."""
    format: str = "onnx"
    """onnx is one file that many engines run; openvino (an xml and a bin) is fastest on Intel's and AMD's CPUs."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Number format of an OpenVINO file."""
    calibration: Maybe[str] = None
    """Folder of the data set whose training images calibrate an int8 export."""
    search: bool = False
    """Look for layers to keep in float32 where int8 costs AP: many minutes."""
    out: Maybe[Path] = None
    """File to write. Default: beside the model, under its name."""
    postprocessing: Annotated[Postprocessing, arg(name="")] = field(default_factory=Postprocessing)

    def run(self) -> None:
        self.call(onestage.export_model)


@dataclass(frozen=True)
class Serve(Command):
    """Answer HTTP requests with detections (POST /v1/detect), and show a page to try the model in the browser."""

    model: Model = tyro.MISSING
    """Run folder, model file or exported file."""
    compare_with: Maybe[Path] = None
    """Another model, which the page shows beside it on the same images."""
    host: str = "127.0.0.1"
    """Address to listen at. Any but this machine's own wants a token."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    token: Maybe[str] = None
    """Token that every client must send. Default: the environment variable ONESTAGE_TOKEN, else none."""
    allowed_hosts: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Names by which clients call the server, * any. Default: at a loopback address this machine's own, else any."""
    batch_size: int = 8
    """Most images of several requests that go through the network together."""
    device: Device = None
    postprocessing: Annotated[Postprocessing, arg(name="")] = field(default_factory=Postprocessing)

    def run(self) -> None:
        self.call(onestage.serve)
        for number in (signal.SIGINT, signal.SIGTERM):  # the interpreter takes a moment to end: no traceback there
            signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True)
class Import(Command):
    """Turn another project's checkpoint into a model file, strictly: every entry is used or accounted for."""

    file: Annotated[Positional[Path], arg(metavar="FILE")] = tyro.MISSING
    """Checkpoint: .pth, .pt or .safetensors."""
    detector: str = tyro.MISSING
    """Network that the file holds, as ssd300-vgg16."""
    categories: Path = tyro.MISSING
    """Text file with one class name a line, in the order of the file's labels, without background."""
    out: Path = tyro.MISSING
    """Model file to write (.safetensors)."""
    layout: Maybe[str] = None
    """torchvision, mmdetection-1, mmdetection (2 and 3), ssd.pytorch, lufficc, m2det, seed; of a backbone alone
    vgg16_caffe, vgg16_reducedfc, torchvision, timm. Default: recognised by the entry names."""
    anchor_sizes: Maybe[tuple[float, ...]] = None
    """Sizes of the anchors that it was trained with, pixels. Default: the paper's for VOC. SSD300's for COCO are
    21 45 99 153 207 261 315, SSD512's 20.48 51.2 133.12 215.04 296.96 378.88 460.8 542.72."""

    def run(self) -> None:
        self.call(onestage.import_checkpoint)


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
class Doctor(Command):
    """Look through a data set before training: what is in it, and what is wrong, with a page to look at."""

    data: Data = tyro.MISSING
    detector: Maybe[str] = None
    """Detector at whose input objects are measured. Default: that of --model, else train's."""
    model: Maybe[Path] = None
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
class Info(Command):
    """Parameters, GMACs, anchors, input and classes of a model or a detector's name; what is in a data set."""

    model: Annotated[Positional[str], arg(metavar="MODEL")] = tyro.MISSING
    """Run folder, model file, exported file, a detector's name, or a folder of labelled images."""
    num_classes: int = 20
    """Number of classes, for a detector's name."""

    def run(self) -> None:
        self.call(onestage.info)


@dataclass(frozen=True)
class Recipes(Command):
    """List the named recipes, with the results to expect and those measured."""

    def run(self) -> None:
        onestage.list_recipes()


_WHAT_IT_IS = "Train object detectors (SSD, RetinaNet, M2Det, GFL) on your own images, measure them, and use them."
COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "export": Export,
    "serve": Serve,
    "doctor": Doctor,
    "convert": Convert,
    "import": Import,
    "info": Info,
    "recipes": Recipes,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of `arguments` (default: the process's), and exit."""
    spell_out_what_streams_lack()
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = _run(words)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status = 1
    except BrokenPipeError:  # whoever reads what is printed has enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the interpreter flushes what is left
        status = 1
    sys.exit(status)


def _run(words: list[str]) -> int:
    """The exit status of the command that the words of a command line ask for."""
    commands = {**COMMANDS, "train": _train_with_settings()} if words[:1] == ["train"] else COMMANDS
    union: Any = Union[tuple(Annotated[command, subcommand(name)] for name, command in commands.items())]  # noqa: UP007
    # Without DisallowNone, help texts would offer a None, too, that nobody needs to type.
    try:
        command = tyro.cli(union, args=words, prog="onestage", description=_WHAT_IT_IS, config=(DisallowNone,))
    except UserError as error:  # an option's value is out of its range
        print_error(error, with_traceback=False)
        return 2
    return command.status()


def _train_with_settings() -> type[Train]:
    """`Train` with the recipe's settings as options, which only that command waits for: they need torch."""
    settings = recipe_options()
    options: list[Any] = [("settings", Annotated[settings, arg(name="")], settings())]
    return make_dataclass("Train", options, bases=(Train,), frozen=True, namespace={"__doc__": Train.__doc__})


if __name__ == "__main__":
    main()
