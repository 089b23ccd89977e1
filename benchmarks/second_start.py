"""Seconds to read and check a data set for the first and for the second time, in fresh processes.

The images are copies of a few drawn JPEG files, so that the disk is not what is measured; the labels are YOLO's, whose
boxes need the size of every image. The time to import the package is left out.

    python benchmarks/second_start.py [--images 50000] [--json second_start.json]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from side_by_side import Result, show, write_results

from onestage.data.generated import draw_image

DRAWN = 50
GOAL_S = 5.0
MEASURE = """
import sys, time
from onestage.data import choose_splits
from onestage.jobs.dataset import Request, open_for_training
from onestage.terminal import quiet
began = time.perf_counter()
open_for_training(sys.argv[1], Request(), True, display=quiet())
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    images: int = 50_000
    json: Path | None = None


def write_set(root: Path, count: int) -> None:
    """A YOLO folder of `count` images in train and a tenth as many in val."""
    drawn = []
    for index in range(DRAWN):
        image = draw_image(np.random.default_rng((0, index)), 300).image
        drawn.append(cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes())
    for split, images in (("train", count - count // 10), ("val", count // 10)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for number in range(images):
            (root / "images" / split / f"{number:06}.jpg").write_bytes(drawn[number % DRAWN])
            (root / "labels" / split / f"{number:06}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [thing]\n")


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_set(data, options.images)
        environment = {**os.environ, "ONESTAGE_CACHE": str(Path(folder) / "cache")}
        command = [sys.executable, "-c", MEASURE, str(data)]
        first, second = (
            float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        )
    met = "met" if second <= GOAL_S else "not met"
    result = Result(
        name="Reading and checking a data set",
        command="python benchmarks/second_start.py",
        columns=("start", "s", "images/s"),
        rows=(
            ("first", f"{first:.1f}", f"{options.images / first:,.0f}"),
            ("second", f"{second:.1f}", f"{options.images / second:,.0f}"),
        ),
        goals=(f"the second start under {GOAL_S:.0f} s; measured {second:.1f}: {met}",),
        notes=(f"{options.images:,} JPEG files of about 300x300, YOLO labels.",),
    )
    show(result)
    write_results(options.json, [result])


if __name__ == "__main__":
    main(tyro.cli(Options))
