"""The whole path on a tiny drawn data set: train, evaluate, predict, resume, by the command line and from Python."""

import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import onestage
from onestage import cli
from onestage.data.generated import write_generated_voc
from onestage.errors import UserError
from onestage.models.model_file import load_model, read_tensors
from onestage.terminal import Display
from onestage.training.journal import read_log

DETECTOR = "ssd300-test_efficientnet"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_generated_voc(root, seed=1, train=8, test=4)
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    length = ("--steps", 4, "--batch-size", 2, "--evaluations", 2)
    assert run("train", data, "--detector", DETECTOR, *length, "--backbone-weights", "none", "--out", out) == 0
    return out


def test_a_run_folder_holds_what_the_design_promises(trained: Path) -> None:
    files = [path for path in trained.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert {path.relative_to(trained).as_posix() for path in files} == {
        "model.safetensors",
        "checkpoint/training.safetensors",
        "checkpoint/previous.safetensors",
        "recipe.json",
        "data.json",
        "recipe.toml",
        "log.csv",
        "batches.png",
        "metrics.json",
        "report.html",
        "measured.safetensors",
    }
    log = read_log(trained / "log.csv")
    assert [(row["step"], row["images"]) for row in log if row["map_area"] is not None] == [(2, 4), (4, 8)]
    assert all(np.isfinite(float(row["loss"])) and row["images_per_second"] > 0 for row in log)
    assert json.loads((trained / "recipe.json").read_text())["steps"] == 4
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["images"] == 4
    assert {"map_11point", "map_area", "per_class"} <= set(metrics["voc"])
    assert {"AP", "AP50", "AP75"} <= set(metrics["coco"])


def test_the_report_is_one_self_contained_page(trained: Path) -> None:
    page = (trained / "report.html").read_text()
    assert "<svg" in page
    assert "data:image/jpeg;base64," in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_evaluating_the_model_file_gives_the_runs_numbers(trained: Path, data: Path, tmp_path: Path) -> None:
    assert run("evaluate", trained, data, "--out", tmp_path) == 0
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again == json.loads((trained / "metrics.json").read_text())


def test_predict_writes_images_and_boxes_in_original_pixels(trained: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions"
    assert run("predict", trained, data / "JPEGImages", "--out", out, "--score-threshold", 0.01) == 0
    results = json.loads((out / "detections.json").read_text())
    assert len(results) == 12
    for result in results:
        with Image.open(result["source"]) as image:
            assert image.size == (result["width"], result["height"])
        for found in result["detections"]:
            x0, y0, x1, y1 = found["box_xyxy"]
            assert 0 <= x0 <= x1 <= result["width"]
            assert 0 <= y0 <= y1 <= result["height"]
    assert len(list(out.glob("*.jpg"))) == 12


def test_an_unreadable_image_is_named_and_the_rest_go_on(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next((data / "JPEGImages").glob("*.jpg"))
    bad = tmp_path / "bad.jpg"
    bad.write_text("<html>not an image</html>")
    assert run("predict", trained, bad, good, "--out", tmp_path / "out") == 1
    assert "1 of 2 sources could not be read" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 1


def test_soft_nms_and_class_agnostic_nms_by_choice(trained: Path, data: Path, tmp_path: Path) -> None:
    words = ("--score-threshold", 0.01, "--nms", "soft", "--class-agnostic", "--max-detections", 3)
    assert run("predict", trained, data / "JPEGImages", "--out", tmp_path, *words) == 0
    results = json.loads((tmp_path / "detections.json").read_text())
    assert all(len(result["detections"]) <= 3 for result in results)


def test_the_python_predictor_takes_a_path_or_an_array(trained: Path, data: Path) -> None:
    predictor = onestage.load(trained)
    path = next((data / "JPEGImages").glob("*.jpg"))
    from_path, from_array = predictor(path), predictor([np.asarray(Image.open(path).convert("RGB"))])[0]
    assert from_path.names == predictor.categories.names
    assert torch.equal(from_path.labels, from_array.labels)


def test_info_describes_a_run_and_a_name(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", trained) == 0
    assert DETECTOR in capsys.readouterr().out
    assert run("info", "ssd300-vgg16") == 0
    text = capsys.readouterr().out
    assert "26,285,486" in text  # the golden README's counts
    assert "31.37" in text
    assert "8,732" in text


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_stopped_and_resumed_run_ends_with_the_weights_of_one_that_was_not(
    data: Path, tmp_path: Path, ema: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch_size": 2, "evaluations": 1, "ema_decay": ema}
    common = {"detector": DETECTOR, "steps": 4, "backbone_weights": "none", "settings": settings}
    onestage.train(data, out=tmp_path / "straight", **common)

    from onestage.training.trainer import Trainer

    step = Trainer.step

    def interrupted_step(self: Trainer, batch: object) -> object:
        losses = step(self, batch)
        if self.position.step == 2:
            signal.raise_signal(signal.SIGINT)
        return losses

    monkeypatch.setattr(Trainer, "step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        onestage.train(data, out=tmp_path / "stopped", **common)
    monkeypatch.undo()
    assert read_tensors(tmp_path / "stopped/checkpoint/training.safetensors")[1]["position"]["step"] == 2
    onestage.train(data, out=tmp_path / "stopped", resume=True, **common)

    straight, _ = read_tensors(tmp_path / "straight/checkpoint/training.safetensors")
    resumed, _ = read_tensors(tmp_path / "stopped/checkpoint/training.safetensors")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_training_lowers_the_loss_and_minutes_end_a_run(data: Path, tmp_path: Path) -> None:
    small = {"image_size": 64, "channels": 64, "subnet_depth": 1}  # many steps in a few seconds
    onestage.train(
        data,
        out=tmp_path / "run",
        detector="retinanet-test_efficientnet",
        minutes=0.15,
        backbone_weights="none",
        subset=4,
        settings={"batch_size": 4, "evaluations": 1, "learning_rate": 3e-3, **small},
    )
    log = read_log(tmp_path / "run/log.csv")
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert 4.5 <= log[-1]["seconds"] < 9  # half of the nine seconds at least; the whole run has them all


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--detector", "ssd300-vgg15"), "vgg15"),
        (("--recipe", "ssd300-voc07"), "ssd300-voc0712"),
        (("--resume",), "--out"),
        (("--steps", 5, "--epochs", 2), "steps"),
        (("--detector", DETECTOR, "--backbone-weights", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    data: Path, words: tuple[object, ...], reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = () if "--resume" in words else ("--out", tmp_path / "run")
    assert run("train", data, *words, *where) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert "Traceback" not in error


def test_wrong_usage_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--frobnicate") == 2
    assert run("predict") == 2


def test_a_run_folder_is_not_overwritten(trained: Path, data: Path) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        onestage.train(data, out=trained, detector=DETECTOR, steps=1, backbone_weights="none")


def test_bad_data_stops_before_training_or_is_left_out_by_choice(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    write_generated_voc(root, seed=2, train=6, test=2)
    bad = root / "JPEGImages" / f"{(root / 'ImageSets/Main/trainval.txt').read_text().split()[0]}.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    words = ("--detector", DETECTOR, "--backbone-weights", "none", "--steps", 1, "--out", tmp_path / "run")
    assert run("train", root, *words) == 1
    assert bad.name in capsys.readouterr().err
    assert run("train", root, *words, "--skip-bad-data", "--batch-size", 2) == 0
    assert "1 image and 0 objects" in capsys.readouterr().out


def test_batches_of_one_image_are_refused_where_batch_norms_are_trained(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--detector", DETECTOR, "--steps", 1, "--batch-size", 1, "--backbone-weights", "none", "--out", tmp_path)
    assert run("train", data, *words) == 1
    assert "--batch-size 2" in capsys.readouterr().err


def test_the_demo_writes_its_data_run_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onestage.jobs.demo.DEMO_DETECTOR", DETECTOR)
    display = Display(Console(quiet=True))
    metrics = onestage.demo(out=tmp_path, minutes=0.05, train_images=16, test_images=4, display=display)
    assert metrics["images"] == 4
    assert (tmp_path / "run/report.html").exists()
    assert len(list((tmp_path / "predictions").glob("*.jpg"))) == 4


def test_import_writes_a_model_file_from_another_projects_names(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models.detection import ssd300_vgg16

    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    words = ("--detector", "ssd300-vgg16", "--categories", tmp_path / "names.txt", "--out", tmp_path / "m.safetensors")
    assert run("import", tmp_path / "theirs.safetensors", *words) == 0
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.categories.names == ("cat", "dog")
    ours, others = loaded.detector.state_dict(), theirs.state_dict()
    assert torch.equal(ours["backbone.conv1_1.weight"], others["backbone.features.0.weight"])


def test_import_lays_anchors_of_the_sizes_that_are_given(tmp_path: Path) -> None:
    from models.reference_checkpoints import checkpoint
    from safetensors.torch import save_file

    save_file(checkpoint("ssd_pytorch_ssd300_vgg16"), tmp_path / "theirs.safetensors")
    (tmp_path / "names.txt").write_text("\n".join(f"class {number}" for number in range(20)))
    words = ("--detector", "ssd300-vgg16", "--categories", tmp_path / "names.txt", "--out", tmp_path / "m.safetensors")
    sizes = (21, 45, 99, 153, 207, 261, 315)  # of the release's COCO model
    assert run("import", tmp_path / "theirs.safetensors", *words, "--anchor-sizes", *sizes) == 0
    anchors_cxcywh = load_model(tmp_path / "m.safetensors").detector.anchors_cxcywh((300, 300))
    torch.testing.assert_close(anchors_cxcywh[0], torch.tensor([4.0, 4, 21, 21]))
    torch.testing.assert_close(anchors_cxcywh[1, 2:], torch.full((2,), (21 * 45) ** 0.5))


def test_stop_signals_are_left_alone_outside_the_main_thread(trained: Path) -> None:
    from onestage.training.trainer import stop_signals

    seen: list[bool] = []

    def enter() -> None:
        with stop_signals() as received:
            seen.append(not received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [True]
