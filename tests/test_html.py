"""What results show in a notebook: tables, in which names are text. Reliability case: nasty-names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from nasty_names import NASTY_NAMES

from onestage.evaluation import measure
from onestage.html import table
from onestage.jobs.train import TrainResult
from onestage.structures import Categories, Detections, DetectionTable, GroundTruth


def detections(count: int, names: tuple[str, ...] = ("cat", "dog")) -> Detections:
    boxes_xyxy = torch.tensor([[10.0, 20.0, 30.4, 40.6]]).repeat(count, 1)
    return Detections(boxes_xyxy, torch.full((count,), 0.914), torch.ones(count).long(), names)


def test_detections_show_the_first_ten_and_how_many_there_are() -> None:
    shown = detections(12)._repr_html_()
    assert "<strong>12 detections</strong>" in shown
    assert shown.count('<td align="left">dog</td><td>0.91</td><td>10, 20, 30, 41</td>') == 10
    assert "<div>and 2 more</div>" in shown
    assert "more" not in detections(10)._repr_html_()
    assert "<strong>1 detection</strong>" in detections(1)._repr_html_()
    assert "<strong>0 detections</strong>" in detections(0)._repr_html_()


def test_detections_are_shown_on_a_file_its_bytes_or_an_array(tmp_path: Path) -> None:
    image = np.full((50, 40, 3), 90, dtype=np.uint8)
    file = tmp_path / "image.png"
    cv2.imwrite(str(file), image)
    shown = [detections(1).show(one) for one in (file, str(file), file.read_bytes(), image)]
    assert {one.size for one in shown} == {(400, 500)}  # ten times as large, so that names can be read
    assert len({one.tobytes() for one in shown}) == 1
    assert np.asarray(shown[0]).std() > 0


def test_a_measurement_shows_its_table() -> None:
    boxes_xyxy, none = np.array([[0.0, 0.0, 10.0, 10.0]]), np.zeros(1, dtype=bool)
    label = np.zeros(1, dtype=np.int64)
    truth = GroundTruth(1, label, label, boxes_xyxy, none, np.array([100.0]))
    found = DetectionTable(label, label, np.array([0.9]), boxes_xyxy)
    shown = measure(truth, found, Categories.from_names(["cat"]))._repr_html_()
    row = "".join(f"<td>{text}</td>" for text in ("1", "1", "1.000", "1.000", "1.000", "1.000"))
    assert f'<td align="left">cat</td>{row}' in shown
    assert "COCO: AP 1.000, AP75 1.000" in shown


def test_a_run_shows_its_figures_the_way_to_its_report_and_a_small_image(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1600, 3), dtype=np.uint8)
    folder = tmp_path / 'a "run" & <b>more'
    folder.mkdir()
    metrics = {"voc": {"map_area": 0.69}, "coco": {"AP": 0.311, "AP75": -1.0}, "images": 1360}
    shown = TrainResult(folder, metrics)._repr_html_()
    assert '<td align="left">AP50 (VOC, area)</td><td>0.690</td>' in shown
    assert '<td align="left">AP75 (COCO)</td><td>-</td>' in shown
    assert "a%20%22run%22%20%26%20%3Cb%3Emore/report.html" in shown
    assert "measured on 1,360 images" in shown
    assert "<b>" not in shown
    assert "<img" not in shown
    cv2.imwrite(str(folder / "batches.png"), noise)
    assert 10_000 < len(TrainResult(folder, metrics)._repr_html_()) < 400_000  # of 5 MB, and this of noise


def test_nasty_names_are_text_in_a_notebook() -> None:
    for name in NASTY_NAMES:
        shown = detections(1, (name, name))._repr_html_()
        assert "<script" not in shown
        assert "\x1b" not in shown
    assert "&lt;b&gt;" in table("<b>", ("<b>",), [("<b>",)], ["<b>"])
    assert "<b>" not in table("<b>", ("<b>",), [("<b>",)], ["<b>"])
