"""What a run reports: its rows, also after a resume, and the images that experiment logs get."""

from __future__ import annotations

import errno
import io
import itertools
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lives import at_event
from red_box import red_box
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from onestage.data.table import Table, TableBuilder
from onestage.drawing import FIRST_COLORS
from onestage.errors import UserError
from onestage.runtime.decode import decode_image
from onestage.structures import Batch, Categories, Detections, Targets
from onestage.terminal import Display, TrainingStage
from onestage.training import journal
from onestage.training.experiment_logs import ExperimentLog, ExperimentLogs, Images, start_logs
from onestage.training.journal import (
    Journal,
    LogRow,
    append_rows,
    batch_images,
    begin_log,
    detection_images,
    read_log,
)
from onestage.training.recipe import Recipe
from onestage.training.saved_state import Position
from onestage.training.step import StepLosses
from onestage.training.watch import Watch
from onestage.whole_file import write_whole

BLUE, RED = range(2)
CATEGORIES = Categories.from_names(["blue", "red"])
WHITE = (255, 255, 255)


def batch_of(count: int, size: int = 320, objects: int = 1) -> Batch:
    """Black images, each with a red object of 100 x 50 pixels at (40, 60)."""
    targets = Targets(
        torch.tensor([[40.0, 60.0, 140.0, 110.0]] * objects).reshape(-1, 4),
        torch.full((objects,), RED),
        torch.zeros(objects, dtype=torch.bool),
    )
    images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    return Batch(images, [targets] * count, torch.arange(count))


def table_of(folder: Path, *images: np.ndarray, boxes_xyxy: tuple[tuple[float, ...], ...] = ()) -> Table:
    """PNG files, each annotated with the red objects at `boxes_xyxy`."""
    builder = TableBuilder(folder, "test", "voc")
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f"{index}.png"), image[..., ::-1])
        builder.add(
            path=f"{index}.png",
            image_id=f"{index:03}",
            size_hw=image.shape[:2],
            boxes_xyxy=np.array(boxes_xyxy, dtype=np.float32).reshape(-1, 4),
            labels=[RED] * len(boxes_xyxy),
            ignored=[False] * len(boxes_xyxy),
        )
    return builder.build(CATEGORIES)


def found(*boxes_xyxy: tuple[float, ...], scores: tuple[float, ...] = (), label: int = BLUE) -> Detections:
    boxes = torch.tensor(boxes_xyxy, dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor(scores), torch.full((len(boxes),), label), CATEGORIES.names)


