"""What an actor does, in this process. Ray itself runs in tests/jobs/test_predict_collection.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from folders import write_image
from small_model import write_small_model

import onestage
from onestage.inference.collection.engine import PartDone, Work, Worker
from onestage.inference.collection.plan import Columns, Part, find_pieces, parts_of
from onestage.inference.collection.results import ResultFolder
from onestage.inference.collection.storage import Storage
from onestage.postprocess import Selection
from onestage.runtime.session import cores


@pytest.fixture(autouse=True)
def threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An actor sets them for its whole process."""
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    of_torch, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(of_torch)
    cv2.setNumThreads(of_opencv)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def begun(model: Path, root: Path, selection: Selection | None = None) -> tuple[Work, list[Part]]:
    """A collection of five images, of which the second is broken, in parts of three."""
    for number in range(5):
        write_image(root / f"in/{number}.jpg", seed=number)
    (root / "in/1.jpg").write_text("<html>")
    folder, words = ResultFolder.at(str(root / "out")), [str(root / "in")]
    settings = folder.begin({"sources": words}, model, find_pieces(words, Columns()), part_size=3)
    selection = selection or Selection(score_threshold=0.3)
    work = Work(folder, settings, Storage(), Columns(), selection, batch_size=2)
    return work, parts_of(folder.open_plan(), 3)


def do(worker: Worker, part: Part) -> PartDone:
    done = worker({name: np.array([value]) for name, value in asdict(part).items()})
    return PartDone(**{name: values.tolist()[0] for name, values in done.items()})


def test_a_worker_writes_a_file_a_part_and_says_what_is_in_it(model: Path, tmp_path: Path) -> None:
    work, parts = begun(model, tmp_path)
    worker = Worker(work, "cpu", threads=1)
    first, second = (do(worker, part) for part in parts)
    assert (first.part, first.images, first.unreadable, first.failure) == (0, 3, 1, "")
    assert (second.part, second.images, second.unreadable, second.failure) == (1, 2, 0, "")
    table = pq.read_table(tmp_path / "out")
    assert table["source"].to_pylist() == [f"{tmp_path}/in/{number}.jpg" for number in range(5)]
    found = [row for row in table["detections"].to_pylist() if row is not None]
    assert len(found) == 4
    assert first.detections + second.detections == sum(map(len, found)) > 20


def test_a_worker_keeps_to_its_cores(model: Path, tmp_path: Path) -> None:
    Worker(begun(model, tmp_path)[0], "cpu", threads=3)
    assert torch.get_num_threads() == 3
    assert cores() == 3  # what the engines of exported files take


def test_a_worker_takes_exported_files(model: Path, tmp_path: Path) -> None:
    onestage.export_model(model, out=tmp_path / "m.onnx")
    exported = onestage.load(tmp_path / "m.onnx")
    selection = replace(exported.selection, score_threshold=0.3)
    work, parts = begun(tmp_path / "m.onnx", tmp_path, selection)
    assert do(Worker(work, "cpu", threads=1), parts[0]).unreadable == 1
    exported.selection = selection
    expected = exported(tmp_path / "in/0.jpg")
    row = pq.read_table(tmp_path / "out/part-00000000.parquet").to_pylist()[0]
    assert len(expected) > 5
    np.testing.assert_allclose([d["box_xyxy"] for d in row["detections"]], expected.boxes_xyxy, atol=1e-3)


def test_a_failure_is_said_in_one_line_and_leaves_no_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, parts = begun(model, tmp_path)
    worker = Worker(work, "cpu", threads=1)

    def out_of_memory(*_: object) -> None:
        raise MemoryError("no more\nof it")

    monkeypatch.setattr(worker._predictor, "detect", out_of_memory)
    done = do(worker, parts[0])
    assert (done.images, done.failure) == (0, "MemoryError: no more")
    assert "out_of_memory" in done.trace
    assert work.folder.parts_done() == set()


def test_a_part_that_killed_five_workers_is_not_tried_again(model: Path, tmp_path: Path) -> None:
    work, parts = begun(model, tmp_path)
    worker = Worker(work, "cpu", threads=1)
    for _ in range(5):
        work.folder.begin_part(1)  # and the worker dies
    assert do(worker, parts[0]).failure == ""
    failure = do(worker, parts[1]).failure
    assert failure.startswith(f"5 workers died of part 1 ({tmp_path}/in/3.jpg to {tmp_path}/in/4.jpg): too little")
    work.folder.forget_tries()  # as a new run does
    assert do(worker, parts[1]).failure == ""
