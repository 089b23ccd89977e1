"""The command line: arguments -> one call of the Python interface each; no logic.

Exit status: 0 done; 1 failed, with one readable line; 2 wrong usage.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

import onestage
from onestage.errors import ToldByAnotherProcessError, UserError
from onestage.options import Device, Maybe, Model, RecipeSettings, Sources
from onestage.terminal import seconds

_NOT_WITH_RAY = {"every": "--every", "start": "--from", "end": "--to", "track": "--track", "write": "--write"}
_ONLY_WITH_RAY = {
    name: f"--{name.replace('_', '-')}"
    for name in ("address", "concurrency", "gpus_per_worker", "column", "source_column", "part_size")
}


@dataclass(frozen=True)
class Common:
    verbose: bool = False
    """Show the traceback of a failure."""


@dataclass(frozen=True)
class Demo(Common):
    """Draw a small data set, train SSD300 on it, evaluate, and write a report: a few minutes on two CPU cores."""

    out: Path = Path("runs/demo")
    """The folder for the data, the run and the images."""
    minutes: float = 4.75
    """Of training."""
    seed: int = 0
    """Of the images drawn, and of the training."""

    def run(self) -> None:
        onestage.demo(out=self.out, minutes=self.minutes, seed=self.seed)


@dataclass(frozen=True)
class Train(Common):
    """Train a detector on a folder of labelled images (VOC, COCO or YOLO; the kind is found out)."""

    data: Annotated[Positional[str | None], arg(metavar="DATA", help_behavior_hint="")] = None
    """The data set's folder; several VOC years as VOC2007+VOC2012."""
    detector: Maybe[str] = None
    """ssd300-vgg16, ssd512-vgg16, retinanet-resnet18 (34, 50, 101), m2det320-vgg16 (512, 704, 800; also -resnet50,
    -resnet101), or ssd300-NAME, ssd512-NAME, retinanet-NAME with any timm backbone. Default: ssd300-vgg16."""
    recipe: Maybe[str] = None
    """A named recipe (ssd300-voc0712, ...). Default: one made for the data."""
    out: Maybe[Path] = None
    """The run folder. Default: runs/DATA-DETECTOR, with a number where that exists."""
    epochs: Maybe[float] = None
    """The run's length, in one of three ways. Default: the recipe's."""
    steps: Maybe[int] = None
    """The run's length, in batches."""
    minutes: Maybe[float] = None
    """The run's length, without evaluations and set-up."""
    backbone_weights: Maybe[str] = None
    """imagenet, none, or a .safetensors or .pth file. Default: imagenet."""
    train_split: Maybe[str] = None
    """Default: trainval, else train."""
    test_split: Maybe[str] = None
    """Default: test, else val."""
    subset: Maybe[float] = None
    """Use only some training images: a fraction below 1, or a count."""
    seed: Maybe[int] = None
    """Of fresh weights, the order of the images and their augmentation. Default: 0."""
    resume: bool = False
    """Go on with the run in --out, by its own recipe; --epochs, --steps or --minutes may change its length."""
    save_minutes: float = 5.0
    """Between two checkpoints; there is one at every evaluation besides."""
    track: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], arg(help_behavior_hint="")] = ()
    """What else gets the numbers of log.csv, and images."""
    replay: Maybe[Path] = None
    """Instead of training, look at a step that was skipped, from the file that the run wrote (no DATA then)."""
    skip_bad_data: bool = False
    """Leave out images and objects that are broken, and say how many, instead of stopping."""
    device: Device = None
    settings: Annotated[RecipeSettings, arg(name="")] = field(default_factory=RecipeSettings)

    def run(self) -> None:
        if self.replay is not None:
            onestage.replay(self.replay, device=self.device)
            return
        if self.data is None:
            raise UserError("train: which data? give a folder: onestage train DATA")
        onestage.train(
            self.data,
            detector=self.detector,
            recipe=self.recipe,
            out=self.out,
            epochs=self.epochs,
            steps=self.steps,
            minutes=self.minutes,
            backbone_weights=self.backbone_weights,
            train_split=self.train_split,
            test_split=self.test_split,
            subset=self.subset,
            seed=self.seed,
            resume=self.resume,
            skip_bad_data=self.skip_bad_data,
            device=self.device,
            save_minutes=self.save_minutes,
            track=self.track,
            settings=vars(self.settings),
        )