def edges(image: np.ndarray, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The rectangle that a colour's pixels fill: x0, y0, x1, y1."""
    rows, columns = np.nonzero((image == color).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def has(image: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((image == color).all(axis=2).any())


# --- log.csv


def row_of(step: int, map_area: float | None = None) -> LogRow:
    return {
        "step": step,
        "epoch": step / 4,
        "images": step * 8,
        "lr": 1e-3,
        "loss": 3.0,
        "classification_loss": 2.0,
        "box_loss": 1.0,
        "images_per_second": 5.5,
        "seconds": step * 1.5,
        "map_area": map_area,
    }


def test_the_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path, rows = tmp_path / "log.csv", [row_of(10), row_of(20, map_area=0.25)]
    assert read_log(path) == []
    begin_log(path)
    assert read_log(path) == []
    for one in rows:
        append_rows(path, [one])
    assert read_log(path) == rows
    assert path.read_text().splitlines()[:2] == [
        "step,epoch,images,lr,loss,classification_loss,box_loss,images_per_second,seconds,map_area",
        "10,2.5,80,0.001,3,2,1,5.5,15,",
    ]


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append_rows(path, [row_of(step, map_area=1 / 3) for step in (10, 12_345_678, 20_000_000)])
    before = path.read_text().splitlines()
    begin_log(path, resume_at_step=12_345_678)
    assert path.read_text().splitlines() == before[:3]
    append_rows(path, [row_of(12_345_680)])
    assert [one["step"] for one in read_log(path)] == [10, 12_345_678, 12_345_680]


REMAINS = ["", "3", "30,7.5,2", "30,7.5,240,0.001,3,2,1,5.5,4", "\0" * 4096, "\0" * 200_000 + "\n", "a,b\n", "\xff,\n"]


@pytest.mark.parametrize("rest", REMAINS)
def test_log_torn_in_a_row_keeps_the_others(tmp_path: Path, rest: str) -> None:
    path, rows = tmp_path / "log.csv", [row_of(10), row_of(20, map_area=0.25)]
    append_rows(path, rows)
    with path.open("a", encoding="latin-1", newline="") as file:
        file.write(rest)
    assert read_log(path) == rows
    begin_log(path, resume_at_step=30)
    append_rows(path, [row_of(40)])
    assert read_log(path) == [*rows, row_of(40)]


def test_log_torn_in_its_header_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for text in ("step,epo", "\n", "a,b\n1,2\n"):
        path.write_text(text)
        begin_log(path, resume_at_step=10)
        append_rows(path, [row_of(20)])
        assert read_log(path) == [row_of(20)]


class DeathError(BaseException):
    """Ends a process at once, as nearly as it can be done from inside."""


def test_log_emptied_by_no_death_whichever_file_operation_was_the_last(tmp_path: Path) -> None:
    def die() -> None:
        raise DeathError

    path, rows = tmp_path / "log.csv", [row_of(10), row_of(20)]
    append_rows(path, rows)
    for moment in itertools.count(1):
        with at_event(moment, die) as events, suppress(DeathError):
            begin_log(path, resume_at_step=20)
        assert read_log(path) == rows
        if len(events) < moment:
            break
    assert moment > 3


def test_log_disk_full_is_one_line_with_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "log.csv").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"log\.csv: can't be written \(No space left on device\); make room") as caught:
        append_rows(tmp_path / "log.csv", [row_of(10)])
    assert "\n" not in str(caught.value)
    begin_log(tmp_path / "log.csv")  # takes the link's place
    append_rows(tmp_path / "log.csv", [row_of(10)])
    assert read_log(tmp_path / "log.csv") == [row_of(10)]


def test_disk_full_an_error_of_a_file_that_is_written_whole_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "metrics.json"
    file.write_text("before")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=rf"^\[Errno 28\] No space left on device: '{file}'$"):
        write_whole(file, b"after")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_a_new_run_begins_a_new_log(tmp_path: Path) -> None:
    append_rows(tmp_path / "log.csv", [row_of(10)])
    begin_log(tmp_path / "log.csv")
    assert read_log(tmp_path / "log.csv") == []


# --- drawings


def test_at_most_eight_images_of_a_batch_are_drawn_at_their_size_with_their_objects() -> None:
    names = CATEGORIES.names
    images = batch_images(batch_of(9), names)
    assert list(images) == ["1", "2", "3", "4", "5", "6", "7", "8"]
    for image in images.values():
        assert image.shape == (320, 320, 3)
        x0, _, x1, y1 = edges(image, FIRST_COLORS[RED])
        assert (x0, x1, y1) == (40, 140, 110)  # its tag stands above it
    assert list(batch_images(batch_of(1), names)) == ["1"]
    (empty,) = batch_images(batch_of(1, objects=0), names).values()
    assert not empty.any()


def test_drawing_leaves_the_batch_as_it_was() -> None:
    batch = batch_of(2)
    batch_images(batch, CATEGORIES.names)
    assert not batch.images.any()


def test_truth_stands_left_of_what_was_found(tmp_path: Path) -> None:
    table = table_of(tmp_path, red_box(400, 330, (40, 60, 140, 110)), boxes_xyxy=((40, 60, 140, 110),))
    (image,) = detection_images(table, [found((50, 70, 150, 120), scores=(0.9,))]).values()
    assert image.shape == (330, 400 + 8 + 400, 3)
    left, gap, right = image[:, :400], image[:, 400:408], image[:, 408:]
    assert (gap == WHITE).all()
    x0, _, x1, y1 = edges(left, FIRST_COLORS[RED])
    assert (x0, x1, y1) == (40, 140, 110)
    x0, _, x1, y1 = edges(right, FIRST_COLORS[BLUE])
    assert (x0, x1, y1) == (50, 150, 120)
    assert not has(left, FIRST_COLORS[BLUE])
    assert not has(right, FIRST_COLORS[RED])


def test_only_detections_that_are_a_little_sure_are_drawn(tmp_path: Path) -> None:
    table = table_of(tmp_path, red_box(400, 330, (0, 0, 1, 1)))
    boxes = ((50.0, 70.0, 150.0, 120.0), (200.0, 200.0, 260.0, 260.0))
    (image,) = detection_images(table, [found(*boxes, scores=(0.31, 0.3))]).values()
    x0, _, x1, y1 = edges(image[:, 408:], FIRST_COLORS[BLUE])
    assert (x0, x1, y1) == (50, 150, 120)


