"""Detect in pictures and write them with their boxes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2

from onestage.drawing import draw
from onestage.errors import UserError
from onestage.inference.predictor import load
from onestage.inference.sources import open_sources
from onestage.postprocess import Nms
from onestage.structures import Detections
from onestage.training.logging import Display

NMS: dict[str, Nms] = {"hard": "hard", "soft": "soft-gaussian"}
SMALLEST_DRAWN_SIDE = 400  # pixels; smaller pictures are drawn enlarged, so that their tags can be read


def predict(
    model: str | os.PathLike[str],
    sources: Sequence[str],
    *,
    out: str | os.PathLike[str] = "predictions",
    score_threshold: float = 0.5,
    nms: Literal["hard", "soft"] | None = None,
    class_agnostic: bool = False,
    max_detections: int = 200,
    batch_size: int = 8,
    device: str | None = None,
    display: Display | None = None,
) -> list[dict[str, Any]]:
    """Detect in every picture of the sources; write drawn pictures and `detections.json` into `out`.

    Args:
        model: a run folder or a model file.
        sources: pictures, folders, globs.
        out: the folder for the results; drawn pictures keep their path below their source. Small pictures are drawn
            enlarged by a whole factor; `detections.json` is in pixels of the original all the same.
        score_threshold: what is kept and drawn.
        nms: "soft" is Gaussian soft-NMS; None: as the detector's paper does it.
        class_agnostic: boxes of different classes suppress each other too.
        max_detections: at most so many a picture.
        batch_size: pictures at once.
        device: None takes a GPU where there is one.
        display: where to print.

    Returns:
        The content of `detections.json`.

    Raises:
        UserError: no model, no pictures, or, after all others were done, pictures that could not be read.
    """
    display = display or Display()
    predictor = load(model, device=device)
    papers = predictor.detector.evaluation_selection
    predictor.selection = replace(
        papers,
        score_threshold=score_threshold,
        max_detections=max_detections,
        nms=papers.nms if nms is None else NMS[nms],
        class_agnostic=class_agnostic,
    )
    pictures = open_sources(list(sources))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    unreadable: list[str] = []
    with display.stage("predicting", len(pictures)) as stage:
        files = predictor.predict_files([picture.path for picture in pictures], batch_size)
        for picture, file in zip(pictures, files, strict=True):
            stage.advance()
            if not isinstance(file.outcome, Detections) or file.image is None:
                unreadable.append(str(file.outcome))
                display.say(f"passed over: {file.outcome}")
                continue
            height, width = file.image.shape[:2]
            results.append(as_json(str(picture.path), width, height, file.outcome))
            drawn = draw(file.image, file.outcome, min_side=SMALLEST_DRAWN_SIDE)
            target = folder / picture.output_name
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    (folder / "detections.json").write_text(json.dumps(results, indent=1) + "\n")
    count = sum(len(result["detections"]) for result in results)
    display.say(f"{len(results)} pictures, {count} detections of score {score_threshold:g} and more: {folder}")
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(pictures)} pictures could not be read (named above)")
    return results


def as_json(source: str, width: int, height: int, found: Detections) -> dict[str, Any]:
    """One entry of `detections.json`; boxes are pixels of the original."""
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist(), strict=True)
    return {
        "source": source,
        "width": width,
        "height": height,
        "detections": [
            {
                "name": found.names[label],
                "label": label,
                "score": round(score, 4),
                "box_xyxy": [round(value, 2) for value in box_xyxy],
            }
            for label, score, box_xyxy in rows
        ],
    }