@dataclass(frozen=True)
class Evaluate(Common):
    """Measure a model on a labelled split by the VOC and COCO protocols: table, metrics.json, report.html."""

    model: Model = tyro.MISSING
    """A run folder, a model file or an exported file."""
    data: Annotated[Positional[str], arg(metavar="DATA")] = tyro.MISSING
    """The data set's folder; several VOC years as VOC2007+VOC2012."""
    split: Maybe[str] = None
    """Default: test, else val."""
    out: Maybe[Path] = None
    """Default: the folder evaluation/ beside the model."""
    skip_bad_data: bool = False
    """Leave out images and objects that are broken, and say how many, instead of stopping."""
    batch_size: int = 8
    """Images that go through the network together."""
    device: Device = None

    def run(self) -> None:
        onestage.evaluate(
            self.model,
            self.data,
            split=self.split,
            out=self.out,
            skip_bad_data=self.skip_bad_data,
            batch_size=self.batch_size,
            device=self.device,
        )


@dataclass(frozen=True)
class Predict(Common):
    """Detect in images and videos: writes them with boxes drawn, and detections.json."""

    model: Model = tyro.MISSING
    """A run folder, a model file or an exported file."""
    sources: Sources = tyro.MISSING
    """Images, videos, folders, globs, @list.txt, camera:0, addresses (rtsp://, https://), - for standard input."""
    out: Path = Path("predictions")
    """The folder for the results."""
    score_threshold: float = 0.5
    """Detections below it are left out."""
    nms: Maybe[Literal["hard", "soft"]] = None
    """soft lowers the scores of overlapping boxes instead of dropping them (Gaussian soft-NMS). Default: as the
    detector's paper: hard for SSD and RetinaNet, linear soft-NMS for M2Det."""
    class_agnostic: bool = False
    """Let boxes of different classes suppress each other."""
    max_detections: int = 200
    """At most so many an image."""
    every: int = 1
    """Of videos, look at each n-th frame only."""
    start: Annotated[str | None, arg(name="from", help_behavior_hint="")] = None
    """Of videos, begin at this time: seconds, or as 1:23:45.6."""
    end: Annotated[str | None, arg(name="to", help_behavior_hint="")] = None
    """Of videos, end before this time."""
    track: bool = False
    """Of videos, number each object through the frames (ByteTrack)."""
    write: Annotated[tuple[Literal["csv", "coco", "voc"], ...], arg(help_behavior_hint="")] = ()
    """Results also as CSV, in COCO's result format, or as a VOC folder to correct in a labelling tool and train on."""
    batch_size: int = 8
    """Images that go through the network together."""
    device: Device = None
    engine: Literal["local", "ray"] = "local"
    """ray is for collections too large for one machine: images also from Parquet files and object storage (s3://,
    gs://), results as Parquet, workers on all cores and GPUs; the same command again goes on where it stopped."""
    address: Maybe[str] = None
    """Of a Ray cluster, as auto. Default: this machine alone."""
    concurrency: Maybe[int] = None
    """Workers of Ray. Default: one a GPU, or where there is none one a core."""
    gpus_per_worker: Maybe[float] = None
    """Of Ray's workers, as 1 or 0.5. Default: 1 where there are GPUs."""
    column: str = "bytes"
    """Of Parquet files, the column with the images; a dot leads into a struct, as image.bytes."""
    source_column: Maybe[str] = None
    """Of Parquet files, the column with the images' names. Default: FILE#ROW."""
    part_size: Maybe[int] = None
    """Images in a Parquet file of results, which is also what a worker that died does again. Default: 64 to 2000."""

    def run(self) -> None:
        if self.engine == "ray":
            self._refuse(_NOT_WITH_RAY, "not with --engine ray, which takes images and writes Parquet; leave one out")
            self._predict_collection()
            return
        self._refuse(_ONLY_WITH_RAY, "only with --engine ray; add that, or leave it out")
        onestage.predict(
            self.model,
            list(self.sources),
            out=self.out,
            score_threshold=self.score_threshold,
            nms=self.nms,
            class_agnostic=self.class_agnostic,
            max_detections=self.max_detections,
            every=self.every,
            start_s=seconds(self.start or "0"),
            end_s=None if self.end is None else seconds(self.end),
            track=self.track,
            formats=self.write,
            batch_size=self.batch_size,
            device=self.device,
        )

    def _predict_collection(self) -> None:
        onestage.predict_collection(
            self.model,
            self.sources,
            out=self.out,
            address=self.address,
            concurrency=self.concurrency,
            gpus_per_worker=self.gpus_per_worker,
            column=self.column,
            source_column=self.source_column,
            part_size=self.part_size,
            score_threshold=self.score_threshold,
            nms=self.nms,
            class_agnostic=self.class_agnostic,
            max_detections=self.max_detections,
            batch_size=self.batch_size,
            device=self.device,
        )

    def _refuse(self, options: Mapping[str, str], why: str) -> None:
        for option in fields(self):
            if option.name in options and getattr(self, option.name) != option.default:
                raise UserError(f"{options[option.name]}: {why}")