def test_large_images_are_drawn_smaller_with_their_boxes_in_place(tmp_path: Path) -> None:
    table = table_of(tmp_path, red_box(1280, 960, (200, 400, 600, 800)), boxes_xyxy=((200, 400, 600, 800),))
    (image,) = detection_images(table, [found((200, 400, 600, 800), scores=(0.9,))]).values()
    assert image.shape == (480, 640 + 8 + 640, 3)  # by half
    for half, color in ((image[:, :640], FIRST_COLORS[RED]), (image[:, 648:], FIRST_COLORS[BLUE])):
        x0, _, x1, y1 = edges(half, color)
        assert (x0, x1, y1) == (100, 300, 400)


@pytest.mark.parametrize(
    ("size_wh", "drawn_wh"),
    [
        ((80, 80), (320, 320)),  # four times
        ((20, 10), (80, 40)),  # no more
        ((6400, 1), (2560, 4)),  # a tenth, then four times: a line of pixels stays one
    ],
)
def test_small_and_long_images_are_enlarged_a_little(
    size_wh: tuple[int, int], drawn_wh: tuple[int, int], tmp_path: Path
) -> None:
    table = table_of(tmp_path, red_box(*size_wh, (0, 0, 1, 1)))
    (image,) = detection_images(table, [found()]).values()
    assert image.shape == (drawn_wh[1], 2 * drawn_wh[0] + 8, 3)


def test_the_first_eight_images_of_the_test_set_are_shown_under_their_names(tmp_path: Path) -> None:
    table = table_of(tmp_path, *[red_box(20, 20, (0, 0, 5, 5))] * 9)
    names = list(detection_images(table, [found()] * 9))
    assert names == ["1 000", "2 001", "3 002", "4 003", "5 004", "6 005", "7 006", "8 007"]
    assert detection_images(table_of(tmp_path), []) == {}


# --- the journal


class Recorder:
    """An experiment log that only takes down what it gets."""

    title, run_id = "recorder", None

    def __init__(self) -> None:
        self.numbers: list[tuple[Mapping[str, float], int]] = []
        self.shown: list[tuple[str, list[str], int]] = []
        self.ends: list[bool] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.numbers.append((values, step))

    def images(self, title: str, images: Images, step: int) -> None:
        self.shown.append((title, list(images), step))

    def close(self, failed: bool) -> None:
        self.ends.append(failed)


def taken(classification: float, box: float) -> StepLosses:
    return StepLosses({"classification": classification, "box": box}, positives=4.0, gradient_norm=1.0)


class Run:
    """A run of two processes that stands at a position, the journal of rank 0, and what that writes to."""

    def __init__(self, folder: Path, *logs: ExperimentLog, position: Position | None = None) -> None:
        self.text = io.StringIO()
        display = Display(Console(file=self.text, width=200))
        self.position = position or Position()
        table = table_of(folder, red_box(400, 330, (40, 60, 140, 110)), boxes_xyxy=((40, 60, 140, 110),))
        watch = Watch(Recipe(steps=100), table, 100, usual=None, report=display.say)
        self.log = folder / "log.csv"
        stage = self.stage = TrainingStage(display.show)
        self.journal = Journal(stage, watch, ExperimentLogs(logs, print), self.log, self.position, table)

    def step(self, classification: float, box: float) -> None:
        self.take(taken(classification, box))

    def take(self, losses: StepLosses) -> None:
        self.journal.step(losses, batch_of(2), 0.0, 0.5)
        self.position.step += 1
        self.position.images += 4
        self.position.seconds += 0.5

    def row(self) -> None:
        self.journal.row(self.position, 0.5, 0.25, 0.125, None)


def test_steps_become_a_row_for_the_file_the_experiment_logs_and_the_screen(tmp_path: Path) -> None:
    recorder = Recorder()
    run = Run(tmp_path, recorder)
    run.step(2.0, 1.0)
    run.step(math.nan, 1.0)  # skipped: it counts as work, not as loss
    run.step(3.0, 2.0)
    run.row()
    run.row()  # nothing happened since
    run.step(1.0, 1.0)
    run.row()
    rows = read_log(run.log)
    assert [(row["step"], row["loss"], row["images_per_second"]) for row in rows] == [(3, 4.0, 8.0), (4, 2.0, 8.0)]
    assert recorder.numbers[0] == (
        {
            "train/epoch": 0.5,
            "train/images": 12,
            "train/lr": 0.125,
            "train/loss": 4.0,
            "train/classification_loss": 2.5,
            "train/box_loss": 1.5,
            "train/images_per_second": 8.0,
            "train/seconds": 1.5,
        },
        3,
    )
    assert [step for _, step in recorder.numbers] == [3, 4]
    assert run.stage.about == (
        "epoch 0.5/2.0  step 4  loss 2.000 (classification 1.000 box 1.000)  8.0 images/s  lr 0.12"
    )


