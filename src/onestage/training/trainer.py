"""The training loop.

    batch -> predictions -> named loss sums / positives -> backward -> step -> average -> (log, evaluate, save)

Everything random in a run is a function of (seed, epoch, index). So a run that was stopped and resumed sees the same
batches as one that was not, and several processes together see what one would.
"""

import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from onestage.compute.device import Compute, compiled, find_fastest_convolutions, readable_compile_errors
from onestage.compute.memory import keep_freed_memory, readable_memory_errors
from onestage.data.loader import batches_per_epoch, training_loader
from onestage.data.loader_workers import readable_worker_errors
from onestage.data.table import Table
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.evaluation import find_thresholds, measure
from onestage.input_size import Stretch
from onestage.models.model_file import RunFolder, save_model
from onestage.structures import Batch, DetectionTable
from onestage.terminal import Display, Pace, TrainingStage, quiet
from onestage.texts import counted
from onestage.tiled_detections import count_windows
from onestage.training.detect_all import StoppedError, detect_all
from onestage.training.experiment_logs import ExperimentLog, ExperimentLogs, start_logs
from onestage.training.journal import LOG_EVERY_STEPS, Journal, begin_log
from onestage.training.old_classes import without_classes
from onestage.training.optimizer import (
    AveragedWeights,
    freeze_untrained,
    load_optimizer_tensors,
    optimizer_tensors,
    train_mode,
    trained_batch_norms,
)
from onestage.training.pacing import Pacing
from onestage.training.processes import ALONE, World
from onestage.training.recipe import Recipe
from onestage.training.saved_state import Header, Position, SavedState, check_identity, identity, load_state, save_state
from onestage.training.schedule import learning_rate_factor
from onestage.training.signals import stop_signals
from onestage.training.skipped_step import StepPosition, diagnose, save_skipped_step
from onestage.training.step import OptimizerStep, StepLosses, in_parts
from onestage.training.watch import Watch


