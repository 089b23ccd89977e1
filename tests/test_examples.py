"""What is in examples/ runs, on a few images and for a few steps: the notebook in a real kernel, the scripts here."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import pytest
import torch
from nbclient import NotebookClient

import onestage
from onestage.boxes import pairwise_iou
from onestage.data import read_dataset
from onestage.data.formats import FORMATS
from onestage.data.generated import write_generated_voc
from onestage.detectors import ON_TIMM
from onestage.structures import Targets

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "train_and_explain.ipynb"
TINY = ["--detector", "ssd300-test_efficientnet", "--backbone-weights", "none"]
FRESH = ["--backbone", "test_efficientnet", "--backbone-weights", "none"]
SHORT = """
DETECTOR, LENGTH, TRAIN_IMAGES, TEST_IMAGES = "ssd300-test_efficientnet", {"steps": 2}, 12, 4
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The executed code cells."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += SHORT
    folder = tmp_path_factory.mktemp("notebook")
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cells: list[Any], source: str, kind: str) -> list[str]:
    """What the cell that holds this source shows of a kind."""
    cell = next(one for one in cells if source in one.source)
    return [one.data[kind] for one in cell.outputs if kind in one.get("data", {})]


def printed(cells: list[Any], source: str) -> str:
    cell = next(one for one in cells if source in one.source)
    return "".join(one.text for one in cell.outputs if one.output_type == "stream")


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_a_run_in_a_notebook_prints_text_and_one_line_that_changes(cells: list[Any]) -> None:
    said = printed(cells, "onestage.train(")
    assert "run folder: train_and_explain/run" in said
    assert "trained on" in said
    assert "\x1b" not in said  # no colours of a terminal
    assert "\r" not in said
    assert not outputs(cells, "onestage.train(", "text/html")  # no line of HTML for each line
    assert len(outputs(cells, "onestage.train(", "text/plain")) <= 8  # stages that took half a second


def test_results_show_themselves(cells: list[Any]) -> None:
    cell = next(one for one in cells if one.source == "result")
    (html,) = (one.data["text/html"] for one in cell.outputs)
    assert "AP50 (VOC, area)" in html
    assert "train_and_explain/run/report.html" in html
    assert "data:image/jpeg;base64," in html
    assert len(html) < 300_000
    (table,) = outputs(cells, "found = predictor(", "text/html")
    assert "detection" in table
    assert outputs(cells, "found.show(", "image/png")


def test_the_package_says_what_goes_wrong_and_where(cells: list[Any]) -> None:
    assert "ball     scores above" in printed(cells, "at_thresholds")
    assert printed(cells, "ap50_gain").startswith("class ")
    assert 0 < printed(cells, "ranked.json").count("train_and_explain/data/JPEGImages/") <= 3


# --- the scripts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the scripts are called, with some images; formats and detectors that they bring are forgotten later."""
    root = tmp_path_factory.mktemp("scripts")
    write_generated_voc(root / "data", train=8, test=4)
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(FORMATS), mock.patch.dict(ON_TIMM):
        patch.chdir(root)
        yield root


