"""`onestage compare`, from files to table, JSON and page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from html_pages import Page
from measured_runs import measured_run, write_run

import onestage
from onestage import cli
from onestage.errors import UserError

EVIL = "<img src=x onerror=alert(1)>"
RECIPE: dict[str, Any] = {"detector": "gfl-x", "seed": 0, "network": {"image_size": 192}}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images as the measured runs name them."""
    root = tmp_path_factory.mktemp("images")
    for number in range(60):
        cv2.imwrite(str(root / f"{number:03}.jpg"), np.full((160, 160, 3), 128, dtype=np.uint8))
    return root


def test_a_better_run_is_called_so_in_the_terminal_in_json_and_on_the_page(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    about = {"detector": "gfl-x", "parameters": 3_700_000, "ms_per_image": 12.345, "device": "cpu"}
    a = write_run(Path("runs/first"), measured_run(0.5, root=images, about=about), RECIPE)
    b = write_run(Path("runs/second"), measured_run(0.9, root=images, about=about), {**RECIPE, "epochs": 20})
    (a / "model.safetensors").write_bytes(bytes(2_500_000))
    (a / "log.csv").write_text("step,images,seconds\n10,80,31\n20,160,62\n")

    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "runs/first", str(b)])

    assert ended.value.code == 0
    told = json.loads(Path("compare/first-second/compare.json").read_text())
    one = told["differences"][0]
    assert one["AP"]["points"] == pytest.approx(told["sides"]["B"]["AP"] - told["sides"]["A"]["AP"], abs=1e-3)
    assert (one["AP"]["verdict"], one["per_class"]["wall"]["AP"]["verdict"]) == ("better", "better")
    assert told["settings"] == {"epochs": ["-", "20"]}
    assert told["sides"]["A"]["training"] == "1:02, 160 images"
    assert told["sides"]["A"]["model file"] == "2.5 MB"
    assert told["sides"]["B"]["parameters"] == "3.70 M"
    assert told["sides"]["B"]["evaluation, an image"] == "12.3 ms (cpu)"
    said = capsys.readouterr().out
    assert one["sentence"] in said
    assert "1.5 times as wide as the images ask for" in said
    text = Path("compare/first-second/compare.html").read_text()
    page = Page(text)
    assert one["sentence"] in page.words
    assert "default-src 'none'" in text
    drawn = page.images()
    assert len(drawn) == 3 * min(6, len(one["images_better"])) + 3 * min(6, len(one["images_worse"]))
    assert all(image.shape == (320, 320, 3) for image in drawn)
    assert (drawn[0] != 128).any()  # boxes


def test_names_of_strangers_are_text_on_the_page_and_images_that_are_gone_are_counted(tmp_path: Path) -> None:
    names = (EVIL, "wall", "line\nbreak")
    a, b = (measured_run(quality, names=names, root=tmp_path / "gone") for quality in (0.5, 0.9))
    image_names = (f"{EVIL}.jpg", "../../etc/passwd", *a.image_names[2:])
    runs = [
        write_run(tmp_path / folder, replace(run, image_names=image_names, about={"detector": EVIL, "bits": "x"}))
        for folder, run in (("a", a), ("b", b))
    ]

    told = onestage.compare(runs, out=tmp_path / "out")

    text = (tmp_path / "out" / "compare.html").read_text()
    page = Page(text)
    assert EVIL not in text
    assert EVIL in page.words
    assert "line\\nbreak" in page.words
    assert page.images() == []
    changed = min(6, len(told["differences"][0]["images_better"])) + min(6, len(told["differences"][0]["images_worse"]))
    assert any(word.startswith(f"{changed} images can't be shown") for word in page.words)


def test_runs_of_one_recipe_with_several_seeds_are_one_side(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"{name}{seed}", measured_run(quality, seed), {**RECIPE, "seed": seed, "epochs": epochs})
        for name, quality, epochs in (("a", 0.5, 5), ("b", 0.9, 30))
        for seed in (0, 1)
    ]

    told = onestage.compare(runs, out=tmp_path / "out")
    of_one_recipe = onestage.compare(runs[:2], out=tmp_path / "out")

    assert told["sides"]["A"]["runs"] == f"{runs[0]}, {runs[1]} (one recipe, 2 seeds)"
    assert list(told["sides"]) == ["A", "B"]
    assert told["differences"][0]["AP"]["verdict"] == "better"
    assert told["settings"] == {"epochs": ["5", "30"]}
    assert list(of_one_recipe["sides"]) == ["A", "B"]  # there is nothing else to hold them against
    assert of_one_recipe["settings"] == {"seed": ["0", "1"]}


def test_the_same_recipe_and_seed_twice_is_two_sides(tmp_path: Path) -> None:
    """As after labels were corrected: what differs is the data."""
    runs = [write_run(tmp_path / name, measured_run(0.7, seed), RECIPE) for seed, name in enumerate("abc")]

    assert list(onestage.compare(runs, out=tmp_path / "out")["sides"]) == ["A", "B", "C"]


def test_an_evaluation_beside_a_run_and_damaged_recipes_will_do(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run / "evaluation", measured_run())
    (run / "recipe.json").write_text("[" * 100_000)
    (run / "data.json").write_text("[1]")
    other = write_run(tmp_path / "other", measured_run(about={"model": "\0", "parameters": "many", "bits": 99}))

    told = onestage.compare([run, other], out=tmp_path / "out")

    assert told["differences"][0]["AP"]["verdict"] == "equal"
    assert told["sides"]["B"]["parameters"] == "-"


def test_what_cannot_be_compared_is_said_in_a_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", measured_run())
    (tmp_path / "empty").mkdir()
    other = write_run(tmp_path / "other", replace(measured_run(images=1), image_names=("another.jpg",)))

    with pytest.raises(UserError, match="give two runs or more"):
        onestage.compare([run])
    with pytest.raises(UserError, match=r"empty: no measured.safetensors.*onestage evaluate .*empty DATA"):
        onestage.compare([run, tmp_path / "empty"])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        onestage.compare([run, tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"measured.safetensors: a file; give a run, or the folder of an evaluation"):
        onestage.compare([run, run / "measured.safetensors"])
    with pytest.raises(UserError, match=r"other has 1 image that not all have, as another.jpg; so there is nothing"):
        onestage.compare([run, other])
    damaged = (run / "measured.safetensors").read_bytes()
    (run / "measured.safetensors").write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    with pytest.raises(UserError, match="does not have the SHA-256"):
        onestage.compare([run, run])
