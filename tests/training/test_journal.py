"""What a run tells: its rows, and the images that trackers get."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from red_box import red_box
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from onestage.data.table import Table, TableBuilder
from onestage.drawing import FIRST_COLORS
from onestage.errors import UserError
from onestage.runtime.decode import decode_image
from onestage.structures import Batch, Categories, Detections, Targets
from onestage.terminal import Display
from onestage.training import journal
from onestage.training.journal import Interval, Journal, batch_images, detection_images
from onestage.training.log_file import LogFile, LogRow, read_log
from onestage.training.recipe import Recipe
from onestage.training.saved_state import Position
from onestage.training.step import StepLosses
from onestage.training.trackers import Images, Trackers
from onestage.training.watch import Watch

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


# --- rows


def test_a_row_holds_the_means_of_the_steps_that_were_taken_and_the_images_of_all_processes() -> None:
    start = Position(step=10, images=160, seconds=4.0)
    interval = Interval(start)
    interval.steps, interval.classification, interval.box = 2, 5.0, 1.0
    start.step, start.images, start.seconds = 13, 208, 6.0  # the run's own position moves on
    assert interval.row(start, 0.5, 0.125, None) == LogRow(
        step=13,
        epoch=0.5,
        images=208,
        lr=0.125,
        loss=3.0,
        classification_loss=2.5,
        box_loss=0.5,
        images_per_second=24.0,  # 48 in 2 seconds
        seconds=6.0,
    )


def test_an_interval_whose_steps_were_all_skipped_has_a_row_too() -> None:
    row = Interval(Position()).row(Position(step=1, images=16, seconds=2.0), 0.0, 0.1, None)
    assert (row.loss, row.images_per_second) == (0.0, 8.0)


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
    (image,) = detection_images(table, [found(*boxes, scores=(0.3, 0.29))]).values()
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


class Recorder(Trackers):
    """Trackers that only take down what they are told."""

    def __init__(self, on: bool = True) -> None:
        super().__init__((), folder=Path("nowhere"), settings={}, say=print)
        self.is_on = on
        self.rows: list[LogRow] = []
        self.evaluations: list[tuple[Mapping[str, Any], int]] = []
        self.shown: list[tuple[str, list[str], int]] = []
        self.ends: list[bool] = []

    @property
    def on(self) -> bool:
        return self.is_on

    def log(self, row: LogRow) -> None:
        self.rows.append(row)

    def evaluation(self, metrics: Mapping[str, Any], step: int) -> None:
        self.evaluations.append((metrics, step))

    def images(self, title: str, images: Images, step: int) -> None:
        self.shown.append((title, list(images), step))

    def close(self, failed: bool = False) -> None:
        self.ends.append(failed)


class Run:
    """A run of two processes that stands at a position, the journal of process 0, and what that writes to."""

    def __init__(self, folder: Path, trackers: Trackers, position: Position | None = None) -> None:
        self.display = Display(Console(file=io.StringIO(), width=200))
        self.position = position or Position()
        table = table_of(folder, red_box(400, 330, (40, 60, 140, 110)), boxes_xyxy=((40, 60, 140, 110),))
        watch = Watch(Recipe(steps=100), table, reference=None, steps_per_epoch=100, say=self.display.say)
        self.log = folder / "log.csv"
        self.journal = Journal(self.display, watch, trackers, LogFile(self.log), Interval(self.position), table)

    def step(self, classification: float, box: float) -> None:
        losses = StepLosses(classification, box, positives=4.0, gradient_norm=1.0)
        self.journal.step(losses, batch_of(2), 0.0, 0.5)
        self.position.step += 1
        self.position.images += 4
        self.position.seconds += 0.5

    def row(self) -> None:
        self.journal.row(self.position, 0.5, 0.25, 0.125, None)


def test_steps_become_a_row_for_the_file_and_the_trackers(tmp_path: Path) -> None:
    recorder = Recorder()
    run = Run(tmp_path, recorder)
    run.step(2.0, 1.0)
    run.step(math.nan, 1.0)  # skipped: it counts as work, not as loss
    run.step(3.0, 2.0)
    run.row()
    run.row()  # nothing happened since
    run.step(1.0, 1.0)
    run.row()
    run.journal.close()
    assert [(row.step, row.loss, row.images_per_second) for row in recorder.rows] == [(3, 4.0, 8.0), (4, 2.0, 8.0)]
    assert read_log(run.log) == recorder.rows
    assert recorder.ends == [False]


def test_the_first_batch_of_a_start_is_shown_once_at_its_step(tmp_path: Path) -> None:
    recorder = Recorder()
    run = Run(tmp_path, recorder, Position(step=50))
    run.step(2.0, 1.0)
    run.step(2.0, 1.0)
    run.journal.close()
    assert recorder.shown == [("augmented", ["1", "2"], 51)]


def test_an_evaluation_is_told_with_images(tmp_path: Path) -> None:
    recorder = Recorder()
    run = Run(tmp_path, recorder)
    metrics = {"voc": {}, "coco": {}}
    run.journal.evaluated(metrics, [found()], 20)
    run.journal.close()
    assert recorder.evaluations == [(metrics, 20)]
    assert recorder.shown == [("truth and detections", ["1 000"], 20)]


def test_without_trackers_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*args: object) -> None:
        raise AssertionError("drawn for nobody")

    monkeypatch.setattr(journal, "batch_images", drawn)
    monkeypatch.setattr(journal, "detection_images", drawn)
    recorder = Recorder(on=False)
    run = Run(tmp_path, recorder)
    run.step(2.0, 1.0)
    run.journal.evaluated({}, [found()], 20)
    run.journal.close()
    assert recorder.shown == []


def test_a_process_without_a_log_file_writes_none(tmp_path: Path) -> None:
    run = Run(tmp_path, Recorder())
    run.journal.close()
    run.journal.log = None
    run.step(2.0, 1.0)
    run.row()
    run.journal.close()
    assert read_log(run.log) == []


def test_the_trackers_hear_of_an_error_that_ended_the_run(tmp_path: Path) -> None:
    recorder = Recorder()
    with Run(tmp_path, recorder).journal:
        pass
    with pytest.raises(UserError), Run(tmp_path, recorder).journal:
        raise UserError("5 steps in a row were skipped")
    assert recorder.ends == [False, True]


def test_the_images_of_a_run_lie_in_its_tensorboard_file(tmp_path: Path) -> None:
    trackers = Trackers(("tensorboard",), folder=tmp_path, settings={}, say=print)
    trackers.start()
    run = Run(tmp_path, trackers)
    run.step(2.0, 1.0)
    run.journal.evaluated(
        {"voc": {"map_area": 0.5, "map_11point": 0.5, "per_class": {}}, "coco": {}},
        [found((50, 70, 150, 120), scores=(0.9,))],
        1,
    )
    run.journal.close()
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