def run(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script as from the command line; gives what it defines."""
    with mock.patch("sys.argv", [script, *arguments]):
        return runpy.run_path(str(EXAMPLES / script), run_name="__main__")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """What `train_and_predict.py` trains."""
    run("train_and_predict.py", "data", *TINY, "--steps", "2", "--out", "first")
    return folder / "first"


def test_train_and_predict_leaves_a_report_and_drawn_images(model: Path) -> None:
    assert (model / "report.html").exists()
    assert len([path for path in model.glob("*.png") if path.stem.isdigit()]) == 4


def test_predict_in_threads_finds_the_same_in_threads_and_in_a_list(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(path) for path in sorted(model.parent.glob("data/JPEGImages/*.jpg"))[:3]]
    run("predict_in_threads.py", str(model), *images, "--threads", "3", "--score-threshold", "0.02")
    counts = re.findall(r"jpg: (\d+) found in a thread, (\d+) in the list", capsys.readouterr().out)
    assert [one for one, _ in counts] == [other for _, other in counts]
    assert len(counts) == 3
    assert max(int(one) for one, _ in counts) > 0


def test_an_exported_file_runs_in_a_process_without_torch(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("export_and_run_without_torch.py", str(model), "data/JPEGImages/000000.jpg")
    assert re.search(r"^\d+ found; PyTorch is not loaded$", capfd.readouterr().out, re.MULTILINE)


def test_a_reader_of_ones_own_is_used_like_any_other_and_names_the_line_that_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = folder / "own"
    shutil.copytree(folder / "data" / "JPEGImages", own / "images")
    for split, wrong in (("trainval", ""), ("test", '{"file": "images/000000.jpg"}\n')):
        table, _ = read_dataset(folder / "data", split)
        names, lines = table.categories.names, []
        for index in range(len(table)):
            objects = table.objects(index)
            rows = zip(objects.labels.tolist(), objects.boxes_xyxy.tolist(), strict=True)
            things = [[names[label], *box] for label, box in rows]
            lines.append(json.dumps({"file": f"images/{table.image_id(index)}.jpg", "things": things}))
        (own / f"{split}.jsonl").write_text("\n".join(lines) + f"\n{wrong}")
    arguments = ["own", *TINY, "--steps", "1", "--out", "of-own"]
    with pytest.raises(onestage.UserError, match=r"test.jsonl, line 5: KeyError\('things'\); write file and things"):
        run("own_dataset.py", *arguments)
    (own / "test.jsonl").write_text("\n".join(lines))
    run("own_dataset.py", *arguments)
    assert "lines of JSON: test.jsonl, trainval.jsonl" in capsys.readouterr().out
    metrics = json.loads((folder / "of-own" / "metrics.json").read_text())
    assert metrics["images"] == 4
    assert set(metrics["voc"]["per_class"]) == set(names)


def test_a_loss_of_ones_own_is_logged_by_its_name_and_weighted_by_its_setting(folder: Path) -> None:
    run("own_loss.py", "data", *FRESH, "--steps", "1", "--iou-loss-weight", "3", "--out", "own-loss")
    header, row = (folder / "own-loss" / "log.csv").read_text().splitlines()
    assert float(dict(zip(header.split(","), row.split(","), strict=True))["complete_iou_loss"]) > 0
    detector = onestage.load("own-loss", device="cpu").detector
    target = Targets(torch.tensor([[30.0, 40.0, 150.0, 200.0]]), torch.tensor([1]), torch.tensor([False]))
    predictions = detector(torch.zeros(1, 3, 300, 300, dtype=torch.uint8))
    thrice = detector.losses(predictions, [target], (300, 300)).sums
    detector.config = replace(detector.config, iou_loss_weight=1.0)
    once = detector.losses(predictions, [target], (300, 300)).sums
    torch.testing.assert_close(thrice["complete_iou"], 3 * once["complete_iou"])
    assert thrice["classification"] == once["classification"]


def test_a_detector_of_ones_own_is_trained_and_loaded_and_learns_an_image(folder: Path) -> None:
    defined = run("own_detector.py", "data", *FRESH, "--steps", "1")
    predictor = onestage.load("runs/own-detector")
    assert predictor.detector_name == "centres-test_efficientnet"
    torch.manual_seed(0)
    config = defined["CentresConfig"](image_size=160)
    detector = onestage.build("centres-test_efficientnet", num_classes=2, config=config)
    target = Targets(torch.tensor([[30.0, 40.0, 90.0, 100.0]]), torch.tensor([1]), torch.tensor([False]))
    images = torch.zeros(2, 3, 160, 160, dtype=torch.uint8)
    images[:, :, 40:100, 30:90] = 220
    optimizer = torch.optim.AdamW(detector.parameters(), 3e-3)
    for _ in range(30):
        losses = detector.losses(detector(images), [target, target], (160, 160))
        optimizer.zero_grad()
        (sum(losses.sums.values()) / losses.divisor).backward()
        optimizer.step()
    found = detector.detect(detector(images), predictor.papers_selection, (160, 160))[0]
    assert found.labels[0] == 1
    assert pairwise_iou(found.boxes_xyxy[:1], target.boxes_xyxy) > 0.7


def test_a_follower_of_ones_own_gets_numbers_and_images_and_stops_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("own_callback.py", "data", *TINY, "--steps", "16", "--enough", "0", "--out", "followed")
    said = capsys.readouterr().out
    assert re.search(r"^step 2: AP50 0\.\d+$", said, re.MULTILINE)
    assert "what was found is drawn in" in said
    assert "step 4: AP50" not in said
    images = {path.name for path in (folder / "followed" / "followed").glob("*.png")}
    assert {"augmented 0, step 000001.png", "truth and detections 0, step 000002.png"} <= images
    assert (folder / "followed" / "evaluation" / "report.html").exists()


def test_the_dockerfile_installs_what_the_package_asks_for() -> None:
    text = (EXAMPLES / "Dockerfile").read_text()
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    torch_and_vision = [one for one in project["dependencies"] if one.startswith("torch")]
    assert re.findall(r'"(torch[^"]*)"', text) == torch_and_vision
    extras = re.findall(r"/onestage\[(.+)\]", text)[0].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    copied = [name for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert all((EXAMPLES.parent / name).exists() for name in copied)