class Trainer:
    """One run: the detector, what trains it, and where it stands."""

    def __init__(
        self,
        detector: Detector,
        recipe: Recipe,
        *,
        train: Table,
        val: Table,
        test: Table | None = None,
        folder: RunFolder,
        compute: Compute,
        display: Display,
        workers: int,
        save_minutes: float = 5.0,
        world: World = ALONE,
        log_to: Sequence[str | ExperimentLog] = (),
        usual: Recipe | None = None,
        kept_classes: Collection[str] = (),
        begun_at: float | None = None,
    ) -> None:
        """Prepare a run. A checkpoint is written every `save_minutes`, and at every evaluation.

        The weights that do best on `val` are kept (or the last ones, as the recipe says). `log_to` names experiment
        logs. `usual` is the recipe before the user's changes; warnings compare with it. `kept_classes` are those that
        a trained detector knew: the data does not label them. `test`, like the others, may not change until the run is
        done; None: `val` gives the figures too. A run of `minutes` began at `begun_at`, by `time.monotonic`; None: now.
        """
        recipe.check_length()
        self.detector, self.recipe, self.save_minutes, self.world = detector, recipe, save_minutes, world
        self.train_table, self.val_table, self.log_to, self.usual = train, val, log_to, usual
        self.kept_classes = kept_classes
        self.folder, self.compute, self.display, self.workers = folder, compute, display, workers
        self.identity = identity(recipe, train, val, val if test is None else test)
        self.warn = partial(world.warn, say=display.say)
        self.images_per_step = min(recipe.batch_size, train.rows_per_epoch * recipe.repeat)  # over all processes
        self.steps_per_epoch = batches_per_epoch(train, recipe.repeat, recipe.batch_size)
        keep_freed_memory()
        compute.place(detector)
        if isinstance(detector.resize, Stretch):
            find_fastest_convolutions(compute.device)
        freeze_untrained(detector, recipe)
        self._check_parts(recipe.accumulate * world.size)
        self.network = world.connect(compiled(detector) if recipe.compile else detector)
        self.take_step = OptimizerStep(detector, self.network, recipe, compute, world)
        self.optimizer = self.take_step.optimizer
        self.average = AveragedWeights(detector, recipe.ema_decay) if recipe.ema_decay else None
        self.position = Position()
        inputs = [count_windows(recipe.tiling, one.image_sizes_hw) for one in (val, val if test is None else test)]
        self.pacing = Pacing(recipe, self.steps_per_epoch, *inputs)
        self.begun_at = time.monotonic() if begun_at is None else begun_at

    def _check_parts(self, parts: int) -> None:
        """Raise a UserError for batches that can't be cut into so many parts."""
        if self.images_per_step < parts:
            raise UserError(
                f"batches of {self.images_per_step} images can't be cut into {parts} parts (--accumulate "
                f"{self.recipe.accumulate}, {self.world.size} processes); use a larger --batch-size, or more images"
            )
        if self.world.size == 1 and self.images_per_step // parts == 1 and trained_batch_norms(self.detector):
            raise UserError(
                "batches of 1 image: this detector's batch norms need 2 or more; use --batch-size 2, or more images"
            )

    # --- the loop

    def run(self) -> None:
        """Train to the end of the recipe. Ctrl-C or SIGTERM saves and raises KeyboardInterrupt."""
        with (
            self.display.training() as stage,
            self.open_journal(stage) as journal,
            stop_signals() as signals,
            readable_worker_errors(),
            readable_compile_errors(),
            readable_memory_errors(self.memory_advice),
            closing(self.batches()) as batches,
        ):
            train_mode(self.detector)
            saved_at = time.monotonic()
            self.position.set_up_seconds += self.world.from_main(saved_at - self.begun_at)
            stopped, pace, seconds_before = False, Pace(), self.position.seconds
            while not stopped and (self.evaluation_due or self.progress < 1):
                if not self.evaluation_due:  # else the resumed run was stopped in an evaluation, which comes first
                    started = time.monotonic()
                    batch, stopped = self.next_batch(batches, bool(signals))
                    waited_s = time.monotonic() - started
                    losses = self.step(batch)
                    spent_s = self.world.from_main(time.monotonic() - started)
                    self.position.seconds += spent_s
                    pace.add(self.position.seconds - seconds_before)
                    journal.step(losses, batch, waited_s, spent_s)
                    stage.at(self.progress, self.pacing.seconds_left(self.position, pace.seconds_a_unit()))
                map_area = None
                if evaluated := self.evaluation_due and not stopped:
                    map_area = self.evaluate_and_keep(journal, lambda: bool(signals))
                    stopped = map_area is None
                if evaluated or self.position.step % LOG_EVERY_STEPS == 0:
                    journal.row(self.position, self.epoch, self.progress, self.learning_rate, map_area)
                if self.position.step % self.steps_per_epoch == 0:
                    journal.epoch()
                stopped |= bool(signals) and self.world.size == 1
                if evaluated or stopped or time.monotonic() - saved_at > 60 * self.save_minutes:
                    self.save()
                    saved_at = time.monotonic()
        if stopped:
            self.display.say(f"saved at step {self.position.step:,}; --resume goes on")
            raise KeyboardInterrupt

    def open_journal(self, stage: TrainingStage | None = None) -> Journal:
        """Start the logs of the run; only the main rank has any."""
        report, step, logs = self.display.say, self.position.step, list[ExperimentLog]()

        def start() -> None:
            settings = self.recipe.as_dict()
            logs.extend(start_logs(self.log_to, folder=self.folder.root, settings=settings, step=step, report=report))
            begin_log(self.folder.log, resume_at_step=step)

        self.world.on_main(start)
        log_csv = self.folder.log if self.world.is_main else None
        watch = Watch(
            self.recipe, self.train_table, self.steps_per_epoch, usual=self.usual, kept=self.kept_classes, report=report
        )
        stage = stage or TrainingStage(quiet().show)
        return Journal(stage, watch, ExperimentLogs(logs, report), log_csv, self.position, self.val_table)

    def batches(self) -> Generator[Batch, None, None]:
        """This rank's part of each batch, without end, from where the run stands."""
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
            shard=(self.world.rank, self.world.size),
            start_method=self.recipe.worker_start_method,
            warn=self.warn,
        )

    def next_batch(self, batches: Iterator[Batch], stop: bool) -> tuple[Batch, bool]:
        """The next batch, and True if a rank was told to stop after it; a UserError if a rank can't read its images."""
        batch, error = None, None
        try:
            batch = next(batches)
        except UserError as raised:
            error = raised
        stopped = self.world.agree(error, stop)
        assert batch is not None  # else the error was raised
        return batch, stopped

    def step(self, batch: Batch) -> StepLosses:
        """Take one optimizer step, if its losses and gradient are finite."""
        batch = batch.to(self.compute.device)
        losses = self.take_step(batch, self.learning_rate)
        if not losses.finite and not losses.overflow:
            self._report_skipped(batch, losses)
        self.position.step += 1
        self.position.images += self.images_per_step
        if losses.finite:
            self.position.skipped_in_a_row = 0
            if self.average is not None:
                self.average.update(self.position.step)
        return losses

    def _report_skipped(self, batch: Batch, losses: StepLosses) -> None:
        """Report what was not finite, and where; save the step for a replay. Too many in a row end the run."""
        self.position.skipped_in_a_row += 1
        number, in_a_row = self.position.step + 1, self.position.skipped_in_a_row
        names = [self.train_table.image_name(index) for index in batch.image_indices.tolist()]
        diagnosis = diagnose(self.take_step, in_parts(batch, self.recipe.accumulate), names, losses)
        file, at = self.folder.replay(number), StepPosition(number, number - in_a_row, self.learning_rate)
        saved = save_skipped_step(file, self.take_step, batch, diagnosis, at)
        again = f"; look at it again by: onestage train --replay {file}" if saved else ""
        self.display.say(f"warning: step {number} was skipped, {diagnosis}; no weight was changed{again}")
        if in_a_row >= self.recipe.max_skipped_steps:
            raise UserError(
                f"{in_a_row} steps in a row were skipped, the last {number}; the checkpoint {self.folder.checkpoint} "
                f"is whole; {diagnosis.advice(at.steps_taken)}"
            )

    # --- where the run stands

    @property
    def memory_advice(self) -> str:
        """What was tried when memory ran out, and what helps."""
        parts = self.recipe.accumulate * self.world.size
        tried, smaller = self.images_per_step // parts, self.images_per_step // (2 * parts)  # images at a time
        if smaller < (2 if trained_batch_norms(self.detector) else 1):
            helps = "free memory and go on with --resume, or train a smaller detector"
        else:
            accumulate = f"--accumulate {2 * self.recipe.accumulate} ({smaller} at a time, the same steps)"
            helps = f"go on with --resume and {accumulate}, or begin with --batch-size auto, which finds what fits"
        return f"tried with {tried} images at a time; {helps}"

    @property
    def epoch(self) -> float:
        return self.position.step / self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Fraction of the run that is done."""
        return self.pacing.progress(self.position)

    @property
    def learning_rate(self) -> float:
        return self.recipe.learning_rate * learning_rate_factor(self.recipe, self.position.step, self.progress)

    @property
    def evaluation_due(self) -> bool:
        return self.pacing.evaluation_due(self.position)

    # --- evaluating and saving

    def evaluate_and_keep(self, journal: Journal, stopped: Callable[[], bool] = lambda: False) -> float | None:
        """Evaluate the weights that would be kept now, and keep them if they are the best so far, or the last.

        Returns VOC's AP50 (area); None if `stopped` cut the evaluation off: the resumed run then begins with it.
        """
        started, val, position = time.monotonic(), self.val_table, self.position
        with self.weights_to_keep():
            with self.display.stage("evaluating", len(val)) as stage:
                try:
                    found = detect_all(
                        self.detector,
                        val,
                        self.compute,
                        selection=self.recipe.postprocessing,
                        workers=self.workers,
                        start_method=self.recipe.worker_start_method,
                        advance=stage.advance,
                        stopped=stopped,
                        warn=self.warn,
                        world=self.world,
                    )
                except StoppedError:
                    return None
            found = without_classes(found, val.categories, self.kept_classes)
            truth, detections = val.ground_truth(), DetectionTable.from_detections(found)
            measurement = measure(truth, detections, val.categories)
            map_area = measurement.metrics["voc"]["map_area"] or 0.0
            # Of equals, the later: where nothing is found yet, all have 0.
            if map_area >= position.best_map_area or self.recipe.keep == "last":
                position.best_map_area = max(map_area, position.best_map_area)
                model, categories = self.detector, self.train_table.categories
                facts: dict[str, Any] = {"recipe": self.recipe.as_dict(), "map_area": map_area, "step": position.step}

                def keep() -> None:
                    thresholds = find_thresholds(truth, detections, len(categories), split=val.split)
                    save_model(self.folder.model, model, categories, thresholds, **facts)

                self.world.on_main(keep)
        seconds = self.world.from_main(time.monotonic() - started)
        position.evaluations = int(self.progress * self.recipe.evaluations)
        position.evaluation_seconds += seconds
        position.longest_evaluation_seconds = max(seconds, position.longest_evaluation_seconds)
        journal.evaluated(measurement.metrics, found, position.step)
        self.display.say(
            f"epoch {self.epoch:.1f}: AP50 {map_area:.4f} (VOC, area), AP {measurement.coco['AP']:.4f} (COCO) on "
            f"{counted(len(val), 'image')}; best AP50 {position.best_map_area:.4f}"
        )
        return map_area

    @contextmanager
    def weights_to_keep(self) -> Iterator[None]:
        """Inside of `with`, the detector has the averaged weights (EMA), if the recipe averages."""
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
        """Write the checkpoint that `resume` reads, on the main rank; a UserError, and no file, for NaN or infinity."""
        if not self.world.is_main:
            return
        tensors = {
            "model": self.detector.state_dict(),
            "average": self.average.tensors if self.average is not None else {},
            "optimizer": optimizer_tensors(self.optimizer, self.detector),
        }
        header = Header(
            **vars(self.identity),
            position=self.position,
            normalization=self.detector.normalization,
            scaler=self.take_step.scaler.state_dict(),
        )
        save_state(self.folder, tensors, header)

    def _saved_state(self) -> SavedState:
        saved, best = load_state(self.folder), self.folder.model
        if saved.header.position.evaluations and not best.exists():
            raise UserError(f"{best}: not here, but the run has kept its best weights there; put them back")
        return saved

    def resume(self) -> None:
        """Go on from the folder's newest checkpoint that can be read.

        A UserError if there is none, or if it is of another recipe, other classes or other data.
        """
        saved = self.world.on_main(self._saved_state)
        if saved.warning is not None:
            self.display.say(f"warning: {saved.warning}")
        check_identity(self.folder, saved.header, self.identity)
        try:
            self.detector.load_state_dict(saved.parts["model"])
            self.detector.normalize.set(saved.header.normalization)
            if self.average is not None:
                for name, tensor in saved.parts["average"].items():
                    self.average.tensors[name].copy_(tensor)
            load_optimizer_tensors(self.optimizer, self.detector, saved.parts["optimizer"])
            self.take_step.scaler.load_state_dict(saved.header.scaler)
        except (RuntimeError, KeyError, AttributeError, ValueError) as error:  # tensors of another version's network
            what = "its checkpoint does not fit the network of its recipe"
            raise UserError(f"{self.folder.root}: {what}; start another run") from error
        self.position = saved.header.position
        due = int(self.progress * self.recipe.evaluations)
        self.position.evaluations = min(self.position.evaluations, due)  # fewer are done where the run is now longer
