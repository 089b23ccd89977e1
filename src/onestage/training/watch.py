"""Warnings about a run that goes on but not well: anchors, classes, learning rate, loading, memory.

The numbers are kept on the CPU and cost a few microseconds a step; nothing here waits for a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import psutil
from jaxtyping import Bool, Int64
from torch import Tensor

from onestage.data.table import Table
from onestage.training.batch_size import scaled_rate
from onestage.training.recipe import Recipe

STEPS_WITHOUT_POSITIVES = 50
LEAST_STEPS_WITHOUT_POSITIVES = 5  # in shorter epochs: random crops may empty a few batches of a small set
SHOWINGS = 5  # times that images of a class are due before its absence is reported: a crop may cut off the only object
CLASSES_NAMED = 5
RATE_FACTOR = 4.0  # either way from the scaled rate; papers' and recipes' own choices lie within it
FIRST_STEPS = 10  # not timed: kernels are compiled, workers start
BLOCK_STEPS, BLOCKS = 10, 5  # timed steps; the worst block is left out, as a hiccup of the disk
WAITING_SHARE = 0.25  # of the time; below that, faster loading would save less than a quarter
FIRST_EPOCHS, FIRST_MEMORY_STEPS = 2, 100  # not measured: loader workers and caches fill
MEMORY_EPOCHS = 6  # fewest measurements from which growth is read
MEMORY_GROWTH = 0.05  # fraction of the memory at first
MEMORY_MB = 10.0  # an epoch
STEADY = 0.97  # least correlation of memory and time: a jump has 0.87, noise reaches it once in 1,500 times
MEASURING_COST = 0.01  # of the time


class Watch:
    """Looks at a run's steps and reports each kind of trouble once."""

    def __init__(
        self,
        recipe: Recipe,
        table: Table,
        steps_per_epoch: int,
        *,
        reference: Recipe | None,
        report: Callable[[str], None],
    ) -> None:
        """Begin to watch, and warn of what is known before the first step.

        Args:
            recipe: the run's settings.
            table: the training images.
            steps_per_epoch: steps in which the run shows all images.
            reference: the recipe before the user changed it, whose learning rate suits its batch size.
            report: called with each warning, one line.
        """
        self._report, self._reported = report, set[str]()
        self._anchors = _Anchors(steps_per_epoch)
        self._classes = _Classes(table, steps_per_epoch)
        self._loading = _Loading()
        self._memory = _Memory()
        if reference is not None:
            images = min(recipe.batch_size, max(1, len(table) * recipe.repeat))
            self._warn("learning rate", learning_rate_warning(recipe, reference, images))
        self._warn("missing classes", self._classes.missing())

    def step(self, labels: Int64[Tensor, " N"], positives: float, waited_s: float, spent_s: float, images: int) -> None:
        """Take note of one step.

        Args:
            labels: classes of the batch's objects that are not ignored, on the CPU.
            positives: anchors of the whole batch that have an object to find.
            waited_s: seconds until the batch came.
            spent_s: seconds of the whole step, waiting included.
            images: number of images in the batch.
        """
        self._warn("anchors", self._anchors.step(len(labels), positives))
        self._classes.step(labels, images)
        self._warn("loading", self._loading.step(waited_s, spent_s, images))
        self._memory.steps += 1

    def epoch(self) -> None:
        """Look back at the end of an epoch."""
        self._warn("unseen classes", self._classes.epoch())
        if "memory" not in self._reported:
            self._warn("memory", self._memory.epoch())

    def _warn(self, kind: str, warning: str | None) -> None:
        if warning is not None and kind not in self._reported:
            self._reported.add(kind)
            self._report(f"warning: {warning}")


