"""Is one detector better than another? The difference on the same images, with what another draw of images might do.

The interval is the paired bootstrap's (Efron & Tibshirani 1993, 16): all runs are measured on the same resamples of the
images, and its half width is what 95 % of the resamples' differences deviate at most. Where several differences stand
side by side (classes, runs), it is wide enough for all of them to hold together (Westfall & Young 1993, max-t): among
80 classes, one in twenty would be "better" by chance otherwise.

Images say nothing of what another seed would have done. Where a recipe was run with several seeds, their means are
compared, and the spread among them widens the interval by Student's t. Where none was, intervals are wider by a factor
that lets pairs of seeds be equal: docs/ledger.md, "Seeds".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int64

from onestage.errors import UserError
from onestage.evaluation.measured import Measured
from onestage.evaluation.resampling import IOUS, Counts, average_precision, count_objects, draw_resamples
from onestage.structures import Categories
from onestage.texts import counted

METRICS = ("AP", "AP50", "F1")
CONFIDENCE = 0.95
MOST_RESAMPLES, FEWEST_RESAMPLES = 1_000, 100
MOST_WORK = 1 << 30  # detections, and objects at each IoU, times resamples: some ten seconds
FEWEST_IMAGES = 20  # with a class's objects: intervals from fewer are too narrow
ONE_SEED = 1.5  # times as wide are intervals where no side has several seeds
STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # 97.5 %, of 1 to 10 degrees of freedom


@dataclass(frozen=True)
class Difference:
    """A run's value less the first run's, in points (hundredths), and half the width of its 95 % interval."""

    points: float  # NaN where neither has a value
    interval: float
    images: int  # that can tell: with objects of the class

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.points) and np.isfinite(self.interval))

    @property
    def verdict(self) -> str:
        """better, worse, equal (as far as these images can show), or too few (images to tell)."""
        if self.images < FEWEST_IMAGES or not self.known:
            return "too few"
        return "equal" if abs(self.points) <= self.interval else "better" if self.points > 0 else "worse"

    def __str__(self) -> str:
        return f"{self.points:+.1f} ± {self.interval:.1f}" if self.known else "-"


@dataclass(frozen=True)
class Comparison:
    """Several sides (each a recipe's runs, one a seed) on the same images; the first is what others are held against.

    Legend: S sides, K classes, I images. Of values, the first of a metric's K+1 are those of all classes together: the
    mean of AP, and F1 over all objects.
    """

    categories: Categories
    images: int
    objects: Int64[np.ndarray, " K"]
    resamples: int
    values: dict[str, Float[np.ndarray, "S C"]]  # by metric; NaN where there is none
    differences: dict[str, list[list[Difference]]]  # by metric, side (the first has none) and class as in `values`
    counts: list[Counts]  # of each side's first run

    def sentence(self, side: int, metric: str = "AP") -> str:
        """What the images say of a side, against the first; sides are called A, B, C ..."""
        one, name, images = self.differences[metric][side][0], side_name(side), counted(self.images, "image")
        if one.verdict in ("better", "worse"):
            size = f"{abs(one.points):.1f} ± {one.interval:.1f}"
            return f"{name} is {one.verdict} than A by {size} points of {metric} (95 %, {images})"
        why = f"no difference that these {images} can show"
        if one.verdict == "too few":
            why = f"{images} are too few to tell"
        return f"{why}: {metric} of {name} less that of A is {one} points (95 %)"

    def changed_images(self, side: int, limit: int = 6) -> tuple[list[int], list[int]]:
        """The images that a side does better and worse than the first, by F1, those that changed most first."""
        change = self.counts[side].f1_by_image - self.counts[0].f1_by_image
        mistakes = self.counts[side].mistakes_by_image - self.counts[0].mistakes_by_image
        better, worse = np.lexsort((mistakes, -change)), np.lexsort((-mistakes, change))
        return better[change[better] > 0][:limit].tolist(), worse[change[worse] < 0][:limit].tolist()


def side_name(side: int) -> str:
    """A, B, C ... by number."""
    return chr(ord("A") + side)


def compare_sides(
    sides: Sequence[Sequence[Measured]],
    *,
    metrics: Sequence[str] = METRICS,
    most_work: int = MOST_WORK,
    advance: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Compare runs on the same images and classes, as `in_common` gives them.

    Args:
        sides: of each side, its runs.
        metrics: of `METRICS`; without AP it is much faster.
        most_work: bounds the number of resamples.
        advance: called with the number of classes that are done, so many for each run.
    """
    first, runs = sides[0][0], [run for side in sides for run in side]
    truth, num_classes = first.truth, len(first.categories)
    ious = IOUS if "AP" in metrics else IOUS[:1]
    work = max(len(run.found.scores) for run in runs) + len(ious) * len(truth.labels)
    resamples = int(np.clip(most_work // work, FEWEST_RESAMPLES, MOST_RESAMPLES))
    weights = draw_resamples(truth.num_images, resamples)
    counts = [[count_objects(run.truth, run.found, run.score_thresholds) for run in side] for side in sides]

    def of_run(run: Measured, counted: Counts) -> Float[np.ndarray, "M C R"]:
        ap = average_precision(truth, run.found, num_classes, weights, iou_thresholds=ious, advance=lambda: advance(1))
        all_values = {"AP": _with_mean(ap.mean(axis=1)), "AP50": _with_mean(ap[:, 0]), "F1": counted.f1(weights)}
        return np.stack([all_values[name] for name in metrics])

    values = [
        np.stack([of_run(run, one) for run, one in zip(side, counted, strict=True)])
        for side, counted in zip(sides, counts, strict=True)
    ]  # of each side, (runs, M, K+1, R); the first of R is the data set itself
    images = np.array([truth.num_images, *_images_with_objects(first)])
    means = np.stack([one.mean(axis=0) for one in values])  # (S, M, K+1, R)
    spread = _spread_of_seeds([one[..., 0] for one in values])  # (S, M, K+1)

    def of_metric(row: int) -> list[list[Difference]]:
        return _differences(means[:, row], None if spread is None else spread[:, row], images)

    return Comparison(
        categories=first.categories,
        images=truth.num_images,
        objects=np.bincount(truth.labels[~truth.ignored], minlength=num_classes),
        resamples=resamples,
        values={name: means[:, row, :, 0] for row, name in enumerate(metrics)},
        differences={name: of_metric(row) for row, name in enumerate(metrics)},
        counts=[side[0] for side in counts],
    )


def _with_mean(by_class: Float[np.ndarray, "K R"]) -> Float[np.ndarray, "C R"]:
    """The mean over the classes with a value, then those."""
    known = np.isfinite(by_class)
    count = known.sum(axis=0)
    mean = np.where(known, by_class, 0).sum(axis=0) / np.maximum(1, count)
    return np.concatenate([np.where(count, mean, np.nan)[None], by_class])


def _images_with_objects(run: Measured) -> list[int]:
    """How many images have objects of each class."""
    counted = ~run.truth.ignored
    pairs = np.unique(np.stack([run.truth.labels[counted], run.truth.image_index[counted]]), axis=1)
    return np.bincount(pairs[0], minlength=len(run.categories)).tolist()


def _spread_of_seeds(values: Sequence[np.ndarray]) -> np.ndarray | None:
    """Of each side less the first, half the width of the 95 % interval by the spread among seeds; None without any."""
    freedom = sum(len(side) - 1 for side in values)
    if not freedom:
        return None
    variance = sum(((side - side.mean(axis=0)) ** 2).sum(axis=0) for side in values) / freedom
    student = STUDENT_T[freedom - 1] if freedom <= len(STUDENT_T) else 1.96 + 2.4 / freedom
    return np.stack([student * np.sqrt(variance * (1 / len(side) + 1 / len(values[0]))) for side in values])


def _differences(
    means: Float[np.ndarray, "S C R"], spread: Float[np.ndarray, "S C"] | None, images: Int64[np.ndarray, " C"]
) -> list[list[Difference]]:
    """The differences of a metric. Those of all classes together, and those of single ones, are a family each."""
    points = 100 * (means[1:] - means[:1])
    together = _half_widths(points[:, :1], images[:1])
    by_class = _half_widths(points[:, 1:], images[1:])
    half_widths = np.concatenate([together, by_class], axis=1)
    half_widths = ONE_SEED * half_widths if spread is None else np.hypot(half_widths, 100 * spread[1:])
    return [[]] + [
        [Difference(float(value), float(half), int(count)) for value, half, count in zip(*row, images, strict=True)]
        for row in zip(points[..., 0], half_widths, strict=True)
    ]


def _half_widths(points: Float[np.ndarray, "S K R"], images: Int64[np.ndarray, " K"]) -> Float[np.ndarray, "S K"]:
    """Half widths of intervals that hold together with 95 %; classes of too few images do not widen the others'."""
    deviation = np.abs(points[..., 1:] - points[..., :1])
    known = np.isfinite(deviation)
    deviation = np.where(known, deviation, 0)
    scale = np.sqrt((deviation**2).sum(axis=-1) / np.maximum(1, known.sum(axis=-1)))
    studentised = np.divide(deviation, scale[..., None], out=np.zeros_like(deviation), where=scale[..., None] > 0)
    family = studentised[:, images >= FEWEST_IMAGES]
    largest = (family if family.size else studentised).max(axis=(0, 1), initial=0)  # of each resample
    return np.quantile(largest, CONFIDENCE) * scale


def in_common(runs: Sequence[Measured], names: Sequence[str]) -> tuple[list[Measured], list[str]]:
    """The runs on the images, with the same objects, and the classes that all of them have, and what was left out.

    Args:
        names: of the runs, for the words.

    Raises:
        UserError: there is no such image or class.
    """
    classes = [name for name in runs[0].categories.names if all(name in run.categories.label_of for run in runs)]
    said = _left_out(names, "class", [set(run.categories.names) for run in runs], len(classes))
    images = [set(run.image_names) for run in runs]
    shared = set.intersection(*images)
    chosen = [name for name in runs[0].image_names if name in shared]
    said += _left_out(names, "image", images, len(chosen))
    if chosen and classes:
        reduced = [_reduced(run, chosen, classes) for run in runs]
        other = np.zeros(len(chosen), dtype=bool)
        for run, name in zip(reduced[1:], names[1:], strict=True):
            differ = _other_objects(reduced[0], run)
            if differ.any():
                example = chosen[int(differ.argmax())]
                images = counted(int(differ.sum()), "image")
                said.append(f"{images} with other objects in {name} than in {names[0]}, as {example}")
            other |= differ
        chosen = [name for name, differs in zip(chosen, other, strict=True) if not differs]
    if not chosen or not classes:
        raise UserError("; ".join([*said, "so there is nothing to compare; evaluate both on the same data and split"]))
    if said:
        alike = f"{counted(len(chosen), 'image')}, {counted(len(classes), 'class')}"
        said.append(f"compared on what all have alike: {alike}")
    return [_reduced(run, chosen, classes) for run in runs], said


def _left_out(names: Sequence[str], what: str, sets: Sequence[set[str]], shared: int) -> list[str]:
    """A line for each run that has more than all have in common."""
    common = set.intersection(*sets)
    return [
        f"{name} has {counted(len(own) - shared, what)} that not all have, as {min(own - common)}"
        for name, own in zip(names, sets, strict=True)
        if len(own) > shared
    ]


def _reduced(run: Measured, images: Sequence[str], classes: Sequence[str]) -> Measured:
    """A run on some of its images and classes, in this order."""
    if tuple(images) == run.image_names and tuple(classes) == run.categories.names:
        return run
    place = {name: number for number, name in enumerate(images)}
    new_image = np.array([place.get(name, -1) for name in run.image_names], dtype=np.int64)
    old_labels = [run.categories.label_of[name] for name in classes]
    new_label = np.full(len(run.categories), -1)
    new_label[old_labels] = np.arange(len(classes))
    tables = []
    for rows in (run.truth, run.found):
        image_index, labels = new_image[rows.image_index], new_label[rows.labels]
        kept = (image_index >= 0) & (labels >= 0)
        columns = {name: values[kept] for name, values in vars(rows).items() if isinstance(values, np.ndarray)}
        tables.append(replace(rows, **columns | {"image_index": image_index[kept], "labels": labels[kept]}))
    truth, thresholds = replace(tables[0], num_images=len(images)), run.score_thresholds[old_labels]
    return replace(
        run,
        truth=truth,
        found=tables[1],
        categories=Categories.from_names(classes),
        image_names=tuple(images),
        score_thresholds=thresholds,
    )


def _other_objects(a: Measured, b: Measured) -> np.ndarray:
    """True for the images (I,) whose objects are not the same in both."""
    rows = [
        np.column_stack([one.truth.image_index, one.truth.labels, one.truth.ignored, one.truth.boxes_xyxy])
        for one in (a, b)
    ]
    each, inverse = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    more = np.bincount(inverse.ravel(), np.repeat([1, -1], [len(one) for one in rows]), minlength=len(each))
    differs = np.zeros(a.truth.num_images, dtype=bool)
    differs[each[more != 0, 0].astype(np.int64)] = True
    return differs