@dataclass(frozen=True)
class Export(Common):
    """Write a model as one file from images of any size to final boxes, and check it against the model."""

    model: Model = tyro.MISSING
    """A run folder or a model file."""
    format: Literal["onnx", "openvino"] = "onnx"
    """onnx is one file that many engines run; openvino is fastest on Intel's and AMD's processors (an xml and a bin)."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Of an OpenVINO file."""
    calibration: Maybe[str] = None
    """For int8: a data set's folder, whose training images show what passes through the network."""
    out: Maybe[Path] = None
    """The file. Default: beside the model, under its name."""
    score_threshold: float = 0.5
    """The file's own; whoever runs it may give another."""
    nms: Maybe[Literal["hard", "soft"]] = None
    """soft is Gaussian soft-NMS. Default: as the detector's paper."""
    class_agnostic: bool = False
    """Let boxes of different classes suppress each other."""
    max_detections: Maybe[int] = None
    """At most so many an image. Default: as the detector's paper."""

    def run(self) -> None:
        onestage.export_model(
            self.model,
            format=self.format,
            precision=self.precision,
            calibration=self.calibration,
            out=self.out,
            score_threshold=self.score_threshold,
            nms=self.nms,
            class_agnostic=self.class_agnostic,
            max_detections=self.max_detections,
        )


@dataclass(frozen=True)
class Serve(Common):
    """Answer HTTP requests with detections (POST /v1/detect), and show a page to try the model in the browser."""

    model: Model = tyro.MISSING
    """A run folder, a model file or an exported file."""
    host: str = "127.0.0.1"
    """The address to listen at. Any but this machine's own wants a token."""
    port: int = 8000
    """0 takes a free one."""
    token: Maybe[str] = None
    """That every client must send. Default: the environment variable ONESTAGE_TOKEN, else none."""
    batch_size: int = 8
    """Images of several requests that go through the network together, at most."""
    device: Device = None

    def run(self) -> None:
        onestage.serve(
            self.model,
            host=self.host,
            port=self.port,
            token=self.token,
            batch_size=self.batch_size,
            device=self.device,
        )


@dataclass(frozen=True)
class Import(Common):
    """Turn another project's checkpoint into a model file, strictly: every entry is used or accounted for."""

    file: Annotated[Positional[Path], arg(metavar="FILE")] = tyro.MISSING
    """The checkpoint: .pth, .pt or .safetensors."""
    detector: str = tyro.MISSING
    """The network that the file holds, as ssd300-vgg16."""
    categories: Path = tyro.MISSING
    """A text file with one class name a line, in the order of the file's labels, without background."""
    out: Path = tyro.MISSING
    """The model file to write (.safetensors)."""
    layout: Maybe[str] = None
    """torchvision, mmdetection-1, mmdetection (2 and 3), ssd.pytorch, lufficc, m2det, seed; of a backbone alone
    vgg16_caffe, vgg16_reducedfc, torchvision, timm. Default: found out from the entry names."""
    anchor_sizes: Maybe[tuple[float, ...]] = None
    """Sizes of the anchors that it was trained with, pixels. Default: the paper's for VOC. SSD300's for COCO are
    21 45 99 153 207 261 315, SSD512's 20.48 51.2 133.12 215.04 296.96 378.88 460.8 542.72."""

    def run(self) -> None:
        onestage.import_checkpoint(
            self.file,
            detector=self.detector,
            categories=self.categories,
            out=self.out,
            layout=self.layout,
            anchor_sizes=self.anchor_sizes,
        )


@dataclass(frozen=True)
class Info(Common):
    """Parameters, GMACs, anchors, input and classes of a model or of a detector's name."""

    model: Annotated[Positional[str], arg(metavar="MODEL")] = tyro.MISSING
    """A run folder, a model file, an exported file, or a detector's name."""
    num_classes: int = 20
    """For a detector's name."""

    def run(self) -> None:
        onestage.info(self.model, num_classes=self.num_classes)


@dataclass(frozen=True)
class Recipes(Common):
    """List the named recipes, with the results to expect and those measured."""

    def run(self) -> None:
        onestage.list_recipes()


Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Serve, subcommand("serve")]
    | Annotated[Import, subcommand("import")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Recipes, subcommand("recipes")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command of `arguments` (default: the process's), and exit."""
    command = tyro.cli(Command, args=arguments, prog="onestage", description=onestage.__doc__)
    sys.exit(_status(command))


def _status(command: Any) -> int:
    try:
        command.run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    except (UserError, OSError) as error:
        if command.verbose:
            traceback.print_exc()
        if not isinstance(error, ToldByAnotherProcessError):
            print(f"onestage: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
