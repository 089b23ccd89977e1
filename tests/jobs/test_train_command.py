"""What `onestage train` does with its options beside training itself."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import voc_xml, write_voc_folder
from rich.console import Console

import onestage
from onestage import cli
from onestage.data.generated import write_generated_voc
from onestage.data_options import DataOptions
from onestage.errors import ReportedByAnotherRankError, UserError
from onestage.jobs import train as job
from onestage.jobs.dataset import Request, open_for_training
from onestage.models.model_file import RunFolder
from onestage.terminal import Display, quiet
from onestage.training.processes import World
from onestage.training.recipe import TABLES, Recipe

TINY = ("--detector", "retinanet-test_efficientnet", "--image-size", "96", "--backbone-weights", "none")
SPLITS = ("--train-split", "trainval", "--test-split", "test")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_generated_voc(root, seed=1, train=6, test=2)
    return root


def failed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as done:
        cli.main(arguments)
    assert done.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_help_says_what_each_option_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "--batch-size INT|{auto} Images a step, over all ranks. --acc" in words
    assert "--augmentation.expand-max FLOAT Largest side of the canvas, in sides of the image. --" in words
    assert "--postprocessing.iou-threshold FLOAT IoU above which NMS takes two detections" in words
    assert "--detector STR gfl-NAME, ssd300-NAME, " in words
    assert "--assignment {max-iou,atss,task-aligned} " in words  # RetinaNet's words, and GFL's
    assert "None" not in words
    options = {f"--{field.name.replace('_', '-')} " for field in fields(Recipe)} - {f"--{name} " for name in TABLES}
    assert all(option in words for option in options)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["convert", "x", "--to", "käse", "--out", "y"]])
def test_nasty_names_and_help_are_printed_on_a_terminal_of_ascii(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict"))
    with pytest.raises(SystemExit) as done:
        cli.main(words)
    assert done.value.code == (0 if "--help" in words else 2)


def test_nasty_names_in_an_error_are_one_line_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    line = failed(["train", "x\x1b[31mRED\nonestage: all good\udce9"], capsys)
    assert line == (
        r"onestage: x\x1b[31mRED\nonestage: all good\xe9: no such folder or file; give the folder of your labelled "
        "images"
    )


def test_without_a_folder_it_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(["train"], capsys) == "onestage: train: which data? give a folder: onestage train DATA"


def test_replay_wants_a_file_that_a_run_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "step.safetensors"
    assert failed(["train", "--replay", str(missing)], capsys).startswith(f"onestage: {missing}: ")


def test_a_tracker_whose_package_is_missing_is_told_before_the_data_is_read(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onestage.training.experiment_logs.find_spec", lambda name: None)
    line = failed(["train", str(data / "nowhere"), "--track", "wandb"], capsys)
    assert line == "onestage: --log-to wandb: the package wandb is missing: pip install 'onestage[wandb]'"


def test_an_error_that_another_process_tells_is_not_told_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raise_it(*arguments: Any, **more: Any) -> None:
        raise ReportedByAnotherRankError("an image can't be read")

    monkeypatch.setattr(onestage, "train", raise_it, raising=False)
    with pytest.raises(SystemExit) as done:
        cli.main(["train", "data"])
    assert done.value.code == 1
    assert capsys.readouterr().err == ""


def test_a_batch_size_found_by_trial_becomes_part_of_the_recipe(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def find(*arguments: Any, recipe: Recipe, say: Callable[[str], None], **more: Any) -> Recipe:
        asked.update(more)
        say("batch size 4 by trial")
        return replace(recipe, batch_size=4, accumulate=2, learning_rate=0.0005)

    monkeypatch.setattr(job, "find_batch_size", find)
    arguments = [
        "train",
        str(data),
        "--out",
        str(tmp_path / "run"),
        *TINY,
        "--steps",
        "2",
        "--evaluations",
        "1",
    ]
    with pytest.raises(SystemExit) as done:
        cli.main(
            [*arguments, *SPLITS, "--batch-size", "auto", "--learning-rate-factors", "backbone.", "0.5", "fpn.", "2"]
        )
    assert done.value.code == 0
    assert asked["limit"] == 6
    recipe = json.loads(RunFolder(tmp_path / "run").recipe.read_text())
    assert (recipe["batch_size"], recipe["accumulate"], recipe["learning_rate"]) == (4, 2, 0.0005)
    assert recipe["learning_rate_factors"] == [["backbone.", 0.5], ["fpn.", 2.0]]
    assert "batch size 4 by trial" in capsys.readouterr().out


def test_many_processes_want_a_number(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "size", 2)
    with pytest.raises(UserError, match="tried by one process"):
        onestage.train(data, settings={"batch_size": "auto"})


def test_a_run_that_may_be_restarted_needs_a_folder_that_is_found_again(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(UserError, match="--max-restarts goes on with the run in --out"):
        onestage.train(data)


def test_odd_numbers_are_refused_before_anything_is_made(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    lines = {
        ("--subset", "nan"): "onestage: --subset nan: expected a number of images, or a fraction up to 1.0",
        ("--seed", "-1"): "onestage: seed is -1; expected 0 to 9223372036854775807",
    }
    for words, line in lines.items():
        assert failed(["train", str(data), "--out", str(out), "--steps", "1", *TINY, *words], capsys).startswith(line)
    odd: list[dict[str, Any]] = [
        *({"subset": number} for number in (0, -3, 2.5, float("inf"), -0.5)),
        *({"save_minutes": number} for number in (float("nan"), -1.0)),
        {"seed": 2**70},
        {"epochs": float("nan")},
        {"settings": {"learning_rate": float("inf")}},
        {"settings": {"postprocessing.score_threshold": 50.0}},
        {"settings": {"postprocessing.sigma": float("nan")}},
        {"settings": {"postprocessing.candidates_per_class": 0}},
    ]
    for number in odd:
        with pytest.raises(UserError, match="expected") as refused:
            onestage.train(data, out=out, display=quiet(), **number)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="subset: count 700, but there are "):
        onestage.train(data, out=out, subset=700, train_split="trainval", display=quiet())
    assert not out.exists()


def test_odd_numbers_of_a_demo_are_refused_before_it_is_drawn(tmp_path: Path) -> None:
    for number in ({"seed": -1}, {"minutes": float("nan")}):
        with pytest.raises(UserError, match="expected"):
            onestage.demo(out=tmp_path / "demo", display=quiet(), **number)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("subset", "images"), [(1, 1), (1.0, 6), (0.5, 3), (4, 4), (4.0, 4), (None, 6)])
def test_a_subset_is_a_count_or_a_fraction(data: Path, subset: int | float | None, images: int) -> None:
    request = Request(("trainval", None, "test"), subset)
    assert len(open_for_training(str(data), request, True, display=quiet())["train"]) == images


def test_data_without_an_object_to_learn_from_is_refused(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([("cat", 1, 1, 9, 9)], difficult=[1]), "b": voc_xml()})
    with pytest.raises(
        UserError, match=r"train: 2 images without an object to learn from \(ignored ones do not count\)"
    ):
        onestage.train(tmp_path, train_split="train", test_split="train", display=quiet())


def test_a_split_without_objects_is_told_where_it_chooses_and_where_it_tests(tmp_path: Path) -> None:
    text = io.StringIO()
    write_voc_folder(tmp_path, {"a": voc_xml([("cat", 1, 1, 9, 9)])})
    write_voc_folder(tmp_path, {"b": voc_xml()}, split="val")
    write_voc_folder(tmp_path, {"c": voc_xml([("cat", 1, 1, 9, 9)], difficult=[1])}, split="test")
    request = Request((None, "val", "test"))
    open_for_training(str(tmp_path), request, True, display=Display(Console(file=text, width=1000)))
    for split in ("val", "test"):
        assert (
            f"error: {split}: no objects in 1 image [no-objects]; check that the labels were exported"
            in text.getvalue()
        )


@pytest.mark.parametrize("given", [None, "test"])
def test_a_test_split_without_objects_is_not_used_unless_it_is_named(given: str | None, tmp_path: Path) -> None:
    text = io.StringIO()
    write_voc_folder(tmp_path, {"a": voc_xml([("cat", 1, 1, 9, 9)])})
    write_voc_folder(tmp_path, {"b": voc_xml([("cat", 1, 1, 9, 9)])}, split="val")
    write_voc_folder(tmp_path, {"c": voc_xml()}, split="test")
    request = Request((None, None, given))
    tables = open_for_training(str(tmp_path), request, True, display=Display(Console(file=text, width=1000)))
    line = "test: none of its images has an object, so it is not used, and val tests\n"
    assert (tables["test"].split, line in text.getvalue()) == (("val", True) if given is None else ("test", False))


@pytest.mark.parametrize("given", [None, "val"])
@pytest.mark.parametrize("test", [True, False])
def test_a_val_split_without_objects_is_not_used_unless_it_is_named(
    given: str | None, test: bool, tmp_path: Path
) -> None:
    text, labelled = io.StringIO(), voc_xml([("cat", 1, 1, 9, 9)])
    write_voc_folder(tmp_path, {stem: labelled for stem in ("a1", "b2", "c3", "d4")})
    write_voc_folder(tmp_path, {"e": voc_xml()}, split="val")
    if test:
        write_voc_folder(tmp_path, {"f": labelled}, split="test")
    request = Request((None, given, None))
    tables = open_for_training(str(tmp_path), request, True, display=Display(Console(file=text, width=1000)))
    line = "val: none of its images has an object, so it is not used, and a part of train is held out\n"
    splits = {name: table.split for name, table in tables.items()}
    used = {"train": "train:kept", "val": "train:held-out"} if given is None else {"train": "train", "val": "val"}
    assert splits == used | {"test": "test" if test else used["val"]}
    assert (line in text.getvalue()) is (given is None)


def test_parts_of_a_train_that_are_not_used_are_said(tmp_path: Path) -> None:
    text, labelled = io.StringIO(), voc_xml([("cat", 1, 1, 9, 9)])
    for split, stem in (("train1", "a"), ("train2", "b"), ("val", "c")):
        write_voc_folder(tmp_path, {stem: labelled}, split=split)
    open_for_training(str(tmp_path), Request(), True, display=Display(Console(file=text, width=1000)))
    assert "not used: train1 (--train-split names a split)\n" in text.getvalue()


def test_memory_that_ran_out_is_one_line_of_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raise_it(*arguments: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the manual.")

    monkeypatch.setattr(onestage, "evaluate", raise_it, raising=False)
    line = failed(["evaluate", "model", "data"], capsys)
    assert line.startswith("onestage: memory ran out (CUDA out of memory. Tried to allocate 2.00 GiB.); use a smaller")


def test_the_plan_keeps_the_recipe_before_the_users_changes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[job.Plan] = []

    def stop(plan: job.Plan, *others: object) -> None:
        plans.append(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_trained", stop)
    usual = replace(job.named_recipe("ssd300-voc0712"), steps=10)
    with pytest.raises(KeyboardInterrupt):
        onestage.train(data, recipe=usual, steps=20, seed=7, out=tmp_path, settings={"learning_rate": 0.5})
    (plan,) = plans
    assert plan.usual == usual
    assert plan.recipe == replace(usual, steps=20, seed=7, learning_rate=0.5)
    assert not plan.resume


@pytest.mark.parametrize("trained", [True, False])
def test_difficult_objects_train_where_the_recipe_says_so_and_never_count_in_evaluation(
    trained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: dict[str, list[bool]] = {}

    def stop(network: object, recipe: Recipe, **given: Any) -> None:
        tables.update({name: given[name].ignored.tolist() for name in ("train", "val", "test")})
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "Trainer", stop)
    xml = voc_xml([("cat", 1, 1, 30, 30), ("cat", 10, 10, 50, 50)], difficult=[0, 1])
    for split in ("train", "val"):
        write_voc_folder(tmp_path / "data", {f"{split}{number}": xml for number in range(2)}, split)
    options = {"out": tmp_path / "run", "steps": 1, "backbone_weights": "none", "detector": TINY[1]}
    with pytest.raises(KeyboardInterrupt):
        onestage.train(tmp_path / "data", **options, settings={"image_size": 96, "train_difficult": trained})
    assert tables == {"train": [False, not trained] * 2, "val": [False, True] * 2, "test": [False, True] * 2}


def test_boxes_that_all_mean_something_else_are_no_bad_data_to_skip(tmp_path: Path) -> None:
    xml = voc_xml([("cat", 0.1, 0.2, 0.5, 0.7)])
    root = write_voc_folder(tmp_path / "data", {f"{n}": xml for n in range(4)})
    request = Request(options=DataOptions(skip_bad_data=True))
    with pytest.raises(UserError, match="boxes are at most 1 wide: fractions of the image, where pixels are expected"):
        open_for_training(str(root), request, hold_out=True, display=quiet())