def test_a_row_holds_the_means_of_the_steps_that_were_taken_and_the_images_of_all_processes(tmp_path: Path) -> None:
    run = Run(tmp_path, position=Position(step=10, images=160, seconds=4.0))
    for losses in (taken(2.0, 1.0), taken(math.nan, 1.0), taken(3.0, 0.0)):
        run.take(losses)
    run.row()
    (row,) = read_log(run.log)
    assert list(row.items()) == [  # the order of the columns
        ("step", 13),
        ("epoch", 0.5),
        ("images", 172),
        ("lr", 0.125),
        ("loss", 3.0),
        ("classification_loss", 2.5),
        ("box_loss", 0.5),
        ("images_per_second", 8.0),  # 12 in 1.5 seconds
        ("seconds", 5.5),
        ("map_area", None),
    ]


def test_the_losses_of_a_row_have_the_names_that_the_detector_gives(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.take(StepLosses({"quality": 0.5, "box": 0.25, "distribution": 0.125}, positives=1.0, gradient_norm=1.0))
    run.row()
    (row,) = read_log(run.log)
    assert [name for name in row if name.endswith("_loss")] == ["quality_loss", "box_loss", "distribution_loss"]
    assert row["loss"] == 0.875


def test_steps_that_were_all_skipped_have_a_row_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step(math.nan, 1.0)
    run.row()
    (row,) = read_log(run.log)
    assert [row[name] for name in ("loss", "classification_loss", "box_loss")] == [0.0, 0.0, 0.0]
    assert row["images_per_second"] == 8.0


def test_the_first_batch_of_a_start_is_shown_once_at_its_step(tmp_path: Path) -> None:
    recorder = Recorder()
    run = Run(tmp_path, recorder, position=Position(step=50))
    run.step(2.0, 1.0)
    run.step(2.0, 1.0)
    assert recorder.shown == [("augmented", ["1", "2"], 51)]


def test_an_evaluation_is_logged_with_images(tmp_path: Path) -> None:
    recorder = Recorder()
    metrics = {"voc": {"map_area": 0.5, "map_11point": None, "per_class": {}}, "coco": {}}
    Run(tmp_path, recorder).journal.evaluated(metrics, [found()], 20)
    assert recorder.numbers == [({"voc/map_area": 0.5}, 20)]
    assert recorder.shown == [("truth and detections", ["1 000"], 20)]


def test_without_experiment_logs_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*args: object) -> None:
        raise AssertionError("drawn for nobody")

    monkeypatch.setattr(journal, "batch_images", drawn)
    monkeypatch.setattr(journal, "detection_images", drawn)
    run = Run(tmp_path)
    run.step(2.0, 1.0)
    run.journal.evaluated({}, [found()], 20)


def test_the_experiment_logs_learn_of_an_error_that_ended_the_run(tmp_path: Path) -> None:
    recorder = Recorder()
    with Run(tmp_path, recorder).journal:
        pass
    with pytest.raises(UserError), Run(tmp_path, recorder).journal:
        raise UserError("5 steps in a row were skipped")
    assert recorder.ends == [False, True]


def test_the_images_of_a_run_lie_in_its_tensorboard_file(tmp_path: Path) -> None:
    logs = start_logs(("tensorboard",), folder=tmp_path, settings={}, step=0, report=print)
    run = Run(tmp_path, *logs)
    metrics = {"voc": {"map_area": 0.5, "map_11point": 0.5, "per_class": {}}, "coco": {}}
    with run.journal:
        run.step(2.0, 1.0)
        run.journal.evaluated(metrics, [found((50, 70, 150, 120), scores=(0.9,))], 1)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["augmented/1", "augmented/2", "truth and detections/1 000"]
    augmented, both = (_decoded(events, tag) for tag in ("augmented/1", "truth and detections/1 000"))
    assert (augmented.shape, both.shape) == ((320, 320, 3), (330, 808, 3))
    assert tuple(augmented[109, 90]) == FIRST_COLORS[RED]  # the lower line of the box
    assert tuple(both[109, 90]) == FIRST_COLORS[RED]
    assert tuple(both[119, 408 + 100]) == FIRST_COLORS[BLUE]


def _decoded(events: EventAccumulator, tag: str) -> np.ndarray:
    (image,) = events.Images(tag)
    return decode_image(image.encoded_image_string)
