"""How a cluster is divided, and what a worker does in this process. Ray itself runs in tests/jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from _pytest.mark import ParameterSet
from collection_runs import run_settings
from folders import write_image
from small_model import trace_each_model_once, write_small_model

import onestage
from onestage.errors import UserError
from onestage.inference.collection.plan import Part, find_pieces, parts_of
from onestage.inference.collection.results import ResultFolder, RunSettings
from onestage.inference.collection.storage import Storage
from onestage.inference.collection.workers import Worker, Workers, _outcome, choose_workers, joined_cluster
from onestage.runtime.threads import cpu_threads
from onestage.selection import Selection


def case(machines: list[dict[str, float]], expected: Workers, **options: object) -> ParameterSet:
    return pytest.param(machines, options, expected)


@pytest.mark.parametrize(
    ("machines", "options", "expected"),
    [
        case([{"CPU": 2}], Workers(2, 1)),
        case([{"CPU": 1}], Workers(1, 1)),
        case([{"CPU": 8}, {"CPU": 5}, {}], Workers(13, 1)),
        case([{"CPU": 2}], Workers(2, 1), concurrency=2),
        case([{"CPU": 2}], Workers(1, 2), concurrency=1),
        case([{"CPU": 2}], Workers(4, 0.5), concurrency=4),
        # 6 workers of 5 cores would be 30 of 32, but of a machine's 8 only one has place: 4 cores, two a machine
        case([{"CPU": 8}] * 4, Workers(6, 4), concurrency=6),
        case([{"CPU": 16, "GPU": 4}, {"CPU": 64}], Workers(4, 4, 1)),
        case([{"CPU": 16, "GPU": 4}, {"CPU": 16, "GPU": 2}], Workers(6, 4, 1)),
        case([{"CPU": 16, "GPU": 1}], Workers(2, 8, 0.5), gpus_per_worker=0.5),
        case([{"CPU": 16, "GPU": 4}], Workers(3, 4, 1), concurrency=3),
        case([{"CPU": 16, "GPU": 4}], Workers(16, 1), device="cpu"),
        case([{"CPU": 16, "GPU": 4}], Workers(16, 1), gpus_per_worker=0.0),
        case([{"CPU": 2, "GPU": 4}], Workers(4, 0.5, 1)),
    ],
)
def test_workers_share_all_cores_and_gpus_and_fit_on_the_machines(
    machines: list[dict[str, float]], options: dict, expected: Workers
) -> None:
    assert choose_workers(machines, **options) == expected


@pytest.mark.parametrize(
    ("machines", "options", "message"),
    [
        ([{"CPU": 2}], {"concurrency": 0}, "--concurrency 0: give 1 worker or more"),
        ([{"CPU": 2}], {"gpus_per_worker": 1.0}, "--gpus-per-worker 1: no machine of the cluster has so many"),
        ([{"CPU": 2, "GPU": 2}], {"gpus_per_worker": 1.5}, "--gpus-per-worker 1.5: give 0, a fraction of 1"),
        ([{"CPU": 2, "GPU": 2}], {"gpus_per_worker": -1.0}, "--gpus-per-worker -1: give 0"),
        ([{"CPU": 2}], {"device": "cuda"}, "--device cuda: no machine of the cluster has a GPU"),
        ([{"CPU": 2}], {"device": "cuda:1"}, "--device cuda:1: with --engine ray cpu or cuda"),
        ([{}], {}, "no machine of the cluster offers a core"),
    ],
)
def test_a_division_that_no_cluster_allows_is_refused(
    machines: list[dict[str, float]], options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        choose_workers(machines, **options)


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        (Workers(1, 2), "1 worker with 2 cores"),
        (Workers(2, 1), "2 workers with 1 core"),
        (Workers(1200, 4, 0.5), "1,200 workers with 4 cores and 0.5 GPU"),
    ],
)
def test_the_division_is_reported_in_words(workers: Workers, words: str) -> None:
    assert str(workers) == words


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_one_line(address: str) -> None:
    with pytest.raises(UserError, match=rf"^--address {address}: can't be joined \(.+\)$"), joined_cluster(address):
        pass


@pytest.fixture(autouse=True)
def threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker sets them for its whole process."""
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    of_torch, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(of_torch)
    cv2.setNumThreads(of_opencv)


