"""What every detector of `pareto.py` does in its own environment: train for some minutes, find objects in files.

    python peers/NAME.py train DATA RUN --model M --minutes 5 [--weights FILE] [--seed 0]
    python peers/NAME.py find RUN IMAGES --model M --out FOUND.json [--first 100]

DATA holds `coco/` (annotations/instances_train.json, images/train and so on, `val` and `test` beside it) and `yolo/`
(data.yaml, images, labels), of the same images. The standard library alone is needed here: nothing of ours is in the
environments of others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Found = tuple[Sequence[float], Sequence[float], Sequence[Sequence[float]]]  # class indices, scores, boxes
Find = Callable[[str], Found]  # in a file; boxes are x1, y1, x2, y2 in its pixels
WARM_UP = 5  # images


class Job(argparse.Namespace):
    """What the command line says; see above."""

    data: Path
    run: Path
    images: Path
    model: str
    minutes: float
    weights: Path | None
    seed: int
    out: Path
    first: int | None


def main(train: Callable[[Job], float], load: Callable[[Job], Find]) -> None:
    """Do what the command line says.

    Args:
        train: leaves in the run folder what is shipped, exported; gives the seconds that training itself took.
        load: makes a finder of it.
    """
    parser = argparse.ArgumentParser()
    actions = parser.add_subparsers(dest="action", required=True)
    training, finding = actions.add_parser("train"), actions.add_parser("find")
    training.add_argument("data", type=lambda text: Path(text).resolve())
    for action in (training, finding):
        action.add_argument("run", type=lambda text: Path(text).resolve())
        action.add_argument("--model", default="")
    training.add_argument("--minutes", type=float, required=True)
    training.add_argument("--weights", type=lambda text: Path(text).resolve())
    training.add_argument("--seed", type=int, default=0)
    finding.add_argument("images", type=Path)
    finding.add_argument("--out", type=Path, required=True)
    finding.add_argument("--first", type=int)
    job = parser.parse_args(namespace=Job())
    if job.action == "train":
        job.run.mkdir(parents=True, exist_ok=True)
        (job.run / "seconds.json").write_text(json.dumps(train(job)))
    else:
        job.out.write_text(json.dumps(_find(load(job), sorted(job.images.iterdir())[: job.first])))


def _find(find: Find, files: list[Path]) -> dict[str, list]:
    """Everything found in the files, and the seconds of each, from the file to boxes in a list."""
    for file in files[:WARM_UP]:
        find(str(file))
    detections, seconds = [], []
    for file in files:
        start = time.perf_counter()
        found = find(str(file))
        seconds.append(time.perf_counter() - start)
        detections += [
            {"file": file.name, "label": int(label), "score": float(score), "box_xyxy": [float(edge) for edge in box]}
            for label, score, box in zip(*found, strict=True)
        ]
    return {"detections": detections, "seconds": seconds}
