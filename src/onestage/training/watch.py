"""What goes wrong in a run without stopping it, told in one line, once: anchors, classes, rate, loading, memory.

The numbers are kept on the processor and cost a few microseconds a step; nothing here waits for a GPU.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

import numpy as np
import psutil
from jaxtyping import Bool, Int64
from torch import Tensor

from onestage.data.table import Table
from onestage.training.batch_size import scaled_rate
from onestage.training.recipe import Recipe

STEPS_WITHOUT_POSITIVES = 50
LEAST_STEPS_WITHOUT_POSITIVES = 5  # where epochs are shorter: random crops may empty a few batches of a small set
SHOWINGS = 5  # of images with a class before its absence is told: a crop may cut off the only object
NAMES = 5  # of classes that are listed
RATE_FACTOR = 4.0  # either way from the scaled rate; papers' and recipes' own choices lie within it
FIRST_STEPS = 10  # not timed: kernels are compiled, readers start
BLOCK_STEPS, BLOCKS = 10, 5  # of steps that are timed; the worst block is left out, as a hiccup of the disk
WAITING_SHARE = 0.25  # of the time; below that, faster loading would save less than a quarter
FIRST_EPOCHS, FIRST_MEMORY_STEPS = 2, 100  # not measured: readers and caches fill
MEMORY_EPOCHS = (5, 11, 23, 47)  # spans over which growth is looked for; slow leaks need long ones
MEMORY_GROWTH = 0.05  # over a span, of what there was
MEMORY_MB = 10.0  # an epoch
STEADY = 0.9  # Kendall's tau of memory and time; noise reaches 1 over 5 epochs once in 720 times
MEASURING_COST = 0.01  # of the time


class Watch:
    """Looks at a run's steps; each kind of warning is given once."""

    def __init__(
        self,
        recipe: Recipe,
        table: Table,
        *,
        reference: Recipe | None,
        steps_per_epoch: int,
        say: Callable[[str], None],
    ) -> None:
        """Args:
        recipe: of the run.
        table: the training images.
        reference: the recipe before the user changed it, whose learning rate is right for its images a step.
        steps_per_epoch: of the run.
        say: given each warning, one line.
        """
        self._recipe, self._table, self._reference, self._say = recipe, table, reference, say
        self._meeting = _Meeting(steps_per_epoch)
        self._classes = _Classes(table, steps_per_epoch)
        self._loading = _Loading()
        self._memory = _Memory()

    def begin(self) -> None:
        """Tell what can be told before the first step."""
        if self._reference is not None:
            images = min(self._recipe.batch_size, max(1, len(self._table) * self._recipe.repeat))
            self._tell(learning_rate_warning(self._recipe, self._reference, images))
        self._tell(self._classes.missing())

    def step(
        self, labels: Int64[Tensor, " N"], num_positives: float, waited_s: float, spent_s: float, images: int
    ) -> None:
        """Take in one step.

        Args:
            labels: of the objects in the batch that are not ignored, on the CPU.
            num_positives: anchors of the whole batch that are to find an object.
            waited_s: for the batch.
            spent_s: on the step in all, waiting included.
            images: in the batch.
        """
        self._tell(self._meeting.step(len(labels), num_positives))
        self._classes.step(labels, images)
        self._tell(self._loading.step(waited_s, spent_s, images))
        self._memory.steps += 1

    def epoch(self) -> None:
        """Look back, at the end of every epoch."""
        self._tell(self._classes.epoch())
        self._tell(self._memory.epoch())

    def _tell(self, warning: str | None) -> None:
        if warning is not None:
            self._say(f"warning: {warning}")


