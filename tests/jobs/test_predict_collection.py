"""`onestage predict --engine ray` on this machine: its results, also when workers or the command die."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from folders import write_image
from missing_package import remove_package
from object_store import object_store
from rich.console import Console
from small_model import write_small_model

import onestage
from onestage import cli
from onestage.errors import UserError
from onestage.inference.collection.workers import joined_cluster
from onestage.terminal import Display

IMAGES = 24
THRESHOLD = 0.3


@pytest.fixture(scope="module")
def ray_of_this_machine() -> Iterator[None]:
    """One Ray for the tests of the module; the workers that a test starts in it end with the test."""
    with joined_cluster(None):
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        write_image(folder / f"{number % 3}" / f"{number:02}.jpg", (60 + number, 80), seed=number)
    return folder


@pytest.fixture
def quiet() -> Display:
    return Display(Console(file=io.StringIO(), soft_wrap=True))


def printed(display: Display) -> str:
    assert isinstance(display.console.file, io.StringIO)
    return display.console.file.getvalue()


def names_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.jpg"))


def sources_of(out: Path) -> list[str]:
    return sorted(pq.read_table(out, columns=["source"])["source"].to_pylist())


def wait_for(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def workers_below(process: psutil.Process) -> list[psutil.Process]:
    """The processes of Ray's actors that predict."""
    found = []
    for child in process.children(recursive=True):
        try:
            if "".join(child.cmdline()).startswith("ray::Worker"):
                found.append(child)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


@pytest.mark.usefixtures("ray_of_this_machine")
def test_the_rows_are_what_the_plain_predictor_finds(model: Path, images: Path, tmp_path: Path, quiet: Display) -> None:
    """Images on a disk, in a Parquet file and in object storage; one is broken; the results go to the storage."""
    names = names_in(images)[:9]
    contents = [Path(name).read_bytes() for name in names]
    (tmp_path / "broken.jpg").write_text("<html>")
    (tmp_path / "list.txt").write_text("\n".join([*names[:3], f"{tmp_path}/broken.jpg"]))
    rows = [{"bytes": content, "path": f"row {number}"} for number, content in enumerate(contents[3:6])]
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    with object_store() as store:
        store.objects |= {f"street/in/{number}.jpg": content for number, content in enumerate(contents[6:])}
        done = onestage.predict_collection(
            model,
            [f"@{tmp_path}/list.txt", str(tmp_path / "a.parquet"), store.uri("street/in")],
            out=store.uri("street/found"),
            column="image.bytes",
            source_column="image.path",
            score_threshold=THRESHOLD,
            concurrency=1,
            display=quiet,
        )
        file = store.objects["street/found/part-00000000.parquet"]
    assert (done.folder, done.images, done.done_before, done.unreadable) == ("s3://street/found", 10, 0, 1)
    assert "10 images (1 unreadable)" in printed(quiet)
    found = {row["source"]: row for row in pq.read_table(io.BytesIO(file)).to_pylist()}
    sources = [*names[:3], "row 0", "row 1", "row 2", *(f"s3://street/in/{number}.jpg" for number in range(3))]
    assert set(found) == {*sources, f"{tmp_path}/broken.jpg"}
    assert found[f"{tmp_path}/broken.jpg"]["error"].startswith(f"{tmp_path}/broken.jpg: not a JPEG, PNG")
    predictor = onestage.load(model, device="cpu")
    predictor.selection = replace(predictor.selection, score_threshold=THRESHOLD)
    expected = predictor(names)
    assert sum(map(len, expected)) == done.detections > 50
    for source, one in zip(sources, expected, strict=True):
        rows = found[source]["detections"]
        assert [row["name"] for row in rows] == [one.name_of(label) for label in one.labels.tolist()]
        np.testing.assert_allclose([row["score"] for row in rows], one.scores, atol=1e-5)
        np.testing.assert_allclose([row["box_xyxy"] for row in rows], one.boxes_xyxy, atol=1e-3)


