"""The folder of results: its files, how a later run goes on with them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from collection_runs import run_settings

from onestage.errors import UserError
from onestage.inference.collection.plan import Piece, parts_of, pieces_of
from onestage.inference.collection.results import ResultFolder, RunSettings
from onestage.runtime.tiles import Tiling


def begun(folder: ResultFolder, model: Path, images: int = 3, **changed: Any) -> RunSettings:
    return folder.begin(run_settings(**changed), model, (Piece(f"{index}.jpg") for index in range(images)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"weights")
    return path


FOUND = {
    "source": "a.jpg",
    "width": 640,
    "height": 480,
    "error": None,
    "detections": [{"name": "wall", "label": 1, "score": 0.75, "box_xyxy": [1.5, 2.0, 3.0, 4.0]}],
}
EMPTY = {"source": "c.jpg", "width": 2, "height": 1, "error": None, "detections": []}
UNREADABLE = {"source": "b.jpg", "width": None, "height": None, "error": "b.jpg: cut off", "detections": None}


@pytest.mark.parametrize("rows", [[FOUND, UNREADABLE, EMPTY], [UNREADABLE], [EMPTY], []])
def test_every_file_has_the_same_columns_whatever_its_rows(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    ResultFolder.at(str(tmp_path)).write_part(17, rows, run_settings())
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000017.parquet"]
    table = pq.read_table(tmp_path / "part-00000017.parquet")
    assert table.to_pylist() == rows
    assert [f"{field.name} {field.type}" for field in table.schema] == [
        "source string",
        "width int32",
        "height int32",
        "error string",
        "detections list<element: struct<name: string, label: int32, score: float, box_xyxy: list<element: float>>>",
    ]
    about = json.loads(table.schema.metadata[b"onestage"])
    assert (about["detector"], about["categories"]["names"]) == ("ssd300-test_efficientnet", ["ball", "wall", "star"])
    assert "sources" not in about  # there may be many


def test_a_run_keeps_its_model_and_its_plan_whatever_becomes_of_both_outside(tmp_path: Path, model: Path) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    run = begun(folder, model, images=5, part_size=2)
    model.unlink()
    with folder.model(run.model_files) as path:
        assert (path.suffix, path.read_bytes()) == (".safetensors", b"weights")
    plan = folder.open_plan()
    parts = parts_of(plan, 2)
    assert [[piece.source for piece in pieces_of(plan, part)] for part in parts] == [
        ["0.jpg", "1.jpg"],
        ["2.jpg", "3.jpg"],
        ["4.jpg"],
    ]


@pytest.mark.parametrize(("images", "size"), [(1, 64), (64 * 256, 64), (1000 * 256, 1000), (3000 * 256, 2000)])
def test_parts_are_a_256th_of_the_collection_within_limits(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, images: int, size: int
) -> None:
    monkeypatch.setattr("onestage.inference.collection.results.write_plan", lambda pieces, file, progress: images)
    assert begun(ResultFolder.at(str(tmp_path / "out")), model).part_size == size


def test_the_same_run_goes_on_without_looking_for_images_again(tmp_path: Path, model: Path) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    first = begun(folder, model, part_size=2, tiling=Tiling(300, 40))

    def looked_for() -> Any:
        raise AssertionError("the plan is there already")
        yield

    asked = run_settings(tiling=Tiling(300, 40))
    assert folder.begin(asked, model, looked_for()) == first
    assert folder.begin(replace(asked, part_size=2), model, looked_for()) == first


def test_a_run_that_would_mix_results_is_refused(tmp_path: Path, model: Path) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    begun(folder, model, part_size=2)
    with pytest.raises(
        UserError, match=r'another detector \("ssd300-test_efficientnet", now "m2det"\); give what it had, or choose'
    ):
        begun(folder, model, detector="m2det")
    with pytest.raises(UserError, match=r"another part size \(2, now 3\)"):
        begun(folder, model, part_size=3)
    with pytest.raises(UserError, match="another tiling"):
        begun(folder, model, tiling=Tiling(300, 40))
    model.write_bytes(b"other weights")
    with pytest.raises(UserError, match="another model sha256"):
        begun(folder, model)


def test_folders_with_other_files_are_refused_and_a_plan_that_was_cut_off_is_made_again(
    tmp_path: Path, model: Path
) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    (tmp_path / "out/_collection").mkdir(parents=True)
    (tmp_path / "out/_collection/plan.parquet").write_bytes(b"PAR1 cut o")
    begun(folder, model, images=1)
    assert len(parts_of(folder.open_plan(), 64)) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other/detections.json").write_text("[]")
    with pytest.raises(UserError, match=r"other: holds something else \(detections\.json\); choose another --out"):
        begun(ResultFolder.at(str(tmp_path / "other")), model)


@pytest.mark.parametrize("text", ["", "[]", '{"part_size": "2"}', "{"])
def test_damaged_settings_are_named(tmp_path: Path, model: Path, text: str) -> None:
    folder = ResultFolder.at(str(tmp_path / "out"))
    begun(folder, model)
    (tmp_path / "out/_collection/settings.json").write_text(text)
    with pytest.raises(UserError, match=r"_collection/settings\.json: can't be read \(.+\); choose another --out"):
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


def test_an_empty_collection_is_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match="no image in what was named"):
        begun(ResultFolder.at(str(tmp_path / "out")), model, images=0)


def test_a_part_written_twice_is_one_file(tmp_path: Path) -> None:
    folder = ResultFolder.at(str(tmp_path))
    for rows in ([FOUND], [EMPTY]):
        folder.write_part(17, rows, run_settings())
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000017.parquet"]
    assert pq.read_table(tmp_path / "part-00000017.parquet").to_pylist() == [EMPTY]