def learning_rate_warning(recipe: Recipe, reference: Recipe, images: int) -> str | None:
    """Whether the rate is far from the reference's, scaled to this many images a step (`batch_size.scaled_rate`).

    Rates of different optimizers are not comparable: nothing is said of them.
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


class _Meeting:
    """Whether boxes and anchors meet at all."""

    def __init__(self, steps_per_epoch: int) -> None:
        self._patience = min(STEPS_WITHOUT_POSITIVES, max(steps_per_epoch, LEAST_STEPS_WITHOUT_POSITIVES))
        self._empty_patience = max(steps_per_epoch, self._patience)  # a sparse set has many images without objects
        self._steps = self._objects = self._steps_with_objects = 0  # since the last positive anchor
        self._told = False

    def step(self, objects: int, num_positives: float) -> str | None:
        if num_positives > 0:
            self._steps = self._objects = self._steps_with_objects = 0
            return None
        self._steps += 1
        self._objects += objects
        self._steps_with_objects += objects > 0
        if self._told:
            return None
        if self._steps_with_objects >= self._patience:
            self._told = True
            return (
                f"no anchor met a box in {self._steps} steps, though {self._objects:,} objects came; expected a few "
                "anchors an object: the boxes are of other sizes than the anchors, so leave out --anchor-sizes, or "
                "leave out --recipe: the default recipe makes anchors from the data"
            )
        if self._steps >= self._empty_patience and not self._objects:
            self._told = True
            return (
                f"not one object in the images of {self._steps} steps; expected some in most batches: look at the "
                "annotations of the training split"
            )
        return None


class _Classes:
    """Which classes the network gets to see."""

    def __init__(self, table: Table, steps_per_epoch: int) -> None:
        self._names, self._split, self._steps_per_epoch = table.categories.names, table.split, steps_per_epoch
        self._images_in_table, self._images_of_class = max(1, len(table)), images_of_class(table)
        self._seen: Bool[np.ndarray, " K"] = self._images_of_class == 0  # those are told of before the first step
        self._all_seen = bool(self._seen.all())
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
        if not self._all_seen:
            self._steps += 1
            self._images += images
            self._seen[labels.numpy()] = True

    def epoch(self) -> str | None:
        if self._all_seen or self._steps < self._steps_per_epoch:  # a resumed run begins in mid-epoch
            return None
        self._all_seen = bool(self._seen.all())
        passes = self._images / self._images_in_table  # of the data; a process of several sees its share only
        unseen = np.flatnonzero(~self._seen).tolist()
        if not any(passes * self._images_of_class[label] >= SHOWINGS for label in unseen):
            return None
        self._all_seen = True  # what comes later is not looked at
        images = int(self._images_of_class[unseen].sum())
        return (
            f"no object of {len(unseen)} of {len(self._names)} classes ({self._listed(unseen)}) came in "
            f"{self._steps:,} steps, though {images:,} image{'s have' if images > 1 else ' has'} one; expected "
            "each class in every epoch: crops cut them off, or the boxes are tiny. Crop less, or look at the boxes"
        )

    def _listed(self, labels: Sequence[int]) -> str:
        more = f" and {len(labels) - NAMES} more" if len(labels) > NAMES else ""
        return ", ".join(repr(self._names[label]) for label in labels[:NAMES]) + more


def images_of_class(table: Table) -> Int64[np.ndarray, " K"]:
    """How many images have an object of each class that is not ignored."""
    classes = len(table.categories)
    image = np.repeat(np.arange(len(table)), np.diff(table.first_object))[~table.ignored]
    pairs = np.unique(image * classes + table.labels[~table.ignored])  # (image, class), each once
    return np.bincount(pairs % max(1, classes), minlength=classes)


class _Loading:
    """Whether the network waits for images."""

    def __init__(self) -> None:
        self._steps, self._told = 0, False
        self._blocks: deque[list[float]] = deque(maxlen=BLOCKS)  # seconds waited and in all, images

    def step(self, waited_s: float, spent_s: float, images: int) -> str | None:
        if self._told:
            return None
        self._steps += 1
        timed = self._steps - FIRST_STEPS
        if timed <= 0:
            return None
        if timed % BLOCK_STEPS == 1:
            self._blocks.append([0.0, 0.0, 0.0])
        block = self._blocks[-1]
        block[0] += waited_s
        block[1] += spent_s
        block[2] += images
        if timed % BLOCK_STEPS or len(self._blocks) < BLOCKS:
            return None
        return self._look()

    def _look(self) -> str | None:
        usual = sorted(self._blocks)[:-1]
        waited, spent, images = (sum(column) for column in zip(*usual, strict=True))
        if not waited >= WAITING_SHARE * spent > 0:
            return None
        self._told = True
        working = spent - waited
        trained = f"{images / working:.3g}" if working > 0 else "many more"
        return (
            f"the network waits {waited / spent:.0%} of the time for images: {images / spent:.3g} images/s read, "
            f"{trained} could be trained; expected under {WAITING_SHARE:.0%}: use more --workers, smaller images or "
            "a faster disk"
        )


class _Memory:
    """Whether memory grows from epoch to epoch."""

    def __init__(self) -> None:
        self.steps = 0
        self._epochs = 0
        self._told = False
        self._measured: deque[tuple[int, float]] = deque(maxlen=max(MEMORY_EPOCHS) + 1)  # (epoch, MB)
        self._not_before = -math.inf

    def epoch(self) -> str | None:
        self._epochs += 1
        started = time.monotonic()
        early = self._epochs <= FIRST_EPOCHS or self.steps < FIRST_MEMORY_STEPS
        if self._told or early or started < self._not_before:
            return None
        megabytes = memory_mb()
        now = time.monotonic()
        self._not_before = now + (now - started) / MEASURING_COST
        if megabytes is None:
            return None
        self._measured.append((self._epochs, megabytes))
        for count in MEMORY_EPOCHS:
            span = list(self._measured)[-count - 1 :]
            if len(span) == count + 1 and grows(span):
                self._told = True
                return self._warning(span)
        return None

    @staticmethod
    def _warning(span: Sequence[tuple[int, float]]) -> str:
        (first, before), (last, after) = span[0], span[-1]
        return (
            f"memory of this process and its readers grew by {(after - before) / (last - first):.0f} MB an epoch, from "
            f"{before:,.0f} MB after epoch {first} to {after:,.0f} MB after epoch {last} of this start; expected it to "
            "stay level: before it runs out, stop with Ctrl-C and go on with --resume, and try fewer --workers"
        )


def grows(span: Sequence[tuple[int, float]]) -> bool:
    """Whether memory (epoch, MB) grows steadily: not in one jump, not levelling off, not by noise."""
    values = [megabytes for _, megabytes in span]
    gains = [after - before for before, after in pairwise(values)]
    growth = values[-1] - values[0]
    an_epoch = growth / (span[-1][0] - span[0][0])
    if an_epoch < MEMORY_MB or growth < MEMORY_GROWTH * values[0]:
        return False
    pairs = [(late > early) - (late < early) for i, early in enumerate(values) for late in values[i + 1 :]]
    steady = sum(pairs) >= STEADY * len(pairs)
    in_steps = median(gains) * len(gains) >= growth / 2  # the usual gain explains it
    goes_on = values[-1] - values[len(gains) // 2] >= growth / 3  # as much late as early, or nearly
    return steady and in_steps and goes_on


def memory_mb() -> float | None:
    """Of this process and those below it: PSS where the kernel tells it, else RSS, which counts shared pages often.

    None where it can't be read.
    """
    try:
        own = psutil.Process()
        infos = [process.memory_full_info() for process in (own, *own.children(recursive=True))]
    except (psutil.Error, OSError):  # a reader that just ended, too: the next epoch will do
        return None
    return sum(getattr(info, "pss", info.rss) for info in infos) / 1e6
