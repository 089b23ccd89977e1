"""Warnings about a run that goes on but not well: anchors, classes, learning rate, loading, memory.

The numbers are kept on the CPU and cost a few microseconds a step; nothing here waits for a GPU.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
import psutil
from jaxtyping import Int64
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
        usual: Recipe | None,
        kept: Collection[str] = (),
        report: Callable[[str], None],
    ) -> None:
        """Begin to watch a training on `table`, and warn of what is known before the first step.

        `usual` is the recipe before the user changed it: its learning rate suits its batch size. `kept` are classes
        that need no objects. `report` is called with each warning, one line.
        """
        self._report, self._reported = report, set[str]()
        self._steps_per_epoch = steps_per_epoch
        self._steps = self._images = self._epochs = 0
        # Since the last positive anchor; objects that are not ignored.
        self._barren_steps = self._barren_steps_with_objects = self._objects_unmet = 0
        self._names, self._images_in_table = table.categories.names, max(1, len(table))
        self._images_of_class = images_of_class(table)
        self._seen = self._images_of_class == 0  # the classes without images are reported here
        self._timed: list[tuple[float, float, int]] = []  # steps: seconds waited and spent, images
        self._memory: list[tuple[int, float]] = []  # (epoch, MB)
        self._measure_memory_after = -math.inf
        if usual is not None and recipe.optimizer == usual.optimizer:  # others' rates can't be compared
            self._check_learning_rate(recipe, usual, min(recipe.batch_size, self._images_in_table * recipe.repeat))
        limit, most = recipe.postprocessing.max_detections, table.most_objects
        if limit is not None and most > limit:
            self._warn(
                "detections",
                f"a training image or tile has {most:,} objects, but at most {limit:,} detections of one are kept, so "
                f"others can't be found: use --postprocessing.max-detections {2 * most}",
            )
        missing = [label for label in np.flatnonzero(self._seen).tolist() if self._names[label] not in kept]
        if missing:
            self._warn(
                "missing classes",
                f"split {table.split!r} has no objects of {self._listed(missing)}; expected some of each: the network "
                "can't learn to find them. Add images, or take them out of the class list",
            )

    def step(self, labels: Int64[Tensor, " N"], positives: float, waited_s: float, spent_s: float, images: int) -> None:
        """Take note of one step, which took `spent_s`, of them `waited_s` until the batch came.

        `labels` are the classes of the batch's objects that are not ignored, on the CPU; `positives`, anchors of all
        ranks' batches that have an object to find.
        """
        self._steps += 1
        self._images += images
        self._seen[labels.numpy()] = True
        self._check_anchors(len(labels), positives)
        if self._steps > FIRST_STEPS:
            self._timed.append((waited_s, spent_s, images))
        if len(self._timed) < BLOCKS * BLOCK_STEPS:
            return
        blocks = np.array(self._timed).reshape(BLOCKS, BLOCK_STEPS, 3).sum(axis=1)
        self._timed.clear()
        waited, spent, seen = blocks[blocks[:, 0].argsort()[:-1]].sum(axis=0).tolist()
        if waited >= WAITING_SHARE * spent > 0:
            trained = f"{seen / (spent - waited):.3g}" if spent > waited else "many more"
            self._warn(
                "loading",
                f"the network waits {waited / spent:.0%} of the time for images: {seen / spent:.3g} images/s read, "
                f"{trained} could be trained; expected under {WAITING_SHARE:.0%}: use more --workers, smaller images "
                "or a faster disk",
            )

    def epoch(self) -> None:
        """Look back at the end of an epoch."""
        self._epochs += 1
        self._check_classes()
        started = time.monotonic()
        early = self._epochs <= FIRST_EPOCHS or self._steps < FIRST_MEMORY_STEPS
        if early or "memory" in self._reported or started < self._measure_memory_after:
            return
        megabytes = memory_mb()
        now = time.monotonic()
        self._measure_memory_after = now + (now - started) / MEASURING_COST
        if megabytes is None:
            return
        self._memory.append((self._epochs, megabytes))
        # A fast leak shows in the last epochs, a slow one in all of them.
        span = next((span for span in (self._memory[-MEMORY_EPOCHS:], self._memory) if grows(span)), None)
        if span is not None:
            (first, before), (last, after) = span[0], span[-1]
            self._warn(
                "memory",
                f"memory of this process and its readers grew by {(after - before) / (last - first):.0f} MB an epoch, "
                f"from {before:,.0f} MB after epoch {first} to {after:,.0f} MB after epoch {last} of this start; "
                "expected it to stay level: before it runs out, stop with Ctrl-C and go on with --resume, and try "
                "fewer --workers",
            )

    def _warn(self, kind: str, warning: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._report(f"warning: {warning}")

    def _check_learning_rate(self, recipe: Recipe, usual: Recipe, images: int) -> None:
        """Warn if the rate is far from the usual recipe's, scaled to this many images a step (`scaled_rate`)."""
        expected = scaled_rate(usual.optimizer, usual.learning_rate, images / usual.batch_size)
        factor = recipe.learning_rate / expected
        if 1 / RATE_FACTOR <= factor <= RATE_FACTOR:
            return
        rule = "in proportion" if usual.optimizer == "sgd" else "by the square root"
        far = f"{factor:.3g} times" if factor > 1 else f"1/{1 / factor:.3g} of"
        self._warn(
            "learning rate",
            f"learning rate {recipe.learning_rate:.3g} for {images} images a step is {far} the recipe's, which "
            f"is {usual.learning_rate:.3g} for {usual.batch_size} and, scaled {rule}, {expected:.2g} for "
            f"{images}; expected within {RATE_FACTOR:g} times of it: use --learning-rate {expected:.2g}",
        )

    def _check_anchors(self, objects: int, positives: float) -> None:
        """Warn if no object overlaps any anchor, or no image has one."""
        if positives > 0:
            self._barren_steps = self._barren_steps_with_objects = self._objects_unmet = 0
            return
        self._barren_steps += 1
        self._barren_steps_with_objects += objects > 0
        self._objects_unmet += objects
        patience = min(STEPS_WITHOUT_POSITIVES, max(self._steps_per_epoch, LEAST_STEPS_WITHOUT_POSITIVES))
        if self._barren_steps_with_objects >= patience:
            self._warn(
                "anchors",
                f"no anchor met a box in {self._barren_steps} steps, though {self._objects_unmet:,} objects came; "
                "expected a few anchors an object: the boxes are of other sizes than the anchors, so leave out "
                "--anchor-sizes, or leave out --recipe: the default recipe makes anchors from the data",
            )
        elif not self._objects_unmet and self._barren_steps >= max(self._steps_per_epoch, patience):
            # Not sooner: a sparse set has many images without objects.
            self._warn(
                "anchors",
                f"not one object in the images of {self._barren_steps} steps; expected some in most batches: look at "
                "the annotations of the training split",
            )

    def _check_classes(self) -> None:
        """Warn of classes that the network never saw."""
        unseen = np.flatnonzero(~self._seen).tolist()
        showings = self._images / self._images_in_table  # of the data; one of several ranks sees its share
        due = any(showings * self._images_of_class[label] >= SHOWINGS for label in unseen)
        if self._steps >= self._steps_per_epoch and due:  # a resumed run begins in the middle of an epoch
            images = int(self._images_of_class[unseen].sum())
            self._warn(
                "unseen classes",
                f"no object of {self._listed(unseen)} came in {self._steps:,} steps, though {images:,} "
                f"image{'s have' if images > 1 else ' has'} one; expected each class in every epoch: crops cut them "
                "off, or the boxes are tiny. Crop less, or look at the boxes",
            )

    def _listed(self, labels: Sequence[int]) -> str:
        names = ", ".join(repr(self._names[label]) for label in labels[:CLASSES_NAMED])
        more = f" and {len(labels) - CLASSES_NAMED} more" if len(labels) > CLASSES_NAMED else ""
        return f"{len(labels)} of {len(self._names)} classes ({names}{more})"


def images_of_class(table: Table) -> Int64[np.ndarray, " K"]:
    """The number of images that have an object of each class; ignored objects do not count."""
    classes = len(table.categories)
    image = np.repeat(np.arange(len(table)), np.diff(table.first_object))[~table.ignored]
    pairs = np.unique(image * classes + table.labels[~table.ignored])  # (image, class), each once
    return np.bincount(pairs % max(1, classes), minlength=classes)


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
