"""Commands that use models, turn them into other files and publish them: predict, export, serve, import, push, info."""

from __future__ import annotations

import signal
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

import onestage
from onestage.command import Command
from onestage.errors import UserError
from onestage.options import Device, Maybe, Model, Postprocessing, ResultFormats, Sources
from onestage.terminal import seconds


@dataclass(frozen=True)
class Predict(Command):
    """Detect in images and videos: writes them with boxes drawn, and detections.json."""

    model: Model = tyro.MISSING
    """Run folder, model file, exported file, or a hub's model: hf://USER/NAME[@REVISION]."""
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
    write: ResultFormats = ()
    rank: Maybe[Literal["uncertain"]] = None
    """Write only the images and frames most worth labelling, unlike one another, and ranked.csv: which, and why."""
    rank_images: int = 100
    """Number of images and frames to choose with --rank."""
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
        if self.engine == "ray":
            self._refuse(_ONLY_LOCAL, "not with --engine ray, which takes images and writes Parquet; leave one out")
            of_ray = {name: getattr(self, name) for name in _ONLY_WITH_RAY}
            self.call(onestage.predict_collection, without=("engine", *_ONLY_LOCAL, *_ONLY_WITH_RAY), **of_ray)
            return
        self._refuse(_ONLY_WITH_RAY, "only with --engine ray; add that, or leave it out")
        self.call(
            onestage.predict,
            without=("engine", "start", "end", "write", *_ONLY_WITH_RAY),
            start_s=seconds(self.start or "0"),
            end_s=None if self.end is None else seconds(self.end),
            formats=self.write,
        )

    def _refuse(self, names: Collection[str], why: str) -> None:
        spelled = {"start": "from", "end": "to"}
        for option in fields(self):
            if option.name in names and getattr(self, option.name) != option.default:
                raise UserError(f"--{spelled.get(option.name, option.name).replace('_', '-')}: {why}")


_ONLY_LOCAL = ("every", "start", "end", "track", "write", "rank", "rank_images", "overwrite")
_ONLY_WITH_RAY = ("address", "concurrency", "gpus_per_worker", "column", "source_column", "part_size")


@dataclass(frozen=True)
class Export(Command):
    """Write a model as one file from images of any size to final boxes, and check it against the model."""

    model: Model = tyro.MISSING
    """Run folder, model file, or a hub's model: hf://USER/NAME[@REVISION]."""
    format: str = "onnx"
    """onnx is one file that many engines run; openvino (an xml and a bin) is fastest on Intel's and AMD's CPUs."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Number format of an OpenVINO file."""
    calibration: Maybe[str] = None
    """Folder of the data set whose training images calibrate an int8 export."""
    search: bool = False
    """Look for layers to keep in float32 where int8 costs AP: many minutes."""
    out: Maybe[Path] = None
    """File to write. Default: beside the model, under its name; NAME/model.onnx for a hub's."""
    postprocessing: Annotated[Postprocessing, arg(name="")] = field(default_factory=Postprocessing)

    def run(self) -> None:
        self.call(onestage.export_model)


@dataclass(frozen=True)
class Serve(Command):
    """Answer HTTP requests with detections (POST /v1/detect), and show a page to try the model in the browser."""

    model: Model = tyro.MISSING
    """Run folder, model file, exported file, or a hub's model: hf://USER/NAME[@REVISION]."""
    compare_with: Maybe[str] = None
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
    """torchvision, mmdetection-1, mmdetection (2 and 3), ssd.pytorch, lufficc, m2det, seed. Default: recognised by the
    entry names."""
    anchor_sizes: Maybe[tuple[float, ...]] = None
    """Sizes of the anchors that it was trained with, pixels. Default: the paper's for VOC. SSD300's for COCO are
    21 45 99 153 207 261 315, SSD512's 20.48 51.2 133.12 215.04 296.96 378.88 460.8 542.72."""

    def run(self) -> None:
        self.call(onestage.import_checkpoint)


@dataclass(frozen=True)
class Push(Command):
    """Publish a model on Hugging Face's hub, or another with its protocol (HF_ENDPOINT): weights, card, report.

    The model card says what it finds, what it was trained on, how good it is, and shows images of the evaluation. A
    repository that is made is private. To write there, log in: hf auth login, or the environment variable HF_TOKEN."""

    model: Annotated[Positional[str], arg(metavar="RUN")] = tyro.MISSING
    """Run folder or model file."""
    to: Annotated[Positional[str], arg(metavar="hf://USER/NAME")] = tyro.MISSING
    """Repository of the hub."""
    licence: Annotated[str | None, arg(aliases=("--license",), help_behavior_hint="")] = None
    """Licence that you give the weights, as the hub spells it: apache-2.0, cc-by-4.0, other, ... Default: none, so
    that nobody else may use them."""
    data_name: Maybe[str] = None
    """Name of the training data in the card. Default: that of its folder."""
    public: bool = False
    """Let everybody see the repository, if it is not there yet."""
    without_images: bool = False
    """Leave out the report and its images, which show your data."""
    keep_card: bool = False
    """Leave the README.md that is there as it is."""
    out: Maybe[Path] = None
    """Write the files into this folder to look at them, and push nothing."""

    def run(self) -> None:
        self.call(onestage.push)


@dataclass(frozen=True)
class Info(Command):
    """Parameters, GMACs, anchors, input and classes of a model or a detector's name; what is in a data set."""

    model: Annotated[Positional[str], arg(metavar="MODEL", help_behavior_hint="")] = ""
    """Run folder, model file, exported file, hf://USER/NAME[@REVISION], a detector's name, or labelled images."""
    num_classes: int = 20
    """Number of classes, for a detector's name."""
    environment: bool = False
    """In place of a MODEL: versions, processor, memory and GPU, to paste into a report."""

    def run(self) -> None:
        self.call(onestage.info)
