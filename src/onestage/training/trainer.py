"""The training loop.

    batch -> predictions -> loss sums / positives -> backward -> step -> average -> (log, evaluate, save)

Everything random in a run is a function of (seed, epoch, index), so a run that was stopped and resumed sees the same
batches as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor, nn

from onestage.data.loader import batches_per_epoch, training_loader
from onestage.data.table import Table
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.evaluation import Measurement, measure
from onestage.structures import Batch, Detections, DetectionTable
from onestage.training.checkpoint import RunFolder, save_model
from onestage.training.logging import Display, LogFile, LogRow
from onestage.training.optimizer import (
    AveragedWeights,
    build_optimizer,
    freeze,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    train_mode,
    trained_batch_norms,
)
from onestage.training.precision import Compute, keep_freed_memory
from onestage.training.recipe import Recipe
from onestage.training.saved_state import check_identity, identity, load_state, save_state
from onestage.training.schedule import learning_rate_factor
from onestage.training.validation import detect_all, on_cpu

LOG_EVERY_STEPS = 10
EVALUATION_SHARE = 0.2  # a run of so many minutes evaluates as often as fits into so much of the time that it trained


@dataclass
class Position:
    """Where a run stands; what a checkpoint's header holds."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0  # of training: without set-up and evaluations
    evaluations: int = 0  # how many of the recipe's are done or were passed over
    evaluation_seconds: float = 0.0  # of all of them
    longest_evaluation_seconds: float = 0.0
    best_map_area: float = -1.0


@dataclass(frozen=True)
class Evaluated:
    """A data set's detections and how good they are."""

    found: list[Detections]
    measurement: Measurement


