"""The folder in which a reader of a page stands: the data, images and models that its commands name, all small."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from films import write_film
from folders import write_image
from small_model import write_small_model

import onestage
from onestage.data.generated import write_generated_voc
from onestage.detectors import ON_TIMM

TINY = "test_efficientnet"
ONE_STEP = {"batch_size": 2, "workers": 0, "evaluations": 1}
CLASSES = ("car", "van", "lorry")  # three, as those of other tests' models, whose traced graphs are used again
CLASS_OF = {"ball": "car", "buoy": "car", "leaf": "van", "star": "van", "wall": "lorry", "ladder": "lorry"}  # drawn
DATA = ("MY-DATA", "MY-IMAGES", "DATA", "OTHER-DATA", "my-images", "photos")
RUNS = ("MODEL", "RUN", r"runs/[\w-]+")
FOLDERS_OF_IMAGES = ("street", "new", "images", "IMAGES", "UNLABELLED")
IMAGES = ("street.jpg", "image.jpg", "new.jpg", "yard.png", "new/a.jpg")
FILMS = ("film.mp4",)


@functools.cache
def templates() -> Path:
    """Drawn data with a class `car`, and a run on it whose model finds a lot; made once a process."""
    root = Path(tempfile.mkdtemp(prefix="onestage-docs-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    write_generated_voc(root / "data", seed=1, train=6, test=2, size=160)
    splits = root / "data/ImageSets/Main"
    *train, first, second = (splits / "trainval.txt").read_text().split()
    (splits / "trainval.txt").unlink()
    for split, stems in (("train", train), ("val", [first, second])):
        (splits / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    for file in (root / "data/Annotations").iterdir():
        file.write_text(re.sub(r"<name>(\w+)<", lambda name: f"<name>{CLASS_OF[name[1]]}<", file.read_text()))
    (root / "data/classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    run = train_a_step(root / "data", out=root / "run").folder
    write_small_model(run / "model.safetensors", names=CLASSES)
    return root


def tiny(detector: str) -> str:
    """A detector of the same family on the smallest backbone."""
    name = detector.partition("-")[0]
    return f"{name if name in ON_TIMM else 'm2det320'}-{TINY}"


def train_a_step(data: str | os.PathLike[str], **asked: Any) -> Any:
    """`onestage.train` with all that was asked for, but a tiny network, and for one step."""
    for length in ("epochs", "steps", "minutes"):
        asked.pop(length, None)
    if str(asked.get("start_from")).startswith("torchvision:"):  # is downloaded; test_docs_commands.py starts from one
        asked["start_from"] = templates() / "run"
    if asked.get("start_from") is None and not asked.get("resume"):
        asked |= {"detector": tiny(asked.get("detector") or "ssd300"), "backbone_weights": "none"}
    elif asked.get("detector"):
        asked["detector"] = tiny(asked["detector"])
    if not asked.get("resume"):
        asked["settings"] = {**(asked.get("settings") or {}), **ONE_STEP}
        if asked.get("out") is not None:  # another command of the page wrote there
            shutil.rmtree(asked["out"], ignore_errors=True)
    return REAL["train"](data, **asked, steps=1)


def demo_of_a_few_images(**asked: Any) -> Any:
    with mock.patch("onestage.jobs.demo.DEMO_DETECTOR", f"ssd300-{TINY}"):
        return REAL["demo"](**{**asked, "minutes": 0.01, "train_images": 8, "test_images": 4})


def application(model: str | os.PathLike[str], *, compare_with: Any = None, **asked: Any) -> None:
    """What `onestage serve` does before it listens: tests/serving let it answer."""
    from onestage.serving.app import create_app

    other = None if compare_with is None else onestage.load(compare_with)
    app = create_app(onestage.load(model), second=other, token=asked.get("token"))
    assert app.routes


def files_of_a_push(model: str | os.PathLike[str], to: str, **asked: Any) -> Any:
    return REAL["push"](model, to, **{**asked, "out": Path("pushed")})


SHORT: dict[str, Callable[..., Any]] = {
    "train": train_a_step,
    "demo": demo_of_a_few_images,
    "serve": application,
    "push": files_of_a_push,
}
REAL: dict[str, Callable[..., Any]] = {name: getattr(onestage, name) for name in SHORT}


def stand_in(root: Path, text: str, patch: pytest.MonkeyPatch) -> None:
    """Go to a folder with everything that a page's text names, and make long functions short."""
    patch.chdir(root)
    for name, short in SHORT.items():
        patch.setitem(vars(onestage), name, short)
    words = set(re.findall(r"[\w./-]+", text))
    for word in sorted(words):
        path = root / word.rstrip("/.")
        if path.exists():
            continue
        if path.name in DATA:
            shutil.copytree(templates() / "data", path)
        elif path.name == "TEN":  # without splits
            shutil.copytree(templates() / "data", path, ignore=shutil.ignore_patterns("ImageSets"))
        elif any(re.fullmatch(pattern, word) for pattern in RUNS):
            shutil.copytree(templates() / "run", path)
        elif word.rstrip("/") in FOLDERS_OF_IMAGES:
            for name in ("a.jpg", "b.jpg"):
                write_image(path / name, (120, 160), seed=len(name))
        elif word in IMAGES:
            write_image(path, (120, 160))
        elif word in FILMS:
            write_film(path, 26, rate=Fraction(1, 5))  # two minutes
        elif word in ("model.onnx", "detector.onnx"):
            onestage.export_model(templates() / "run", out=path)
