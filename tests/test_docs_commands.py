"""The commands of docs/training_further.md and docs/what_to_label_next.md run, on small networks and for a step."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from small_model import write_small_model
from torchvision.models import get_model_weights

from onestage import cli
from onestage.data import read_dataset
from onestage.data.generated import write_generated_voc
from onestage.models.model_file import load_model

PAGE = Path(__file__).parent.parent / "docs" / "training_further.md"
LOOP = PAGE.with_name("what_to_label_next.md")
SHORT = "--steps 1 --batch-size 2 --workers 0 --evaluations 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a user who has all that the page names would stand."""
    root = tmp_path_factory.mktemp("user")
    for name in ("MY-DATA", "OTHER-DATA", "ONLY-THE-NEW-CLASS"):
        write_generated_voc(root / name, seed=1, train=4, test=2)
    (root / "runs" / "first").mkdir(parents=True)
    write_small_model(root / "runs" / "first" / "model.safetensors", names=("ball", "wall", "ghost"))
    detector = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None)
    published = get_model_weights("ssd300_vgg16").DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    cache = root / "cache" / "hub" / "checkpoints" / published.url.rpartition("/")[2]
    cache.parent.mkdir(parents=True)
    torch.save(detector.state_dict(), cache)
    theirs = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3)
    torch.save(theirs.state_dict(), root / "theirs.pth")
    (root / "their-classes.txt").write_text("ball\ntree\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("TORCH_HOME", str(root / "cache"))
        yield root


def commands() -> list[str]:
    found = re.findall(r"^    (onestage (?:train|import) .+)$", PAGE.read_text(), re.MULTILINE)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_runs(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command.replace("tf_efficientnet_lite0", "test_efficientnet"))[1:]
    out = folder / words[words.index("--out") + 1]
    if out.exists():  # two examples write to the same place
        shutil.rmtree(out)
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, *(shlex.split(SHORT) if words[0] == "train" else [])])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert ("in part    fresh     left" in said) == (words[0] == "train")
    model = load_model(out)
    if "--old-classes" in words:
        assert model.categories.names[-1] == "ghost"
    if "torchvision:" in command:
        assert "from torchvision:ssd300_vgg16 (ssd300-vgg16, 90 classes):" in said
    if "theirs.pth" in command and words[0] == "train":
        assert "does not name them, so all start fresh" in said


def test_the_loop_of_labelling_runs_as_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("FIRST-100", 1), ("UNLABELLED", 2), ("HELD-OUT", 1)):  # the same classes
        write_generated_voc(Path(name), seed=seed, train=4, test=2)
    names = read_dataset(Path("FIRST-100"), "test")[0].categories.names
    steps = re.findall(r"^    (onestage .+)$", LOOP.read_text(), re.MULTILINE)
    assert [step.split()[1] for step in steps] == ["train", "predict", "train", "evaluate", "evaluate"]
    for number, words in enumerate(map(shlex.split, steps)):
        short = shlex.split(SHORT) if words[1] == "train" else []
        network = ["--detector", "ssd300-test_efficientnet", "--backbone-weights", "none"] if number == 0 else []
        with pytest.raises(SystemExit) as ended:
            cli.main([*words[1:], *short, *network])
        assert (words, ended.value.code) == (words, 0)
        if number == 0:  # as if it had learned something
            write_small_model(Path("runs/round-0/model.safetensors"), names=names)
    ranked = json.loads(Path("to-label/round-1/ranked.json").read_text())
    assert 0 < len(ranked) <= 6
    assert Path("runs/round-1/model.safetensors").exists()
    assert Path("evaluations/round-1/metrics.json").exists()