@pytest.mark.usefixtures("ray_of_this_machine")
def test_a_part_that_goes_on_killing_its_workers_ends_the_run_with_one_line(
    model: Path, images: Path, tmp_path: Path, quiet: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image at a web address kills whoever asks for it."""
    monkeypatch.setattr("onestage.inference.collection.workers.TRIES_OF_A_PART", 2)  # not 5: a start takes seconds
    deaths = []

    class Deadly(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            deaths.extend(worker.kill() for worker in workers_below(psutil.Process()))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Deadly) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.jpg"
        (tmp_path / "list.txt").write_text("\n".join([*names_in(images)[:2], address]))
        with pytest.raises(UserError) as raised:
            onestage.predict_collection(
                model, [f"@{tmp_path}/list.txt"], out=tmp_path / "out", part_size=2, concurrency=1, display=quiet
            )
        server.shutdown()
    assert len(deaths) == 2
    assert str(raised.value).startswith(f"2 workers died of part 1 ({address} to {address}): too little memory")
    assert str(raised.value).endswith("what is done is kept, and the same command goes on with the rest")
    assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / "out").glob("part-*")] == ["part-00000000.parquet"]


@pytest.mark.usefixtures("ray_of_this_machine")
def test_neither_a_killed_worker_nor_the_killed_command_loses_or_doubles_a_row(
    model: Path, images: Path, tmp_path: Path, quiet: Display
) -> None:
    """First the worker dies, then the process of the run; the same command goes on where it was."""

    def parts() -> int:
        return len(list(tmp_path.glob("part-*.parquet")))

    options = ["--concurrency", "1", "--part-size", "4", "--batch-size", "2", "--out", str(tmp_path)]
    cluster = ["--engine", "ray", "--address", ray.get_runtime_context().gcs_address]
    command = [sys.executable, "-m", "onestage", "predict", str(model), str(images), *cluster, *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_for(parts)
        killed = workers_below(psutil.Process())[0]
        killed.kill()
        wait_for(lambda: [one for one in workers_below(psutil.Process()) if one != killed])
        without_it = parts()
        wait_for(lambda: parts() > without_it)  # of the worker that took its place
        workers = workers_below(psutil.Process())
        run.send_signal(signal.SIGKILL)
    assert workers
    assert killed not in workers
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    before = parts()
    assert 2 <= before < IMAGES // 4
    done = onestage.predict_collection(model, [str(images)], out=tmp_path, batch_size=2, concurrency=1, display=quiet)
    assert sources_of(tmp_path) == names_in(images)
    assert parts() == IMAGES // 4
    assert done.done_before == 4 * before
    assert f"{IMAGES} images in 6 parts, {IMAGES - 4 * before} images left to do" in printed(quiet)


def test_a_collection_that_is_done_needs_no_cluster(
    model: Path, images: Path, tmp_path: Path, quiet: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_cluster(address: str | None) -> None:
        raise AssertionError("there is nothing to do")

    monkeypatch.setattr("onestage.inference.collection.workers.joined_cluster", no_cluster)
    with pytest.raises(AssertionError, match="there is nothing to do"):
        onestage.predict_collection(model, [str(images)], out=tmp_path, display=quiet)
    (tmp_path / "part-00000000.parquet").touch()
    done = onestage.predict_collection(model, [str(images)], out=tmp_path, display=quiet)
    assert (done.images, done.done_before, done.unreadable, done.detections) == (IMAGES, IMAGES, 0, 0)
    with pytest.raises(UserError, match="holds results of a run with another selection"):
        onestage.predict_collection(model, [str(images)], out=tmp_path, nms="soft", display=quiet)


def test_without_ray_the_error_names_the_package_to_install(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_package(monkeypatch, "ray", importers="onestage.inference.collection.workers")
    with pytest.raises(UserError, match=r"^ray is missing: pip install 'onestage\[ray\]'$"):
        onestage.predict_collection(model, [str(images)], out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "ray", "--track"], "--track: not with --engine ray, which takes images and writes Parquet"),
        (["--engine", "ray", "--every", "2"], "--every: not with --engine ray"),
        (["--engine", "ray", "--from", "1"], "--from: not with --engine ray"),
        (["--engine", "ray", "--to", "2"], "--to: not with --engine ray"),
        (["--engine", "ray", "--write", "csv"], "--write: not with --engine ray"),
        (["--engine", "ray", "--batch-size", "0"], "batch size 0: give 1 or more"),
        (["--address", "auto"], "--address: only with --engine ray; add that, or leave it out"),
        (["--concurrency", "2"], "--concurrency: only with --engine ray"),
        (["--gpus-per-worker", "0"], "--gpus-per-worker: only with --engine ray"),
        (["--column", "image"], "--column: only with --engine ray"),
        (["--source-column", "path"], "--source-column: only with --engine ray"),
        (["--part-size", "9"], "--part-size: only with --engine ray"),
    ],
)
def test_options_of_the_other_engine_are_refused_in_one_line(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(model), str(images), "--out", str(tmp_path / "out"), *options])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"onestage: {message}")
    assert not (tmp_path / "out").exists()
