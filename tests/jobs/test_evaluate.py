"""`onestage.evaluate` with other post-processing than the model's own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_model import trace_each_model_once, write_small_model

import onestage
from onestage.data.generated import KINDS, write_generated_voc
from onestage.detectors import build
from onestage.errors import UserError
from onestage.models.model_file import keep_thresholds, load_model, save_model
from onestage.runtime.calibration import ScoreCalibration
from onestage.structures import Categories

IMAGES = 3

traced_once = pytest.fixture(scope="module", autouse=True)(trace_each_model_once)


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


def test_no_image_is_looked_at_where_results_can_not_be_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("onestage.jobs.evaluate.detect_all")
    for out, reason in ((model, "it is a file"), (Path("/proc/none"), "No such file or directory")):
        with pytest.raises(UserError, match=rf"{out}: no results can be written there \({reason}\); name another"):
            onestage.evaluate(model, model.parent / "data", out=out)


def test_a_threshold_outside_of_0_to_1_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="iou_threshold"):
        onestage.evaluate(model, model.parent / "data", out=tmp_path, iou_threshold=45)


def test_score_thresholds_are_found_once_and_used_by_everything_then_anew_for_a_wanted_recall(tmp_path: Path) -> None:
    model, data = write_small_model(tmp_path / "model.safetensors", names=KINDS), tmp_path / "data"
    write_generated_voc(data, train=1, test=3)
    assert onestage.load(model).selection.score_threshold == 0.5

    onestage.evaluate(model, data, out=tmp_path / "1")
    found = load_model(model).thresholds
    onestage.evaluate(model, data, out=tmp_path / "2", split="trainval")  # they are there now, and stay

    assert (found.images, found.split) == (3, "test")
    assert load_model(model).thresholds == found
    assert onestage.load(model).selection.class_thresholds == found.scores
    onestage.export_model(model, out=tmp_path / "model.onnx")
    assert onestage.load(tmp_path / "model.onnx").selection.class_thresholds == found.scores

    onestage.evaluate(model, data, out=tmp_path / "3", wanted_recall=1.0)

    thresholds = load_model(model).thresholds
    assert str(thresholds.aim) == "recall of 1"
    assert all(one.recall == 1.0 for one in thresholds.classes if one.reached)
    with pytest.raises(UserError, match="leave out other post-processing"):
        onestage.evaluate(model, data, out=tmp_path / "4", wanted_recall=1.0, nms="soft")


def test_images_without_objects_change_no_threshold_and_few_leave_what_scores_mean(tmp_path: Path) -> None:
    model, data = write_small_model(tmp_path / "model.safetensors", names=KINDS), tmp_path / "data"
    write_generated_voc(data, train=1, test=3)
    onestage.evaluate(model, data, out=tmp_path / "1")
    found = load_model(model).thresholds
    assert found is not None
    known = ScoreCalibration((1.0,) * len(KINDS), (0.5,) * len(KINDS))
    keep_thresholds(model, replace(found, calibration=known))

    onestage.evaluate(model, data, out=tmp_path / "2", wanted_precision=0.9)  # fewer than 50 hits
    assert load_model(model).calibration == known

    before = model.read_bytes()
    for file in (data / "Annotations").iterdir():
        file.write_text(re.sub("<object>.*?</object>", "", file.read_text(), flags=re.DOTALL))
    with pytest.raises(UserError, match=r"no objects, so no threshold has a precision of 0\.9; name another --split"):
        onestage.evaluate(model, data, out=tmp_path / "3", wanted_precision=0.9)
    onestage.evaluate(model, data, out=tmp_path / "4")
    assert model.read_bytes() == before
    with pytest.raises(UserError, match="--wanted-recall 95: expected a share from 0 to 1"):
        onestage.evaluate(model, data, out=tmp_path / "5", wanted_recall=95.0)


def test_figures_at_thresholds_are_of_what_a_user_of_the_file_gets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = write_small_model(tmp_path / "model.safetensors", names=KINDS), tmp_path / "data"
    write_generated_voc(data, train=1, test=1)
    for file in (data / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<name>ball<", "<name>buoy<"))
    onestage.export_model(model, out=tmp_path / "number.onnx", score_threshold=0.25)

    of_file = onestage.evaluate(tmp_path / "number.onnx", data, out=tmp_path / "1")
    cut_off = onestage.evaluate(model, data, out=tmp_path / "2", score_threshold=0.7)

    for metrics, score in ((of_file, 0.25), (cut_off, 0.7)):
        of_each = metrics["at_thresholds"]["per_class"].values()
        assert [one["score_threshold"] for one in of_each] == [score] * len(KINDS)
    absent = [name for name, one in of_file["voc"]["per_class"].items() if not one["ground_truths"]]
    assert "ball" in absent
    said = " ".join(capsys.readouterr().out.split())
    assert f"note: test: no objects of {len(absent)} class" in said
    assert "(as ball); what is found of them counts as false alarms, but not in AP" in said
