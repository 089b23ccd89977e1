"""`onestage predict --rank`: few of many images and frames, and why; nothing is written of the others."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from films import write_film
from red_box import CATEGORIES, RedBoxDetector
from rich.console import Console

import onestage
from onestage import cli
from onestage.data import read_dataset
from onestage.errors import UserError
from onestage.inference.predictor import Predictor
from onestage.structures import Detections, Predictions
from onestage.terminal import Display


class UnsureDetector(RedBoxDetector):
    """Its score is the share of red in an image: 0.5 in a half red one. It finds it in one place."""

    def forward(self, images: torch.Tensor) -> Predictions:
        red = ((images[:, 0].int() - images[:, 1].int()) > 128).float().mean(dim=(1, 2))
        return Predictions(red[:, None, None], torch.zeros(len(images), 1, 4))

    def detect(self, predictions: Predictions, selection: object, input_hw: tuple[int, int]) -> list[Detections]:
        box, label = torch.tensor([[10.0, 10.0, 60.0, 60.0]]), torch.ones(1, dtype=torch.int64)
        found = [Detections(box, score.reshape(1), label) for score in predictions.class_logits]
        return [one[one.scores > selection.score_threshold] for one in found]  # pyright: ignore


@pytest.fixture(autouse=True)
def predictor(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    predictor = Predictor(UnsureDetector(), CATEGORIES, device="cpu", precision="fp32")
    monkeypatch.setattr("onestage.jobs.predict.load", lambda model, **_: predictor)
    return predictor


@pytest.fixture
def quiet() -> Display:
    return Display(Console(file=io.StringIO(), soft_wrap=True))


def said(display: Display) -> str:
    file = display.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def write_images(folder: Path, shares: dict[str, int]) -> str:
    """Images of 100 x 100 with so many red rows, each with other gray noise below."""
    folder.mkdir(parents=True)
    for seed, (name, rows) in enumerate(shares.items()):
        gray = np.random.default_rng(seed).integers(0, 200, (5, 5, 1), dtype=np.uint8)
        image = gray.repeat(20, 0).repeat(20, 1).repeat(3, 2)
        image[:rows] = (0, 0, 255)
        cv2.imwrite(str(folder / name), image)
    return str(folder)


def ranked(out: Path) -> list[dict]:
    return json.loads((out / "ranked.json").read_text())


def test_the_least_sure_images_are_written_and_no_others(tmp_path: Path, quiet: Display) -> None:
    images = write_images(tmp_path / "in", {"sure.png": 95, "unsure.png": 58, "dropped.png": 40, "empty.png": 0})
    out = tmp_path / "out"
    found = onestage.predict(
        "model", [images], out=out, formats=("voc", "label-studio"), rank="uncertain", rank_images=2, display=quiet
    )
    assert (found.images, found.detections) == (2, 1)
    rows = ranked(out)
    assert [(one["rank"], Path(one["source"]).name) for one in rows] == [(1, "unsure.png"), (2, "dropped.png")]
    assert [one["doubt"] for one in rows] == [0.42, 0.4]
    assert [one["why"] for one in rows] == [
        "1 detection near the threshold",
        "1 detection near the threshold, nothing above the threshold",
    ]
    with (out / "ranked.csv").open(newline="") as file:
        assert [(one["rank"], one["why"]) for one in csv.DictReader(file)] == [
            (str(one["rank"]), one["why"]) for one in rows
        ]
    assert (out / "ranked.txt").read_text().splitlines() == [one["source"] for one in rows]
    assert sorted(path.name for path in out.glob("*.png")) == ["dropped.png", "unsure.png"]
    table, _ = read_dataset(out / "voc", "trainval")
    assert (len(table), len(table.labels)) == (2, 1)
    tasks = json.loads((out / "label-studio/tasks.json").read_text())
    assert [(task["data"]["rank"], task["data"]["why"]) for task in tasks] == [
        (one["rank"], one["why"]) for one in rows
    ]
    assert "2 of 4 images are most worth labelling (doubt 0.41 an image, 0.22 over all)" in said(quiet)
    assert "2 images, 1 detection with scores above 0.5" in said(quiet)


def test_the_list_of_ranked_images_is_one_that_predict_takes(tmp_path: Path, quiet: Display) -> None:
    images = write_images(tmp_path / "in", {"a.png": 50, "b.png": 60, "c.png": 0})
    onestage.predict("model", [images], out=tmp_path / "out", rank="uncertain", rank_images=2, display=quiet)
    found = onestage.predict("model", [f"@{tmp_path / 'out/ranked.txt'}"], out=tmp_path / "again", display=quiet)
    assert found.images == 2


def test_copies_are_not_chosen_twice_and_it_is_said(tmp_path: Path, quiet: Display) -> None:
    images = write_images(tmp_path / "in", {"a.png": 50, "b.png": 60})
    (tmp_path / "in/copy.png").write_bytes((tmp_path / "in/a.png").read_bytes())
    onestage.predict("model", [images], out=tmp_path / "out", rank="uncertain", display=quiet)
    assert [Path(one["source"]).name for one in ranked(tmp_path / "out")] == ["a.png", "b.png"]
    assert "only 2 are chosen: each of the others looks like one of these" in said(quiet)


def test_frames_of_a_video_are_ranked_among_the_images(
    tmp_path: Path, quiet: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onestage.inference.ranking.LEAST_DISTANCE", 0.0)  # all frames of this film look alike
    images = write_images(tmp_path / "in", {"a.png": 50})
    film = write_film(tmp_path / "film.mp4", 12)
    out = tmp_path / "out"
    found = onestage.predict(
        "model",
        [images, str(film)],
        out=out,
        formats=("coco",),
        rank="uncertain",
        rank_images=3,
        every=2,
        display=quiet,
    )
    assert (found.images, found.frames) == (1, 2)
    frames = [one for one in ranked(out) if "frame" in one]
    assert all(one["frame"] % 2 == 0 and one["time_s"] == one["frame"] / 10 for one in frames)
    assert sorted(path.name for path in out.glob("film*")) == sorted(f"film-{one['frame']:06d}.jpg" for one in frames)
    assert (out / "ranked.txt").read_text() == f"{tmp_path}/in/a.png\n"


def test_an_unreadable_image_is_named_once_and_the_rest_are_ranked(tmp_path: Path, quiet: Display) -> None:
    images = write_images(tmp_path / "in", {"a.png": 50})
    (tmp_path / "in/bad.png").write_bytes(b"junk")
    with pytest.raises(UserError, match="1 of 2 sources could not be read"):
        onestage.predict("model", [images], out=tmp_path / "out", rank="uncertain", display=quiet)
    assert said(quiet).count("bad.png") == 1
    assert len(ranked(tmp_path / "out")) == 1
    with pytest.raises(UserError, match="none of the 1 sources could be read"):
        onestage.predict("model", [f"{images}/bad.png"], out=tmp_path / "bad", rank="uncertain", display=quiet)


def test_files_of_the_users_are_not_replaced(tmp_path: Path, quiet: Display) -> None:
    images = write_images(tmp_path / "in", {"a.png": 50})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/ranked.csv").write_text("mine")
    with pytest.raises(UserError, match=r"ranked\.csv: not as an earlier predict wrote it"):
        onestage.predict("model", [images], out=tmp_path / "out", rank="uncertain", display=quiet)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rank-images", "0"], "rank images 0: give 1 or more"),
        (["--track"], "track: not with rank, which takes single frames"),
        (["--engine", "ray"], "--rank: not with --engine ray"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "in", {"a.png": 50})
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", "model", images, "--out", str(tmp_path / "out"), "--rank", "uncertain", *options])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_live_source_is_refused(tmp_path: Path, quiet: Display) -> None:
    with pytest.raises(UserError, match="camera:0: a live source has no frames to come back to"):
        onestage.predict("model", ["camera:0"], out=tmp_path / "out", rank="uncertain", display=quiet)
