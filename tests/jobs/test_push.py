"""Models are pushed to a hub and used from there; the hub is an imitation on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hub_imitation import TOKEN, Hub, Repository, local_hub, set_constants
from small_model import write_small_model

import onestage
from onestage import cli
from onestage.data.generated import KINDS, draw_image, write_generated_voc
from onestage.errors import UserError
from onestage.jobs.beginning import Beginning
from onestage.models.model_file import keep_thresholds, load_model, named_file
from onestage.models.start_from import open_start
from onestage.recipes import named_recipe

HERE = "hf://me/shapes"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose detector has learned nothing, with its evaluation."""
    home = tmp_path_factory.mktemp("secret-home")
    write_generated_voc(home / "SHAPES", train=1, test=3)
    run = home / "runs" / "first"
    run.mkdir(parents=True)
    write_small_model(run / "model.safetensors", names=KINDS)
    (run / "recipe.json").write_text(json.dumps(named_recipe("ssd300-voc0712").as_dict()))
    onestage.evaluate(run, home / "SHAPES", out=run)
    return run


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with local_hub(tmp_path / "cache") as server:
        yield server


@pytest.fixture
def login(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def run_command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def model_of(hub: Hub, run: Path, *, private: bool = False) -> str:
    """A repository with the model of a run; gives its commit."""
    hub.repositories["me/shapes"] = Repository(private)
    return hub.repositories["me/shapes"].commit({"model.safetensors": (run / "model.safetensors").read_bytes()})


@pytest.mark.usefixtures("login")
def test_a_run_is_pushed_private_without_names_of_folders_and_found_in_another_cache(
    hub: Hub,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command("push", run_folder, HERE, "--licence", "cc-by-4.0") == 0
    said = capsys.readouterr().out
    repository = hub.repositories["me/shapes"]
    commit, files = list(repository.commits.items())[-1]
    assert repository.private
    assert "which you and those whom you let in can see" in said
    assert f"model: {HERE}@{commit}" in said
    images = {name for name in files if name.startswith("images/")}
    assert {f"images/wrong-{place}.jpg" for place in (1, 2, 3)} >= images > set()
    assert set(files) - images == {
        ".gitattributes", "README.md", "metrics.json", "model.safetensors", "recipe.json", "report.html",
    }  # fmt: skip
    assert files["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    assert all(b"secret-home" not in content for content in files.values())
    assert b"<h1>first on SHAPES</h1>" in files["report.html"]
    _, front, card = files["README.md"].decode().split("---\n", 2)
    about = yaml.safe_load(front)
    assert (about["license"], about["pipeline_tag"], about["library_name"]) == (
        "cc-by-4.0",
        "object-detection",
        "onestage",
    )
    assert "SSD: Single Shot MultiBox Detector (Liu et al., ECCV 2016, arXiv 1512.02325)" in card
    assert f'onestage.load("{HERE}")' in card
    assert "Trained on the data set SHAPES. All figures are of 3 images of SHAPES, test." in card
    assert all(f"| {name} | " in card and f"({image})" in card for name in KINDS for image in images)

    set_constants(monkeypatch, HF_HUB_CACHE=str(tmp_path / "another"))
    there, here = onestage.load(HERE), onestage.load(run_folder)
    assert there.selection == here.selection
    assert there.selection.class_thresholds is not None
    there.selection = here.selection = here.selection_for(0.1)
    found, expected = (one(draw_image(np.random.default_rng(0), 200).image) for one in (there, here))
    assert len(found) > 0
    assert torch.equal(found.boxes_xyxy, expected.boxes_xyxy)
    assert f"{HERE}@{commit}: model.safetensors" in capsys.readouterr().out


@pytest.mark.usefixtures("login")
def test_a_second_push_removes_what_it_leaves_out_and_can_keep_the_card(hub: Hub, run_folder: Path) -> None:
    onestage.push(run_folder, HERE, public=True)
    repository = hub.repositories["me/shapes"]
    assert not repository.private
    repository.commit({**list(repository.commits.values())[-1], "README.md": b"my own words", "notes.txt": b""})
    pushed = onestage.push(run_folder, HERE, without_images=True, keep_card=True)
    files = repository.commits[pushed.name.partition("@")[2]]
    assert set(files) == {
        ".gitattributes", "README.md", "metrics.json", "model.safetensors", "notes.txt", "recipe.json",
    }  # fmt: skip
    assert files["README.md"] == b"my own words"


def test_files_can_be_looked_at_before_they_are_pushed(
    hub: Hub, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("push", run_folder, HERE, "--out", tmp_path / "look", "--data-name", "My *shapes*") == 0
    assert "no --licence: until you give one" in capsys.readouterr().out
    card = (tmp_path / "look" / "README.md").read_text()
    assert "Trained on the data set My \\*shapes\\*." in card
    assert "nobody else has the right to use them" in card
    assert "license" not in card
    assert hub.asked == []


def test_a_commit_stays_the_same_and_asks_nobody_once_it_is_here(
    hub: Hub, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = model_of(hub, run_folder)
    old = onestage.load(HERE).detector.state_dict()
    other = write_small_model(tmp_path / "other.safetensors", seed=1, names=KINDS)
    second = hub.repositories["me/shapes"].commit({"model.safetensors": other.read_bytes()})
    asked = len(hub.asked)
    pinned = load_model(f"{HERE}@{first}").detector.state_dict()
    assert len(hub.asked) == asked
    new = load_model(HERE).detector.state_dict()
    assert all(torch.equal(pinned[name], value) for name, value in old.items())
    assert any(not torch.equal(new[name], value) for name, value in old.items())

    hub.shutdown()
    hub.server_close()
    assert run_command("info", HERE) == 0
    said = capsys.readouterr().out
    assert f"{HERE}@{second}: model.safetensors, " in said
    assert f"the copy in the cache, because {HERE}: {hub.address} can't be reached" in said
    set_constants(monkeypatch, HF_HUB_OFFLINE=True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set; no copy of model\.safetensors is in the cache"):
        load_model("hf://me/never-seen")


def test_a_file_with_another_sha_256_is_refused_and_fetched_anew(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    commit = model_of(hub, run_folder)
    hub.damaged = True
    with pytest.raises(
        UserError, match=f"{HERE}@{commit}: model.safetensors has the SHA-256 .* removed from the cache"
    ):
        load_model(HERE)
    hub.damaged = False
    load_model(HERE)
    (blob,) = (tmp_path / "cache").rglob("blobs/*")
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="removed from the cache"):
        load_model(f"{HERE}@{commit}")
    assert load_model(f"{HERE}@{commit}").categories.names == tuple(KINDS)


def test_what_the_hub_refuses_is_one_line_with_the_mend(
    hub: Hub, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model_of(hub, run_folder, private=True)

    def refused(*words: object) -> str:
        assert run_command(*words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "check the name, and log in: `hf auth login`" in refused("info", HERE)
    assert "log in: `hf auth login`, or a token in the environment variable HF_TOKEN" in refused(
        "push", run_folder, HERE
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert f"{HERE}@v2: it has no such revision" in refused("info", f"{HERE}@v2")
    assert "no such repository, or one that your login may not see" in refused("info", "hf://me/typo")
    assert "your login may not do that" in refused("push", run_folder, "hf://somebody/shapes")
    hub.repositories["me/shapes"].commit({"README.md": b""})
    assert "the file is not in it" in refused("info", HERE)
    assert "expected hf://USER/NAME, without a revision" in refused("push", run_folder, f"{HERE}@main")
    assert "hf://shapes: expected hf://USER/NAME" in refused("info", "hf://shapes")
    hub.shutdown()
    hub.server_close()
    assert f"{hub.address} can't be reached" in refused("info", HERE)


def test_a_model_on_a_hub_is_used_by_its_name_and_nothing_is_written_beside_it(
    hub: Hub, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_of(hub, run_folder)
    monkeypatch.chdir(tmp_path)
    data = run_folder.parent.parent / "SHAPES"
    load_model(HERE)
    before = sorted((tmp_path / "cache").rglob("*"))
    assert run_command("evaluate", HERE, data) == 0
    assert sorted((tmp_path / "cache").rglob("*")) == before
    assert json.loads(Path("shapes/evaluation/metrics.json").read_text())["images"] == 3
    with pytest.raises(
        UserError, match="a hub's is not changed; take a copy: hf download me/shapes --local-dir shapes"
    ):
        onestage.evaluate(HERE, data, wanted_recall=0.5)
    assert named_file(f"{HERE}@v1").with_suffix(".onnx") == Path("shapes/model.onnx")  # where an export goes
    assert open_start(HERE).categories == load_model(run_folder).categories


def test_a_card_says_nothing_of_other_thresholds_than_the_models_own(run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    cards = []
    for of in "ab":
        onestage.push(run, HERE, out=tmp_path / of)
        cards.append((tmp_path / of / "README.md").read_text())
        found = load_model(run).thresholds
        assert found is not None
        classes = tuple(replace(one, score=0.9) for one in found.classes)
        keep_thresholds(run / "model.safetensors", replace(found, classes=classes))
    assert ["the model finds" in card for card in cards] == [True, False]
    assert ["at other score thresholds than it has now" in card for card in cards] == [False, True]


def test_a_model_file_that_nobody_measured_is_pushed_as_one(run_folder: Path, tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "imported.safetensors")
    (tmp_path / "evaluation").mkdir()
    for file in ("metrics.json", "report.html"):  # of another model
        (tmp_path / "evaluation" / file).write_bytes((run_folder / file).read_bytes())
    pushed = onestage.push(model, HERE, licence="other", out=tmp_path / "look")
    assert pushed.files == ("model.safetensors", "README.md")
    card = (tmp_path / "look" / "README.md").read_text()
    assert "What it was trained on is not told." in card
    assert "Nobody has measured it. No score thresholds were found for it: scores count above 0.5." in card
    with pytest.raises(UserError, match="has files already"):
        onestage.push(model, HERE, out=tmp_path / "look")
    with pytest.raises(UserError, match="expected an identifier of the hub"):
        onestage.push(model, HERE, licence="My Own, v2")


def test_a_run_on_timms_weights_of_a_hub_has_the_plain_name_of_its_detector(hub: Hub) -> None:
    hub.repositories["me/net"] = Repository()
    about = {"architecture": "test_efficientnet", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    hub.repositories["me/net"].commit({"config.json": json.dumps(about).encode()})
    assert Beginning(None, None, "drop").named_detector("gfl-hf-hub:me/net") == "gfl-test_efficientnet"
    assert Beginning("none", None, "drop").named_detector("gfl-test_efficientnet") == "gfl-test_efficientnet"
    with pytest.raises(UserError, match="--detector gfl-hf-hub:me/net and --backbone-weights: both say what the"):
        Beginning("none", None, "drop").named_detector("gfl-hf-hub:me/net")
