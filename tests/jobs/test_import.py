"""Golden checkpoints by the command line, and the list of recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.reference_checkpoints import checkpoint, images, outputs
from safetensors.torch import save_file

from onestage import cli
from onestage.models.model_file import load_model

CASES = [
    ("lufficc_ssd300_vgg16", "lufficc", "ssd300-vgg16", 20, 300),
    ("seed_retinanet_r50_fpn", "seed", "retinanet-resnet50", 20, 320),
]


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.mark.parametrize(("case", "layout", "detector", "classes", "size"), CASES, ids=[case[0] for case in CASES])
def test_a_golden_checkpoint_imported_by_the_command_line_gives_the_golden_outputs(
    case: str, layout: str, detector: str, classes: int, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, names, model = tmp_path / "theirs.safetensors", tmp_path / "names.txt", tmp_path / "model.safetensors"
    save_file(checkpoint(case), theirs)
    listed = ["__background__", "N/A", "N/A", *(f"class {number}" for number in range(2, classes))]  # as torchvision's
    names.write_text("\r\n".join(listed), encoding="utf-8-sig")  # byte-order-marks: as Windows' editors write
    words = ("--layout", layout, "--detector", detector, "--categories", names, "--out", model)
    assert run("import", theirs, *words) == 0
    assert "entries loaded" in capsys.readouterr().out
    loaded = load_model(model)
    assert loaded.categories.names == ("N/A 1", "N/A 2", *listed[3:])
    with torch.no_grad():
        predictions = loaded.detector.raw(images(size))
    for output, found in (("box_deltas", predictions.box_deltas), ("class_logits", predictions.class_logits)):
        index, expected, deviation = outputs(case, output)
        assert (found.flatten()[index] - expected).abs().max() <= 1e-4 * deviation


def test_the_recipes_are_listed_with_what_to_expect_and_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes") == 0
    listed = " ".join(capsys.readouterr().out.split())
    for words in ("m2det800-vgg16-coco", "retinanet-r50-voc0712", "77.2 mAP", "not run"):
        assert words in listed


def test_a_model_file_ends_in_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("cat\n")
    words = ("--detector", "ssd300-vgg16", "--categories", tmp_path / "names.txt", "--out", tmp_path / "model.bin")
    assert run("import", tmp_path / "theirs.pth", *words) == 1
    assert "a model file ends in .safetensors" in capsys.readouterr().err


def test_a_class_twice_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\ncat\n")
    words = ("--detector", "ssd300-vgg16", "--categories", tmp_path / "names.txt", "--out", tmp_path / "m.safetensors")
    assert run("import", tmp_path / "theirs.pth", *words) == 1
    line = f"onestage: {tmp_path}/names.txt: two classes are called 'cat'; give each its own name\n"
    assert capsys.readouterr().err == line