class Trainer:
    """One run: the detector, what trains it, and where it stands."""

    def __init__(
        self,
        detector: Detector,
        recipe: Recipe,
        *,
        train: Table,
        test: Table,
        folder: RunFolder,
        compute: Compute,
        display: Display,
        workers: int,
        save_minutes: float = 5.0,
    ) -> None:
        """`save_minutes`: a checkpoint is written at every evaluation, and after so many minutes since the last."""
        self.detector, self.recipe, self.save_minutes = detector, recipe, save_minutes
        self.stopped: Sequence[int] = ()  # true once a signal came
        self.train_table, self.test_table = train, test
        self.folder, self.compute, self.display, self.workers = folder, compute, display, workers
        keep_freed_memory()
        compute.place(detector)
        freeze(detector, recipe.frozen)
        if not recipe.train_stem:
            freeze(detector, tuple(f"backbone.{name}" for name in detector.backbone.stem))
        batch_size = min(recipe.batch_size, len(train))
        if batch_size == 1 and trained_batch_norms(detector):
            raise UserError(
                "batches of 1 picture: this detector's batch norms need 2 or more; use --batch-size 2, or more pictures"
            )
        self.optimizer = build_optimizer(detector, recipe)
        self.average = AveragedWeights(detector, recipe.ema_decay) if recipe.ema_decay else None
        self.position = Position()

    # --- the loop

    def run(self) -> None:
        """Train to the end of the recipe. Ctrl-C or SIGTERM saves and raises KeyboardInterrupt."""
        log = LogFile(self.folder.log, resume_at_step=self.position.step)
        interval = Interval(self.position.seconds)
        saved_at = time.monotonic()
        with self.display, stop_signals() as stopped, closing(self.batches()) as batches:
            self.stopped = stopped
            train_mode(self.detector)
            while not stopped and (self.evaluation_due or self.progress < 1):
                if not self.evaluation_due:  # else it was cut off when the run was stopped
                    started = time.monotonic()
                    batch = next(batches)
                    interval.add(self.step(batch), len(batch.images))
                    self.position.seconds += time.monotonic() - started
                evaluated = self.evaluation_due
                map_area = self.evaluate_and_keep() if evaluated else None
                if interval.steps and (evaluated or self.position.step % LOG_EVERY_STEPS == 0):
                    row = interval.row(self.position, self.epoch, self.learning_rate, map_area)
                    log.write(row)
                    self.display.training(row, self.progress, self.epoch / max(self.progress, 1e-9))
                    interval = Interval(self.position.seconds)
                if evaluated or stopped or time.monotonic() - saved_at > 60 * self.save_minutes:
                    self.save()
                    saved_at = time.monotonic()
        log.close()
        if stopped:
            raise KeyboardInterrupt

    def batches(self) -> Generator[Batch, None, None]:
        """Batches from where the run stands, without end."""
        return training_loader(
            self.train_table,
            resize=self.detector.resize,
            augmentation=self.recipe.augmentation,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            workers=self.workers,
            start=divmod(self.position.step, self.steps_per_epoch),
            repeat=self.recipe.repeat,
            pin_memory=self.compute.device.type == "cuda",
        )

    def step(self, batch: Batch) -> StepLosses:
        """One optimizer step; the losses are divided by the batch's positives."""
        set_learning_rate(self.optimizer, self.learning_rate)
        batch = batch.to(self.compute.device)
        with self.compute.autocast():
            predictions = self.detector(batch.images)
        sums = self.detector.losses(predictions, batch.targets, (batch.images.shape[2], batch.images.shape[3]))
        positives = sums.num_positives.clamp(min=1)
        losses = StepLosses(sums.classification / positives, self.recipe.box_loss_weight * sums.box / positives)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        self.check_finite(losses)
        if self.recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.detector.parameters(), self.recipe.gradient_clip, foreach=True)
        self.optimizer.step()
        self.position.step += 1
        self.position.images += len(batch.images)
        if self.average is not None:
            self.average.update(self.detector, self.position.step)
        return losses

    def check_finite(self, losses: StepLosses) -> None:
        """Stop before the weights are spoiled."""
        if not math.isfinite(losses.total.item()):
            raise UserError(
                f"step {self.position.step + 1}: the loss is {losses.total.item()} (class "
                f"{losses.classification.item():.4g}, box {losses.box.item():.4g}) at learning rate "
                f"{self.learning_rate:.2g}; no weight was changed. Resume with a smaller --learning-rate"
            )

    # --- where the run stands

    @property
    def steps_per_epoch(self) -> int:
        return batches_per_epoch(len(self.train_table), self.recipe.repeat, self.recipe.batch_size)

    @property
    def epoch(self) -> float:
        return self.position.step / self.steps_per_epoch

    @property
    def progress(self) -> float:
        """The part of the run that is done, 0 to 1."""
        if self.recipe.minutes is not None:
            return min(1.0, self.position.seconds / (60 * self.recipe.minutes))
        steps = self.recipe.steps or math.ceil((self.recipe.epochs or 0) * self.steps_per_epoch)
        return min(1.0, self.position.step / max(1, steps))

    @property
    def learning_rate(self) -> float:
        return self.recipe.learning_rate * learning_rate_factor(self.recipe, self.position.step, self.progress)

    # --- evaluating and saving

    @property
    def evaluation_due(self) -> bool:
        """Whether the run is as far as the recipe's next evaluation, and has the time for it (if it has a limit)."""
        position, progress = self.position, self.progress
        if int(progress * self.recipe.evaluations) <= position.evaluations:
            return False
        seconds_after = position.evaluation_seconds + position.longest_evaluation_seconds
        has_time = self.recipe.minutes is None or seconds_after <= EVALUATION_SHARE * position.seconds
        return has_time or progress >= 1

    def evaluate_and_keep(self) -> float | None:
        """Evaluate the weights that would be kept now, and keep them if they are the best.

        Returns VOC's area AP; None where a signal cut it off: the resumed run then evaluates first.
        """
        started = time.monotonic()
        with self.weights_to_keep():
            try:
                evaluated = self.evaluate()
            except StoppedError:
                return None
            map_area = evaluated.measurement.metrics["voc"]["map_area"] or 0.0
            coco_ap = evaluated.measurement.coco["AP"]
            if map_area > self.position.best_map_area:
                self.position.best_map_area = map_area
                self.keep(map_area)
        seconds = time.monotonic() - started
        self.position.evaluations = int(self.progress * self.recipe.evaluations)
        self.position.evaluation_seconds += seconds
        self.position.longest_evaluation_seconds = max(seconds, self.position.longest_evaluation_seconds)
        self.display.say(
            f"epoch {self.epoch:.1f}: AP50 {map_area:.4f} (VOC, area), AP {coco_ap:.4f} (COCO) on "
            f"{len(self.test_table)} pictures; best AP50 {self.position.best_map_area:.4f}"
        )
        return map_area

    def keep(self, map_area: float) -> None:
        """Write the model file with the weights that the detector has."""
        facts: dict[str, Any] = {"recipe": self.recipe.as_dict(), "map_area": map_area, "step": self.position.step}
        save_model(self.folder.model, self.detector, self.detector.state_dict(), self.train_table.categories, **facts)

    def evaluate(self) -> Evaluated:
        """Detect in the test pictures with the detector's present weights, and measure.

        Raises:
            StoppedError: a signal came.
        """
        with self.display.stage("evaluating", len(self.test_table)) as stage:

            def advance(pictures: int) -> None:
                stage.advance(pictures)
                if self.stopped:
                    raise StoppedError

            found = on_cpu(
                detect_all(self.detector, self.test_table, self.compute, workers=self.workers, advance=advance)
            )
        truth, table = self.test_table.ground_truth(), DetectionTable.from_detections(found)
        return Evaluated(found, measure(truth, table, self.test_table.categories))

    @contextmanager
    def weights_to_keep(self) -> Iterator[None]:
        """Within, the detector has the averaged weights, if the recipe averages."""
        if self.average is None:
            yield
            return
        latest = {name: tensor.clone() for name, tensor in self.detector.state_dict().items()}
        self.detector.load_state_dict(self.average.tensors)
        try:
            yield
        finally:
            self.detector.load_state_dict(latest)

    def save(self) -> None:
        """Write the checkpoint that `resume` reads."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.detector.state_dict(),
            "average": self.average.tensors if self.average is not None else {},
            "optimizer": optimizer_tensors(self.optimizer, self.detector),
        }
        header = {"position": vars(self.position), **identity(self.recipe, self.train_table)}
        save_state(self.folder, parts, header)

    def resume(self) -> None:
        """Go on from the folder's newest checkpoint that can be read.

        Raises:
            UserError: none there, or it is of another recipe, of other classes or other data.
        """
        saved = load_state(self.folder)
        if saved.warning is not None:
            self.display.say(f"warning: {saved.warning}")
        check_identity(self.folder, saved.header, identity(self.recipe, self.train_table))
        self.detector.load_state_dict(saved.parts["model"])
        if self.average is not None:
            for name, tensor in saved.parts["average"].items():
                self.average.tensors[name].copy_(tensor)
        load_optimizer_tensors(self.optimizer, self.detector, saved.parts["optimizer"])
        self.position = Position(**saved.header["position"])
        due = int(self.progress * self.recipe.evaluations)
        self.position.evaluations = min(self.position.evaluations, due)  # fewer are done where the run is now longer


class StoppedError(Exception):
    """A signal came in mid-evaluation."""


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step, per positive anchor, with their graph."""

    classification: Tensor
    box: Tensor

    @property
    def total(self) -> Tensor:
        return self.classification + self.box


class Interval:
    """The sums between two rows of the log."""

    def __init__(self, started_at_seconds: float) -> None:
        self.started_at_seconds = started_at_seconds  # of training
        self.steps, self.images = 0, 0
        self.classification, self.box = 0.0, 0.0

    def add(self, losses: StepLosses, images: int) -> None:
        self.steps += 1
        self.images += images
        self.classification += losses.classification.item()
        self.box += losses.box.item()

    def row(self, position: Position, epoch: float, learning_rate: float, map_area: float | None) -> LogRow:
        classification, box = self.classification / self.steps, self.box / self.steps
        return LogRow(
            step=position.step,
            epoch=epoch,
            images=position.images,
            lr=learning_rate,
            loss=classification + box,
            classification_loss=classification,
            box_loss=box,
            images_per_second=self.images / max(position.seconds - self.started_at_seconds, 1e-9),
            seconds=position.seconds,
            map_area=map_area,
        )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list (true once one came); a second SIGINT interrupts at once."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever started the thread stops it
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
