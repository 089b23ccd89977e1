"""`onestage.evaluate` with other post-processing than the model's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import onestage
from onestage.data.generated import KINDS, write_generated_voc
from onestage.detectors import build
from onestage.errors import UserError
from onestage.models.model_file import save_model
from onestage.structures import Categories

IMAGES = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file, untrained, beside the folder `data`."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_generated_voc(folder / "data", train=1, test=IMAGES)
    torch.manual_seed(0)
    detector = build("ssd300-test_efficientnet", len(KINDS))
    save_model(folder / "model.safetensors", detector, Categories.from_names(KINDS))
    return folder / "model.safetensors"


def detections(metrics: dict) -> int:
    return sum(one["detections"] for one in metrics["voc"]["per_class"].values())


def test_post_processing_is_the_models_own_unless_asked_otherwise(model: Path, tmp_path: Path) -> None:
    data = model.parent / "data"

    usual = onestage.evaluate(model, data)
    few = onestage.evaluate(model, data, out=tmp_path, max_detections=2, nms="soft", class_agnostic=True)
    none = onestage.evaluate(model, data, out=tmp_path / "none", score_threshold=1.0)

    assert detections(usual) == IMAGES * 200  # Liu 2016, 3.1: at most 200 an image
    assert detections(few) == IMAGES * 2
    assert detections(none) == 0
    assert (model.parent / "evaluation" / "metrics.json").exists()
    page = (tmp_path / "report.html").read_text()
    assert "selection.max_detections" in page
    assert "soft-gaussian" in page


def test_a_threshold_outside_of_0_to_1_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="iou_threshold"):
        onestage.evaluate(model, model.parent / "data", out=tmp_path, iou_threshold=45)
