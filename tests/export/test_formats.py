"""A format of one's own takes a file of functions and one line in the table.

The weights are a model file, the header lies beside them, and the network runs in torch.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import NAMES, write_small_model

import onestage
from onestage.data.generated import draw_image
from onestage.export import FORMATS, ExportFormat, format_of
from onestage.export.base import ModelToExport, resize_of, selection_of
from onestage.input_size import resize_image
from onestage.models.model_file import load_model, save_model
from onestage.postprocess import to_original
from onestage.runtime.exported_file import ExportedFile, check_header, file_digest
from onestage.runtime.session import Outputs, Session


def write(model: ModelToExport, path: Path) -> None:
    weights = path.with_suffix(".toy_weights")
    save_model(weights, model.detector, model.categories)
    path.write_text(json.dumps({**model.header(), "sha256": file_digest(weights)}))


def read(path: Path) -> ExportedFile:
    content = path.read_bytes()
    return ExportedFile(str(path), content, check_header(content, file_digest(TOY.files(path)[1]), str(path)))


def open_session(path: Path, device: str | None) -> Session:
    return TorchSession(read(path), TOY.files(path)[1])


TOY = ExportFormat(".toy", "toy", write, read, open_session, beside=(".toy_weights",))


class TorchSession(Session):
    def __init__(self, file: ExportedFile, weights: Path) -> None:
        super().__init__(file)
        self.detector = load_model(weights).detector

    def run(self, images_rgb: np.ndarray, score_threshold: float) -> Outputs:
        size_hw, resize = images_rgb.shape[1:3], resize_of(self.file)
        resized = np.stack([resize_image(image, resize.image_hw(size_hw)) for image in images_rgb])
        selection = selection_of(self.file).changed(score_threshold=score_threshold)
        with torch.no_grad():
            raw = self.detector(torch.from_numpy(resized).permute(0, 3, 1, 2))
        found = self.detector.detect(raw, selection, resized.shape[1:3])
        counts = np.array([len(one) for one in found])
        outputs = Outputs(
            np.zeros((len(found), counts.max(), 4), np.float32),
            np.zeros((len(found), counts.max()), np.float32),
            np.zeros((len(found), counts.max()), np.int64),
            counts,
        )
        for row, one in enumerate(found):
            outputs.boxes_xyxy[row, : len(one)] = to_original(one.boxes_xyxy, resize, size_hw).numpy()
            outputs.scores[row, : len(one)], outputs.labels[row, : len(one)] = one.scores.numpy(), one.labels.numpy()
        return outputs


def test_a_format_from_outside_is_exported_checked_loaded_and_predicted_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "toy", TOY)
    model = write_small_model(tmp_path / "model.safetensors")

    exported = onestage.export_model(model, format="toy")

    assert exported.path == tmp_path / "model.toy"
    assert exported.agreement.of > 100
    assert exported.agreement.share == 1.0
    assert format_of(exported.path) is TOY
    predictor = onestage.load(exported.path)
    image = draw_image(np.random.default_rng(0), 300).image
    found, expected = predictor(image), onestage.load(model, device="cpu", precision="fp32")(image)
    assert predictor.categories.names == NAMES
    assert len(expected) > 0
    torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy)
    megabytes = (exported.path.stat().st_size + (tmp_path / "model.toy_weights").stat().st_size) / 1e6
    assert f"exported from ssd300-test_efficientnet, {megabytes:.1f} MB" in onestage.info(str(exported.path))


def test_files_that_are_no_exports_have_no_format() -> None:
    assert format_of("runs/mine/model.safetensors") is None
    assert format_of("runs/mine") is None