def learning_rate_warning(recipe: Recipe, reference: Recipe, images: int) -> str | None:
    """A warning if the rate is far from the reference's, scaled to this many images a step (`scaled_rate`).

    Rates of different optimizers can't be compared.
    """
    if recipe.optimizer != reference.optimizer:
        return None
    expected = scaled_rate(reference.optimizer, reference.learning_rate, images / reference.batch_size)
    factor = recipe.learning_rate / expected
    if 1 / RATE_FACTOR <= factor <= RATE_FACTOR:
        return None
    rule = "in proportion" if reference.optimizer == "sgd" else "by the square root"
    far = f"{factor:.3g} times" if factor > 1 else f"1/{1 / factor:.3g} of"
    return (
        f"learning rate {recipe.learning_rate:.3g} for {images} images a step is {far} the recipe's, which is "
        f"{reference.learning_rate:.3g} for {reference.batch_size} and, scaled {rule}, {expected:.2g} for {images}; "
        f"expected within {RATE_FACTOR:g} times of it: use --learning-rate {expected:.2g}"
    )


class _Anchors:
    """Notices that no object overlaps any anchor."""

    def __init__(self, steps_per_epoch: int) -> None:
        self._patience = min(STEPS_WITHOUT_POSITIVES, max(steps_per_epoch, LEAST_STEPS_WITHOUT_POSITIVES))
        self._empty_patience = max(steps_per_epoch, self._patience)  # a sparse set has many images without objects
        self._steps = self._objects = self._steps_with_objects = 0  # since the last positive anchor

    def step(self, objects: int, positives: float) -> str | None:
        if positives > 0:
            self._steps = self._objects = self._steps_with_objects = 0
            return None
        self._steps += 1
        self._objects += objects
        self._steps_with_objects += objects > 0
        if self._steps_with_objects >= self._patience:
            return (
                f"no anchor met a box in {self._steps} steps, though {self._objects:,} objects came; expected a few "
                "anchors an object: the boxes are of other sizes than the anchors, so leave out --anchor-sizes, or "
                "leave out --recipe: the default recipe makes anchors from the data"
            )
        if self._steps >= self._empty_patience and not self._objects:
            return (
                f"not one object in the images of {self._steps} steps; expected some in most batches: look at the "
                "annotations of the training split"
            )
        return None


class _Classes:
    """Notices classes that the network never sees."""

    def __init__(self, table: Table, steps_per_epoch: int) -> None:
        self._names, self._split, self._steps_per_epoch = table.categories.names, table.split, steps_per_epoch
        self._images_in_table, self._images_of_class = max(1, len(table)), images_of_class(table)
        self._seen: Bool[np.ndarray, " K"] = self._images_of_class == 0  # `missing` reports those
        self._steps = self._images = 0

    def missing(self) -> str | None:
        missing = np.flatnonzero(self._images_of_class == 0).tolist()
        if not missing:
            return None
        return (
            f"split {self._split!r} has no objects of {len(missing)} of {len(self._names)} classes "
            f"({self._listed(missing)}); expected some of each: the network can't learn to find them. Add images, or "
            "take them out of the class list"
        )

    def step(self, labels: Int64[Tensor, " N"], images: int) -> None:
        self._steps += 1
        self._images += images
        self._seen[labels.numpy()] = True

    def epoch(self) -> str | None:
        passes = self._images / self._images_in_table  # of the data; one of several processes sees its share only
        unseen = np.flatnonzero(~self._seen).tolist()
        if self._steps < self._steps_per_epoch:  # a resumed run begins in the middle of an epoch
            return None
        if not any(passes * self._images_of_class[label] >= SHOWINGS for label in unseen):
            return None
        images = int(self._images_of_class[unseen].sum())
        return (
            f"no object of {len(unseen)} of {len(self._names)} classes ({self._listed(unseen)}) came in "
            f"{self._steps:,} steps, though {images:,} image{'s have' if images > 1 else ' has'} one; expected "
            "each class in every epoch: crops cut them off, or the boxes are tiny. Crop less, or look at the boxes"
        )

    def _listed(self, labels: Sequence[int]) -> str:
        more = f" and {len(labels) - CLASSES_NAMED} more" if len(labels) > CLASSES_NAMED else ""
        return ", ".join(repr(self._names[label]) for label in labels[:CLASSES_NAMED]) + more


