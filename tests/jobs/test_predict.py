"""`onestage predict` on images and videos: its files, read by other programs."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import av
import cv2
import numpy as np
import psutil
import pytest
import torch
from films import place, write_film, write_repeated
from nasty_names import FILE_NAMES, NASTY_NAMES, is_seen
from pycocotools.coco import COCO
from red_box import CATEGORIES, RedBoxDetector, red_box
from rich.console import Console
from shape_checks import unchecked

import onestage
from onestage.data import read_dataset
from onestage.errors import UserError
from onestage.inference.predictor import Predictor
from onestage.structures import Categories, Detections
from onestage.terminal import Display
from onestage.texts import as_unicode, one_line


@pytest.fixture(autouse=True)
def red_box_predictor(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """Every model is the detector that finds the red box."""
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")
    monkeypatch.setattr("onestage.jobs.predict.load", lambda model, **_: predictor)
    return predictor


@pytest.fixture
def quiet() -> Display:
    return Display(Console(file=io.StringIO(), soft_wrap=True))


def said(display: Display) -> str:
    file = display.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def write_red_box(path: Path, box_xyxy: tuple[int, int, int, int] = (20, 30, 80, 90)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(red_box(100, 100, box_xyxy), cv2.COLOR_RGB2BGR))
    return path


def detections_of(folder: Path) -> list[dict]:
    return json.loads((folder / "detections.json").read_text())


def test_a_video_gives_its_boxes_by_frame_and_time_and_a_drawn_video(tmp_path: Path, quiet: Display) -> None:
    film = write_film(tmp_path / "film.mp4", 30, sound="aac")
    predicted = onestage.predict("model", [str(film)], out=tmp_path / "out", display=quiet)
    assert (predicted.images, predicted.frames, predicted.detections) == (0, 30, 30)
    results = detections_of(tmp_path / "out")
    assert [(one["frame"], one["time_s"]) for one in results] == [(i, i / 10) for i in range(30)]
    for index, one in enumerate(results):
        np.testing.assert_allclose(one["detections"][0]["box_xyxy"], place(index), atol=2.0)
    with av.open(str(tmp_path / "out/film.mp4")) as drawn:
        stream = drawn.streams.video[0]
        assert (stream.codec_context.name, stream.frames, stream.average_rate) == ("h264", 30, 10)
        assert float((stream.duration or 0) * (stream.time_base or 0)) == pytest.approx(3.0)
        assert drawn.streams.best("audio") is not None
        frames = [frame.to_ndarray(format="rgb24") for frame in drawn.decode(stream)]
    # inside the box the image is as it was; on its edge there is a line of another colour
    x0, y0, x1, y1 = place(0)
    assert frames[0][(y0 + y1) // 2 + 6, (x0 + x1) // 2][0] > 180
    assert frames[0][y1 - 1, (x0 + x1) // 2][1] > 60


def test_a_part_of_a_video_keeps_its_frame_numbers(tmp_path: Path, quiet: Display) -> None:
    film = write_film(tmp_path / "film.avi", 30, codec="mpeg4")
    onestage.predict("model", [str(film)], out=tmp_path, start_s=1.0, end_s=2.0, every=2, display=quiet)
    assert [one["frame"] for one in detections_of(tmp_path)] == [10, 12, 14, 16, 18]
    with av.open(str(tmp_path / "film.mp4")) as drawn:
        stream = drawn.streams.video[0]
        assert stream.average_rate == 5
        assert stream.frames == 5


def test_a_folder_may_hold_images_and_videos(tmp_path: Path, quiet: Display) -> None:
    write_red_box(tmp_path / "in/a.png")
    write_film(tmp_path / "in/b.mp4", 3)
    predicted = onestage.predict("model", [str(tmp_path / "in")], out=tmp_path / "out", display=quiet)
    assert (predicted.images, predicted.frames) == (1, 3)
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.png", "b.mp4", "detections.json"]
    assert "1 image and 3 frames, 4 detections" in said(quiet)


def test_an_image_comes_on_standard_input(tmp_path: Path, quiet: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_red_box(tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    onestage.predict("model", ["-"], out=tmp_path / "out", display=quiet)
    (one,) = detections_of(tmp_path / "out")
    assert (one["source"], one["width"]) == ("-", 100)
    assert one["detections"][0]["box_xyxy"] == [20.0, 30.0, 80.0, 90.0]
    assert (tmp_path / "out/stdin.png").exists()


def test_csv_has_a_row_a_detection(tmp_path: Path, quiet: Display) -> None:
    image = write_red_box(tmp_path / "a.png")
    film = write_film(tmp_path / "film.mp4", 2)
    onestage.predict("model", [str(image), str(film)], out=tmp_path / "out", formats=("csv",), display=quiet)
    with (tmp_path / "out/detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["frame"]) for row in rows] == [(str(image), ""), (str(film), "0"), (str(film), "1")]
    assert [float(rows[0][side]) for side in ("x0", "y0", "x1", "y1")] == [20.0, 30.0, 80.0, 90.0]
    assert (rows[0]["name"], rows[0]["label"], rows[0]["score"]) == ("red", "1", "0.9")


def test_coco_results_are_read_by_pycocotools(tmp_path: Path, quiet: Display) -> None:
    for name in ("a.png", "b.png"):
        write_red_box(tmp_path / "in" / name)
    onestage.predict("model", [str(tmp_path / "in")], out=tmp_path, formats=("coco",), display=quiet)
    truth = COCO()
    truth.dataset = {
        "images": json.loads((tmp_path / "coco_images.json").read_text()),
        "annotations": [],
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(("blue", "red"))],
    }
    truth.createIndex()
    results = truth.loadRes(str(tmp_path / "coco_results.json"))
    assert [truth.imgs[a["image_id"]]["file_name"] for a in results.anns.values()] == [
        str(tmp_path / "in" / name) for name in ("a.png", "b.png")
    ]
    assert {(tuple(a["bbox"]), a["category_id"]) for a in results.anns.values()} == {((20.0, 30.0, 60.0, 60.0), 1)}


def test_a_voc_folder_can_be_trained_on(tmp_path: Path, quiet: Display) -> None:
    for name in ("x/a.png", "x/deep/a.png"):
        write_red_box(tmp_path / name)
    film = write_film(tmp_path / "film.mp4", 3)
    onestage.predict(
        "model", [str(tmp_path / "x"), str(film)], out=tmp_path / "out", formats=("voc",), every=2, display=quiet
    )
    table, problems = read_dataset(tmp_path / "out/voc", "trainval")
    assert problems == []
    assert len(table) == 4
    assert table.categories.names == ("red",)
    assert sorted(Path(table.image_name(index)).name for index in range(4)) == [
        "a.png", "deep-a.png", "film-000000.jpg", "film-000002.jpg",
    ]  # fmt: skip
    first = next(index for index in range(4) if Path(table.image_name(index)).name == "a.png")
    np.testing.assert_allclose(table.objects(first)[0], [[20, 30, 80, 90]])
    assert (tmp_path / "out/voc/JPEGImages/a.png").read_bytes() == (tmp_path / "x/a.png").read_bytes()


def test_a_voc_folder_has_boxes_of_one_pixel_and_none_without_area(
    tmp_path: Path, quiet: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes_xyxy = torch.tensor([[20.0, 30.0, 21.0, 90.0], [100.0, 10.0, 100.0, 50.0]])  # the second: clipped away
    found = Detections(boxes_xyxy, torch.tensor([0.9, 0.8]), torch.ones(2, dtype=torch.int64))
    monkeypatch.setattr(RedBoxDetector, "detect", lambda *arguments: [found])
    write_red_box(tmp_path / "a.png")
    onestage.predict("model", [str(tmp_path / "a.png")], out=tmp_path / "out", formats=("voc",), display=quiet)
    table, problems = read_dataset(tmp_path / "out/voc", "trainval")
    assert problems == []
    np.testing.assert_array_equal(table.boxes_xyxy, [[20, 30, 21, 90]])


def test_nothing_found_gives_empty_lists(tmp_path: Path, quiet: Display) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 50, 3), dtype=np.uint8))
    formats = ("csv", "coco", "voc")
    onestage.predict("model", [str(tmp_path / "a.png")], out=tmp_path / "out", formats=formats, display=quiet)
    (one,) = detections_of(tmp_path / "out")
    assert one["detections"] == []
    assert json.loads((tmp_path / "out/coco_results.json").read_text()) == []


@pytest.mark.parametrize("out", ["in", "in/../in"])
def test_a_source_is_never_overwritten_by_its_drawn_copy(tmp_path: Path, quiet: Display, out: str) -> None:
    sources = [write_red_box(tmp_path / "in/a.png"), write_film(tmp_path / "in/film.mp4", 3)]
    before = [source.read_bytes() for source in sources]
    for source in sources:
        with pytest.raises(UserError, match="the drawn copy would take its place; choose another --out"):
            onestage.predict("model", [str(source)], out=tmp_path / out, display=quiet)
    assert [source.read_bytes() for source in sources] == before


def test_predict_overwrites_sources_nor_anything_else_it_did_not_write(tmp_path: Path, quiet: Display) -> None:
    one, other = write_red_box(tmp_path / "a/x.png"), write_red_box(tmp_path / "b/x.png", (1, 2, 30, 40))
    kept = write_red_box(tmp_path / "album/x.png", (5, 5, 20, 20))
    (tmp_path / "links").mkdir()
    (tmp_path / "links/x.png").symlink_to("../album/x.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/detections.json").write_text("mine")
    (tmp_path / "deep/x.png").mkdir(parents=True)
    before = [path.read_bytes() for path in (one, other, kept)]
    with pytest.raises(UserError, match=r"b/x\.png: the drawn copy would take its place"):
        onestage.predict("model", [str(one), str(other)], out=other.parent, display=quiet)
    for folder in ("b", "links", "notes"):
        with pytest.raises(UserError, match=f"{folder}/.*: not as an earlier predict wrote it; .* or give --overwrite"):
            onestage.predict("model", [str(one)], out=tmp_path / folder, display=quiet)
    with pytest.raises(UserError, match=r"deep/x\.png: a folder"):
        onestage.predict("model", [str(one)], out=tmp_path / "deep", display=quiet)
    assert [path.read_bytes() for path in (one, other, kept)] == before
    assert (tmp_path / "notes/detections.json").read_text() == "mine"
    onestage.predict("model", [str(one)], out=tmp_path / "links", overwrite=True, display=quiet)
    assert kept.read_bytes() == before[2]
    assert not (tmp_path / "links/x.png").is_symlink()


def test_what_an_earlier_run_wrote_is_replaced_unless_it_was_changed_since(tmp_path: Path, quiet: Display) -> None:
    image, film = write_red_box(tmp_path / "x.png"), write_film(tmp_path / "film.mp4", 3)
    words, out = [str(image), str(film)], tmp_path / "out"
    for _ in range(2):
        onestage.predict("model", words, out=out, formats=("csv", "coco", "voc"), display=quiet)
    annotation = out / "voc/Annotations/x.xml"
    annotation.write_text(annotation.read_text().replace("red", "blue"))  # corrected
    with pytest.raises(UserError, match=r"x\.xml: not as an earlier predict wrote it"):
        onestage.predict("model", words, out=out, formats=("voc",), display=quiet)
    onestage.predict("model", words, out=out, display=quiet)
    assert "blue" in annotation.read_text()
    (out / "film.mp4").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"film\.mp4: not as an earlier predict wrote it"):
        onestage.predict("model", words, out=out, display=quiet)


def test_frames_that_make_no_sense_are_refused_before_any_work(tmp_path: Path, quiet: Display) -> None:
    image = str(write_red_box(tmp_path / "a.png"))
    with pytest.raises(UserError, match="every 0: give 1 or more"):
        onestage.predict("model", [image], out=tmp_path / "out", every=0, display=quiet)
    with pytest.raises(UserError, match="batch size 0: give 1 or more"):
        onestage.predict("model", [image], out=tmp_path / "out", batch_size=0, display=quiet)
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_killed_can_be_started_again(
    tmp_path: Path, quiet: Display, red_box_predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(write_red_box(tmp_path / f"in/{name}.png")) for name in "ab"]
    with monkeypatch.context() as patched:
        patched.setattr("onestage.jobs.written_files.WrittenFiles.done", lambda *_: None)  # it gets to no end
        onestage.predict("model", words, out=tmp_path / "out", display=quiet)
    with (tmp_path / "out/.onestage-predict.jsonl").open("a") as file:
        file.write('["b.p')  # torn
    onestage.predict("model", words, out=tmp_path / "out", display=quiet)
    assert len(detections_of(tmp_path / "out")) == 2


def test_tracks_of_a_video_have_their_first_frame(tmp_path: Path, quiet: Display, red_box_predictor: Predictor) -> None:
    film = write_film(tmp_path / "film.mp4", 12)
    onestage.predict("model", [str(film)], out=tmp_path / "out", track=True, formats=("csv",), display=quiet)
    tracks = [[one["track_id"] for one in entry["detections"]] for entry in detections_of(tmp_path / "out")]
    assert tracks == [[0]] * 12
    assert red_box_predictor.selection.score_threshold == 0.1  # what ByteTrack's second stage gets
    assert "12 detections with scores above 0.5 or a track" in said(quiet)


def test_a_video_that_can_not_be_written_is_named_and_the_rest_go_on(
    tmp_path: Path, quiet: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin, good = write_film(tmp_path / "a.mp4", 3), write_film(tmp_path / "b.mp4", 3)
    monkeypatch.setattr("onestage.inference.video_writer.ENCODERS", {"libx264": {"level": "wrong"}})
    with pytest.raises(UserError, match="2 of 2 sources could not be read"):
        onestage.predict("model", [str(thin), str(good)], out=tmp_path / "o:1", display=quiet)
    assert "a.mp4: can't be written" in said(quiet).replace("\n", " ")


def test_a_folder_with_a_colon_takes_images_and_videos(tmp_path: Path, quiet: Display) -> None:
    """`--out o:1`: what stands before a colon is no protocol."""
    words = [str(write_red_box(tmp_path / "a.png")), str(write_film(tmp_path / "12:30.mp4", 3))]
    onestage.predict("model", words, out=tmp_path / "o:1", display=quiet)
    assert (tmp_path / "o:1/a.png").exists()
    with av.open(f"file:{tmp_path}/o:1/12:30.mp4") as drawn:
        assert drawn.streams.video[0].frames == 3


def test_a_video_that_can_not_be_opened_is_named_and_the_rest_go_on(tmp_path: Path, quiet: Display) -> None:
    bad, good = tmp_path / "bad.mp4", write_film(tmp_path / "good.mp4", 3)
    bad.write_text("<html>not a video</html>")
    with pytest.raises(UserError, match="1 of 2 sources could not be read"):
        onestage.predict("model", [str(bad), str(good)], out=tmp_path / "out", display=quiet)
    assert "passed over:" in said(quiet)
    assert "bad.mp4: can't be opened as a video" in said(quiet).replace("\n", " ")
    assert [one["frame"] for one in detections_of(tmp_path / "out")] == [0, 1, 2]


def test_nasty_names_of_files_are_text_in_every_result(tmp_path: Path, quiet: Display) -> None:
    data = write_red_box(tmp_path / "a.png").read_bytes()
    (tmp_path / "in").mkdir()
    for name in FILE_NAMES:
        (tmp_path / "in" / f"{name}.png").write_bytes(data)
    (tmp_path / "in" / "broken \x1b[31m\nonestage: all good.png").write_bytes(b"junk")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"1 of {len(FILE_NAMES) + 1} sources could"):
        onestage.predict("model", [str(tmp_path / "in")], out=out, formats=("csv", "coco", "voc"), display=quiet)
    assert len(said(quiet).splitlines()) == 2
    assert all(map(is_seen, said(quiet).splitlines()))
    sources = sorted(f"{tmp_path}/in/{as_unicode(name)}.png" for name in FILE_NAMES)
    assert sorted(one["source"] for one in detections_of(out)) == sources
    assert sorted(one["file_name"] for one in json.loads((out / "coco_images.json").read_text())) == sources
    with (out / "detections.csv").open(encoding="utf-8", newline="") as file:
        assert sorted(row["source"] for row in csv.DictReader(file)) == sources
    assert all((out / f"{name}.png").exists() for name in FILE_NAMES)
    table, problems = read_dataset(out / "voc", "trainval")
    assert (len(table), len(table.labels), problems) == (len(FILE_NAMES), len(FILE_NAMES), [])


def test_nasty_names_of_classes_are_text_in_every_result(
    tmp_path: Path, quiet: Display, red_box_predictor: Predictor
) -> None:
    image, out = str(write_red_box(tmp_path / "a.png")), tmp_path / "out"
    for name in NASTY_NAMES:
        red_box_predictor.categories = Categories.from_names(["blue", name])
        onestage.predict("model", [image], out=out, formats=("csv", "coco", "voc"), display=quiet)
        assert detections_of(out)[0]["detections"][0]["name"] == name
        with (out / "detections.csv").open(encoding="utf-8", newline="") as file:
            assert [row["name"] for row in csv.DictReader(file)] == [name]
        xml = ElementTree.parse(out / "voc/Annotations/a.xml")
        assert [found.text for found in xml.iter("name")] == [one_line(name)]


def test_a_full_disk_is_reported(tmp_path: Path, quiet: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    image = str(_touched(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(UserError, match=r"a.png: can't be written \(No space left"):
        onestage.predict("model", [image], out=tmp_path / "out", display=quiet)


def _touched(folder: Path) -> Path:
    path = folder / "a.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), dtype=np.uint8))[1].tobytes())
    return path


def test_memory_stays_flat_over_five_thousand_frames(
    tmp_path: Path, quiet: Display, red_box_predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is real except the network, which has no memory of frames."""
    box = Detections(torch.tensor([[10.0, 10.0, 40.0, 40.0]]), torch.tensor([0.9]), torch.tensor([1]), ("blue", "red"))
    memory: list[int] = []

    def found(images: list) -> list[Detections]:
        memory.append(psutil.Process().memory_info().rss)
        return [box] * len(images)

    monkeypatch.setattr(red_box_predictor, "detect", found)
    film = write_repeated(tmp_path / "film.mp4", write_film(tmp_path / "part.mp4", 250, keyframe_every=250), times=20)
    with unchecked():  # checking the shapes of so many frames would be most of the time
        predicted = onestage.predict("model", [str(film)], out=tmp_path / "out", batch_size=50, display=quiet)
    assert predicted.frames == len(detections_of(tmp_path / "out")) == 5_000
    assert len(memory) == 100
    early, late = np.median(memory[20:40]), np.median(memory[-20:])
    assert late - early < 8 << 20


