"""onestage: `onestage train DATA --minutes M`, exported as OpenVINO int8 by `onestage export`."""

from __future__ import annotations

import subprocess
import sys
import time

from common import Find, Job, main

import onestage


def train(job: Job) -> float:
    start = time.perf_counter()
    _command(
        "train",
        job.data / "coco",
        *("--detector", job.model, "--minutes", job.minutes, "--seed", job.seed, "--out", job.run / "train"),
        *("--backbone-weights", job.weights or "none"),
    )
    seconds = time.perf_counter() - start
    _command(
        "export",
        job.run / "train",
        *(
            "--format",
            "openvino",
            "--precision",
            "int8",
            "--calibration",
            job.data / "coco",
            "--out",
            job.run / "int8.xml",
        ),
    )
    return seconds


def _command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "onestage", *map(str, words)], check=True)


def load(job: Job) -> Find:
    predictor = onestage.load(job.run / "int8.xml", device="cpu")
    predictor.selection = predictor.papers_selection  # low scores too, for the metrics

    def find(file: str) -> list[tuple[int, float, list[float]]]:
        found = predictor(file)
        return list(zip(found.labels.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist(), strict=True))

    return find


if __name__ == "__main__":
    main(train, load)