def images_of_class(table: Table) -> Int64[np.ndarray, " K"]:
    """The number of images that have an object of each class; ignored objects do not count."""
    classes = len(table.categories)
    image = np.repeat(np.arange(len(table)), np.diff(table.first_object))[~table.ignored]
    pairs = np.unique(image * classes + table.labels[~table.ignored])  # (image, class), each once
    return np.bincount(pairs % max(1, classes), minlength=classes)


class _Loading:
    """Notices that the network waits for images."""

    def __init__(self) -> None:
        self._first_steps = FIRST_STEPS
        self._timed: list[tuple[float, float, int]] = []  # seconds waited and spent, images

    def step(self, waited_s: float, spent_s: float, images: int) -> str | None:
        if self._first_steps:
            self._first_steps -= 1
            return None
        self._timed.append((waited_s, spent_s, images))
        if len(self._timed) < BLOCKS * BLOCK_STEPS:
            return None
        blocks = np.array(self._timed).reshape(BLOCKS, BLOCK_STEPS, 3).sum(axis=1)
        self._timed.clear()
        usual = blocks[blocks[:, 0].argsort()[:-1]]
        waited, spent, seen = usual.sum(axis=0).tolist()
        if not waited >= WAITING_SHARE * spent > 0:
            return None
        working = spent - waited
        trained = f"{seen / working:.3g}" if working > 0 else "many more"
        return (
            f"the network waits {waited / spent:.0%} of the time for images: {seen / spent:.3g} images/s read, "
            f"{trained} could be trained; expected under {WAITING_SHARE:.0%}: use more --workers, smaller images or "
            "a faster disk"
        )


class _Memory:
    """Notices memory that grows from epoch to epoch."""

    def __init__(self) -> None:
        self.steps = 0
        self._epochs = 0
        self._measured: list[tuple[int, float]] = []  # (epoch, MB)
        self._not_before = -math.inf

    def epoch(self) -> str | None:
        self._epochs += 1
        started = time.monotonic()
        early = self._epochs <= FIRST_EPOCHS or self.steps < FIRST_MEMORY_STEPS
        if early or started < self._not_before:
            return None
        megabytes = memory_mb()
        now = time.monotonic()
        self._not_before = now + (now - started) / MEASURING_COST
        if megabytes is None:
            return None
        self._measured.append((self._epochs, megabytes))
        # A fast leak shows in the last epochs, a slow one in all of them.
        span = next((span for span in (self._measured[-MEMORY_EPOCHS:], self._measured) if grows(span)), None)
        if span is None:
            return None
        (first, before), (last, after) = span[0], span[-1]
        return (
            f"memory of this process and its readers grew by {(after - before) / (last - first):.0f} MB an epoch, from "
            f"{before:,.0f} MB after epoch {first} to {after:,.0f} MB after epoch {last} of this start; expected it to "
            "stay level: before it runs out, stop with Ctrl-C and go on with --resume, and try fewer --workers"
        )


def grows(span: Sequence[tuple[int, float]]) -> bool:
    """True if memory (epoch, MB) rises on a straight line, by an amount that matters."""
    if len(span) < MEMORY_EPOCHS:
        return False
    (first, before), (last, after) = span[0], span[-1]
    if after - before < max(MEMORY_MB * (last - first), MEMORY_GROWTH * before):
        return False
    epochs, megabytes = zip(*span, strict=True)
    return bool(np.corrcoef(epochs, megabytes)[0, 1] >= STEADY)


def memory_mb() -> float | None:
    """Memory of this process and those below it; None where it can't be read.

    PSS where the kernel knows it, else RSS, which counts shared pages several times.
    """
    try:
        own = psutil.Process()
        infos = [process.memory_full_info() for process in (own, *own.children(recursive=True))]
    except (psutil.Error, OSError):  # also a worker that has just ended: the next epoch will do
        return None
    return sum(getattr(info, "pss", info.rss) for info in infos) / 1e6
