"""onestage: `onestage train DATA --minutes M`, exported as OpenVINO int8 by `onestage export`."""

from __future__ import annotations

import subprocess
import sys
import time

from job import Find, Found, Job, main

import onestage


def train(job: Job) -> float:
    start = time.perf_counter()
    how = ("--detector", job.model, "--minutes", job.minutes, "--seed", job.seed)
    _command("train", job.data / "coco", *how, "--backbone-weights", job.weights or "none", "--out", job.run / "train")
    seconds = time.perf_counter() - start
    kind = ("--format", "openvino", "--precision", "int8", "--calibration", job.data / "coco")
    _command("export", job.run / "train", *kind, "--out", job.run / "int8.xml")
    return seconds


def _command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "onestage", *map(str, words)], check=True)


def load(job: Job) -> Find:
    predictor = onestage.load(job.run / "int8.xml", device="cpu")
    predictor.selection = predictor.papers_selection  # low scores too, for the metrics

    def find(file: str) -> Found:
        found = predictor(file)
        return found.labels.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist()

    return find


if __name__ == "__main__":
    main(train, load)