def test_what_an_earlier_predict_wrote_below_a_folder_is_no_source_of_it(tmp_path: Path, quiet: Display) -> None:
    write_red_box(tmp_path / "a.png")
    for _ in range(2):
        predicted = onestage.predict("model", [str(tmp_path)], out=tmp_path / "predictions", display=quiet)
        assert predicted.images == 1
    onestage.predict("model", [str(tmp_path / "predictions")], out=tmp_path / "again", display=quiet)  # named itself
    assert [one["source"] for one in detections_of(tmp_path / "again")] == [str(tmp_path / "predictions/a.png")]


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, quiet: Display) -> None:
    write_red_box(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").symlink_to("gone.png")
    with pytest.raises(UserError, match="1 of 2 sources could not be read"):
        onestage.predict("model", [str(tmp_path / "in")], out=tmp_path / "out", display=quiet)
    assert f"passed over: {tmp_path / 'in/b.png'}: " in said(quiet)


def test_a_film_that_gives_no_frame_is_one_that_could_not_be_read(tmp_path: Path, quiet: Display) -> None:
    film = write_film(tmp_path / "film.mp4", 10)
    with pytest.raises(UserError, match="1 of 1 sources could not be read"):
        onestage.predict("model", [str(film)], out=tmp_path / "out", start_s=60.0, display=quiet)
    assert "film.mp4: no frame that was asked for could be read" in said(quiet)


def test_a_full_disk_leaves_nothing_cut_off(tmp_path: Path, quiet: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, image: np.ndarray) -> None:
        path.write_bytes(b"cut")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onestage.jobs.predict.write_image", full)
    image, out = write_red_box(tmp_path / "a.png"), tmp_path / "out"
    with pytest.raises(OSError, match="No space left on device") as raised:
        onestage.predict("model", [str(image)], out=out, formats=("csv", "voc"), display=quiet)
    assert raised.value.filename == str(out)
    assert not (out / "a.png").exists()
    assert [one["source"] for one in detections_of(out)] == [str(image)]
