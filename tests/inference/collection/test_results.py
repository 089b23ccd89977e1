"""The folder of results: what a reader finds, what a later run goes on with, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from onestage.errors import UserError
from onestage.inference.collection.part import Outcome
from onestage.inference.collection.plan import Piece, parts_of, pieces_of
from onestage.inference.collection.results import ResultFolder, result_file
from onestage.runtime.decode import ImageError
from onestage.structures import Detections

NAMES = ("cat", "dog")
ASKED = {"detector": "ssd300-vgg16", "sources": ["/a", "/b"], "names": NAMES}


def begun(folder: ResultFolder, model: Path, images: int = 3, part_size: int | None = None, **changed: Any) -> dict:
    pieces = (Piece(f"{index}.jpg") for index in range(images))
    return folder.begin({**ASKED, **changed}, model, pieces, part_size)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"weights")
    return path


def test_a_row_says_what_was_found_or_why_nothing_could_be(tmp_path: Path) -> None:
    boxes = torch.tensor([[1.5, 2.0, 3.0, 4.0], [0.0, 0.0, 9.0, 9.0]])
    found = Detections(boxes, torch.tensor([0.75, 0.5]), torch.tensor([1, 0]), NAMES)
    outcomes = [
        Outcome("a.jpg", (480, 640), found),
        Outcome("b.jpg", None, ImageError("b.jpg: cut\noff")),
        Outcome("c.jpg", (1, 2), found[[]]),
    ]
    (tmp_path / "x.parquet").write_bytes(result_file(outcomes, NAMES, {"detector": "ssd300-vgg16"}))
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.to_pylist() == [
        {
            "source": "a.jpg",
            "width": 640,
            "height": 480,
            "error": None,
            "detections": [
                {"name": "dog", "label": 1, "score": 0.75, "box_xyxy": [1.5, 2.0, 3.0, 4.0]},
                {"name": "cat", "label": 0, "score": 0.5, "box_xyxy": [0.0, 0.0, 9.0, 9.0]},
            ],
        },
        {"source": "b.jpg", "width": None, "height": None, "error": "b.jpg: cut off", "detections": None},
        {"source": "c.jpg", "width": 2, "height": 1, "error": None, "detections": []},
    ]
    assert json.loads(table.schema.metadata[b"onestage"]) == {"detector": "ssd300-vgg16"}


@pytest.mark.parametrize("unreadable", [0, 3])
def test_files_without_a_detection_have_the_same_columns(unreadable: int) -> None:
    outcomes = [Outcome("a", None, ImageError("a: gone"))] * unreadable
    table = pq.read_table(pa.BufferReader(result_file(outcomes, NAMES, {})))
    assert table.num_rows == unreadable
    element = table.schema.field("detections").type.value_type
    assert [field.name for field in element] == ["name", "label", "score", "box_xyxy"]


def test_a_run_keeps_its_model_and_its_plan_whatever_becomes_of_both_outside(tmp_path: Path, model: Path) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    settings = begun(folder, model, images=5, part_size=2)
    model.unlink()
    with folder.model(settings["model_files"]) as path:
        assert (path.suffix, path.read_bytes()) == (".safetensors", b"weights")
    plan = folder.open_plan()
    parts = parts_of(plan, settings["part_size"])
    assert [[piece.source for piece in pieces_of(plan, part)] for part in parts] == [
        ["0.jpg", "1.jpg"],
        ["2.jpg", "3.jpg"],
        ["4.jpg"],
    ]


@pytest.mark.parametrize(("images", "size"), [(1, 64), (64 * 256, 64), (1000 * 256, 1000), (3000 * 256, 2000)])
def test_parts_are_a_256th_of_the_collection_within_limits(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, images: int, size: int
) -> None:
    monkeypatch.setattr("onestage.inference.collection.results.write_plan", lambda pieces, file: images)
    assert begun(ResultFolder.at(str(tmp_path / "out")), model)["part_size"] == size


def test_the_same_run_goes_on_without_looking_for_images_again(tmp_path: Path, model: Path) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    first = begun(folder, model, part_size=2)

    def looked_for() -> Any:
        raise AssertionError("the plan is there already")
        yield

    assert folder.begin(ASKED, model, looked_for(), None) == first
    assert folder.begin(ASKED, model, looked_for(), 2) == first


def test_a_run_that_would_mix_results_is_refused(tmp_path: Path, model: Path) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    begun(folder, model, part_size=2)
    with pytest.raises(
        UserError, match=r'another detector \("ssd300-vgg16", now "m2det"\); give what it had, or choose'
    ):
        begun(folder, model, detector="m2det")
    with pytest.raises(UserError, match=r"another part size \(2, now 3\)"):
        begun(folder, model, part_size=3)
    model.write_bytes(b"other weights")
    with pytest.raises(UserError, match="another model sha256"):
        begun(folder, model)


def test_folders_with_other_files_are_refused_and_a_plan_that_was_cut_off_is_made_again(
    tmp_path: Path, model: Path
) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    (tmp_path / "out/_collection").mkdir(parents=True)
    (tmp_path / "out/_collection/plan.parquet").write_bytes(b"PAR1 cut o")
    settings = begun(folder, model, images=1)
    assert len(parts_of(folder.open_plan(), settings["part_size"])) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other/detections.json").write_text("[]")
    with pytest.raises(UserError, match=r"other: holds something else \(detections\.json\); choose another --out"):
        begun(ResultFolder.at(str(tmp_path / "other")), model)


@pytest.mark.parametrize("text", ["", "[]", '{"part_size": "2"}', "{"])
def test_damaged_settings_are_named(tmp_path: Path, model: Path, text: str) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    begun(folder, model)
    (tmp_path / "out/_collection/settings.json").write_text(text)
    with pytest.raises(UserError, match=r"_collection/settings\.json: (damaged|can't be read)"):
        begun(folder, model)


def test_a_damaged_plan_is_named(tmp_path: Path, model: Path) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    begun(folder, model)
    (tmp_path / "out/_collection/plan.parquet").write_bytes(b"PAR1 cut o")
    with pytest.raises(UserError, match=r"_collection/plan\.parquet: damaged \(.+\); choose another --out"):
        folder.open_plan()


@pytest.mark.parametrize("size", [0, 100_001])
def test_part_sizes_that_make_no_sense_are_refused(tmp_path: Path, model: Path, size: int) -> None:
    with pytest.raises(UserError, match=rf"--part-size {size}: give 1 to 100,000 images"):
        begun(ResultFolder.at(str(tmp_path / "out")), model, part_size=size)


def test_an_empty_collection_is_said(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match="no image in what was named"):
        begun(ResultFolder.at(str(tmp_path / "out")), model, images=0)


def test_a_part_written_twice_is_one_file(tmp_path: Path) -> None:
    folder = ResultFolder.at(str(tmp_path))
    for content in (b"first", b"second"):
        assert folder.begin_part(17) == 1
        folder.end_part(17, pa.py_buffer(content))
    assert folder.parts_done() == {17}
    assert (tmp_path / "part-00000017.parquet").read_bytes() == b"second"
    assert list((tmp_path / "_collection").iterdir()) == []


def test_it_is_counted_how_often_a_part_was_begun_in_a_run(tmp_path: Path) -> None:
    folder = ResultFolder.at(str(tmp_path))
    assert [folder.begin_part(3) for _ in range(3)] == [1, 2, 3]
    assert folder.begin_part(4) == 1
    folder.forget_tries()
    assert folder.begin_part(3) == 1
