"""Training on a folder that has no splits: images are held out, and evaluation and prediction know them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from drawings import DRAWINGS
from labelled_folders import KINDS
from rich.console import Console

import onestage
from onestage.data import read_dataset
from onestage.errors import UserError
from onestage.terminal import Display

DETECTOR = "ssd300-test_efficientnet"


def test_a_folder_without_splits_is_trained_evaluated_and_predicted(tmp_path: Path) -> None:
    data, run, text = tmp_path / "data", tmp_path / "run", io.StringIO()
    KINDS["labelme-beside"].write(data)
    display = Display(Console(file=text, width=1000))

    trained = onestage.train(
        data, detector=DETECTOR, backbone_weights="none", steps=1, out=run, device="cpu", display=display
    )

    held_out, _ = read_dataset(data, "all:held-out")
    kept, _ = read_dataset(data, "all:kept")
    assert len(held_out) + len(kept) == len(DRAWINGS)
    assert f"{data}: labelme: 6 JSON files" in text.getvalue()
    kept_line = f"{len(kept)} images (all:kept) train, {len(held_out)} images (all:held-out) choose the best weights"
    assert kept_line in text.getvalue()
    assert trained.metrics["images"] == len(held_out)
    assert json.loads((run / "metrics.json").read_text())["images"] == len(held_out)

    again = onestage.evaluate(run, data, out=tmp_path / "again", device="cpu", display=display)
    assert again == trained.metrics

    predicted = onestage.predict(run, [str(data)], out=tmp_path / "predictions", device="cpu", display=display)
    assert predicted.images == len(DRAWINGS)
    results = json.loads((tmp_path / "predictions" / "detections.json").read_text())
    assert {(one["width"], one["height"]) for one in results} == {one.size_wh for one in DRAWINGS}


def test_a_wrong_detector_is_told_before_the_data_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"detector 'yolov8': unknown; the nearest are ") as refused:
        onestage.train(tmp_path / "nowhere", detector="yolov8", display=Display(Console(file=io.StringIO())))
    assert "\n" not in str(refused.value)