traced_once = pytest.fixture(scope="module", autouse=True)(trace_each_model_once)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def begun(model: Path, root: Path, selection: Selection | None = None) -> tuple[ResultFolder, RunSettings, list[Part]]:
    """A collection of five images, of which the second is broken, in parts of three."""
    for number in range(5):
        write_image(root / f"in/{number}.jpg", seed=number)
    (root / "in/1.jpg").write_text("<html>")
    folder, words = ResultFolder.at(str(root / "out")), (str(root / "in"),)
    asked = run_settings(sources=words, part_size=3, selection=selection or Selection(score_threshold=0.3))
    run = folder.begin(asked, model, find_pieces(words, asked.columns))
    return folder, run, parts_of(folder.open_plan(), 3)


def test_a_worker_writes_a_file_for_each_part_and_counts_its_rows(model: Path, tmp_path: Path) -> None:
    folder, run, parts = begun(model, tmp_path)
    worker = Worker(folder, run, Storage(), batch_size=2, device="cpu", cores=1)
    first, second = (worker.do(part) for part in parts)
    assert (first["images"], first["unreadable"]) == (3, 1)
    assert (second["images"], second["unreadable"]) == (2, 0)
    table = pq.read_table(tmp_path / "out")
    assert table["source"].to_pylist() == [f"{tmp_path}/in/{number}.jpg" for number in range(5)]
    found = [row for row in table["detections"].to_pylist() if row is not None]
    assert len(found) == 4
    assert first["detections"] + second["detections"] == sum(map(len, found)) > 20


def test_a_worker_keeps_to_its_cores(model: Path, tmp_path: Path) -> None:
    folder, run, _ = begun(model, tmp_path)
    Worker(folder, run, Storage(), batch_size=2, device="cpu", cores=3)
    assert torch.get_num_threads() == 3
    assert cpu_threads() == 3  # what the engines of exported files take


def test_a_worker_takes_exported_files(model: Path, tmp_path: Path) -> None:
    onestage.export_model(model, out=tmp_path / "m.onnx")
    exported = onestage.load(tmp_path / "m.onnx")
    exported.selection = replace(exported.selection, score_threshold=0.3)
    folder, run, parts = begun(tmp_path / "m.onnx", tmp_path, exported.selection)
    done = Worker(folder, run, Storage(), batch_size=2, device="cpu", cores=1).do(parts[0])
    assert (done["images"], done["unreadable"]) == (3, 1)
    expected = exported(tmp_path / "in/0.jpg")
    row = pq.read_table(tmp_path / "out/part-00000000.parquet").to_pylist()[0]
    assert len(expected) > 5
    np.testing.assert_allclose([d["box_xyxy"] for d in row["detections"]], expected.boxes_xyxy, atol=1e-3)


def test_a_failure_of_a_worker_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray hands over what its actor raised with the traceback of that process; of it, one line is told."""
    cause = ValueError("not enough values\nto unpack")
    failure = ray.exceptions.RayTaskError("Worker.do", "Traceback ...\n  File ...", cause).as_instanceof_cause()

    def fail(_ready: object) -> None:
        raise failure

    monkeypatch.setattr(ray, "get", fail)
    with pytest.raises(UserError) as told:
        _outcome(ray.ObjectRef.nil(), Part(0, 0), ResultFolder.at(str(tmp_path)))
    assert str(told.value) == (
        "ValueError: not enough values; what is done is kept, and the same command goes on with the rest"
    )
