"""The first paragraph of the report: what the numbers say, as a colleague would say it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from onestage.evaluation.at_thresholds import AtThresholds, wilson_interval
from onestage.evaluation.coco_matching import MOST_DETECTIONS
from onestage.evaluation.mistakes import KINDS, MISSED
from onestage.structures import Categories

UNSURE = 0.1  # half of an interval of 95 % from which a class has too few objects to say how good it is
FEW_TO_LEARN = 50  # objects of a class in training
MOST_NAMED = 3  # classes by name in a sentence
KINDS_IN_WORDS = (
    "have the wrong class",
    "are boxes that fit badly",
    "have the wrong class and fit badly",
    "mark an object a second time",
    "are where nothing is",
)


@dataclass(frozen=True)
class TrainedOn:
    """What a run learned from, and what chose its weights."""

    images: int
    objects: Int64[np.ndarray, " K"]  # of each class, ignored ones aside
    chosen_on: str  # the split that chose the weights; "" for the last weights
    chosen_images: int
    chosen_on_these: bool  # the images that chose the weights are those of the report
    of_these: int = 0  # images of the report among those that it learned from


def in_words(at: AtThresholds, categories: Categories, trained_on: TrainedOn | None = None) -> list[str]:
    """Sentences on how much is found, what goes wrong, and how far the numbers can be trusted."""
    names = categories.names
    objects, hits, alarms = (int(column.sum()) for column in (at.objects, at.hits, at.false_alarms))
    if not objects:
        return [f"There are no objects in these {at.truth.num_images:,} images, so there is nothing to measure."]
    return [
        _how_much(at, objects, hits, alarms, trained_on),
        *_what_goes_wrong(at, names),
        *_which_classes(at, names),
        *_too_few(at, names),
        *_crowded(at),
        *_held_out(trained_on, names, at.truth.num_images),
    ]


def _how_much(at: AtThresholds, objects: int, hits: int, alarms: int, trained_on: TrainedOn | None) -> str:
    unseen = "" if trained_on is None or trained_on.of_these else " that it did not learn from"
    score = at.score_thresholds
    at_score = f"at scores above {score[0]:.3g}" if (score == score[0]).all() else "at the thresholds of its classes"
    images = f"{at.truth.num_images:,} image{'s' if at.truth.num_images > 1 else ''}"
    text = f"On {images}{unseen}, the model finds {hits:,} of {objects:,} objects ({percent(hits, objects)}) {at_score}"
    if not hits + alarms:
        return f"{text}; it marks nothing."
    if hits + alarms == 1:
        return f"{text}; its one mark is {'right' if hits else 'wrong'}."
    return f"{text}, and {hits:,} of its {hits + alarms:,} marks are right ({percent(hits, hits + alarms)})."


def _what_goes_wrong(at: AtThresholds, names: Sequence[str]) -> list[str]:
    """The commonest kind of false alarm, the pair of classes that is confused most, and what is not seen at all."""
    sentences = []
    kinds = at.kinds.sum(axis=0)
    alarms, most = int(kinds[:MISSED].sum()), int(kinds[:MISSED].argmax())
    if alarms > 1:
        count = int(kinds[most])
        share_of = "All" if count == alarms else "Most" if count > alarms / 2 else "The largest part"
        text = f"{share_of} of the {alarms:,} false alarms ({count:,}) {KINDS_IN_WORDS[most]}"
        if KINDS[most] == "background":
            label = int(at.kinds[:, most].argmax())
            text += f", {_of(int(at.kinds[label, most]), count)} as {names[label]}"
        sentences.append(f"{text}.")
    between = at.confusion[:-1, :-1] * ~np.eye(len(names), dtype=bool)
    if between.max() > 1:
        true, told = (int(place) for place in np.unravel_index(between.argmax(), between.shape))
        sentences.append(f"It takes {names[true]} for {names[told]} {between.max():,} times, the most of such mix-ups.")
    lost, unseen = int((at.objects - at.hits).sum()), int(kinds[MISSED])
    if lost > unseen:
        text = f"Of the {lost:,} objects that it does not find, {unseen:,} are not marked at all"
        others = "others are" if lost > unseen + 1 else "other one is"
        sentences.append(f"{text}; the {others}, but with another class or a box that fits badly.")
    elif lost:
        what = f"{lost:,} objects that it does not find are" if lost > 1 else "object that it does not find is"
        sentences.append(f"The {what} not marked at all.")
    return sentences


def _which_classes(at: AtThresholds, names: Sequence[str]) -> list[str]:
    f1 = np.where(at.objects > 0, at.f1, np.nan)
    if np.isfinite(f1).sum() < 2:
        return []
    worst, best = int(np.nanargmin(f1)), int(np.nanargmax(f1))
    if f"{f1[worst]:.2f}" == f"{f1[best]:.2f}":
        return []
    return [f"It is best at {names[best]} (F1 {f1[best]:.2f}) and worst at {names[worst]} ({f1[worst]:.2f})."]


def _too_few(at: AtThresholds, names: Sequence[str]) -> list[str]:
    """The classes whose recall may be anything, and how far it may be off."""
    low, high = wilson_interval(at.hits, at.objects).T
    unsure = np.flatnonzero((high - low > 2 * UNSURE) & (at.objects > 0))
    unsure = unsure[np.argsort(at.objects[unsure], kind="stable")]
    if not len(unsure):
        return []
    told = []
    for label in unsure[:MOST_NAMED].tolist():
        found, least, most = (percent(float(share[label])) for share in (at.recall, low, high))
        few = f"{names[label]} has {at.objects[label]:,}"
        ends = " or ".join(end for end in (least, most) if end != found)
        told.append(f"{few} (found: {found}, but {ends} would be no surprise)")
    others = len(unsure) - len(told)
    if others:
        told.append(f"{others} other class{'es' if others > 1 else ''} {'have' if others > 1 else 'has'} few, too")
    return [f"Too few objects to tell how good it is: {'; '.join(told)}."]


def _crowded(at: AtThresholds) -> list[str]:
    """Where images have more objects of a class than COCO's protocol counts: how high its AP can be."""
    counted, classes = ~at.truth.ignored, len(at.objects)
    image_and_class = at.truth.image_index[counted] * classes + at.truth.labels[counted]
    pairs, objects = np.unique(image_and_class, return_counts=True)
    if objects.max() <= MOST_DETECTIONS:
        return []
    crowded = len(np.unique(pairs[objects > MOST_DETECTIONS] // classes))
    seen = np.bincount(pairs % classes, np.minimum(objects, MOST_DETECTIONS), minlength=classes)
    most = float(np.mean(seen[at.objects > 0] / at.objects[at.objects > 0]))
    return [
        f"COCO's AP counts the best {MOST_DETECTIONS} detections of an image and class; {crowded:,} of these images "
        f"have more objects of one, so it can't be above {most:.2f} here. AP50 (VOC) counts all."
    ]


def _held_out(trained_on: TrainedOn | None, names: Sequence[str], images: int) -> list[str]:
    if trained_on is None:
        return ["Whether the model learned from these images is not known here; if it did, all figures flatter it."]
    if trained_on.of_these:
        which = f"{trained_on.of_these:,} of these images" if trained_on.of_these < images else "these images"
        return [f"It learned from {which}: the figures say how well it knows them, not what it finds in new ones."]
    chosen = f"{trained_on.chosen_on} ({trained_on.chosen_images:,} images)"
    if not trained_on.chosen_on:
        sentences = ["No images chose the weights: they are the last ones of the run."]
    elif trained_on.chosen_on_these:
        sentences = ["The same images chose the weights, so the figures flatter the model a little."]
    else:
        sentences = [f"The weights were chosen on other images, {chosen}, so these here are a fair test."]
    few = np.flatnonzero(trained_on.objects < FEW_TO_LEARN)
    few = few[np.argsort(trained_on.objects[few], kind="stable")]
    if len(few):
        told = [f"{names[label]} ({trained_on.objects[label]:,})" for label in few[:MOST_NAMED].tolist()]
        others = f" and {len(few) - len(told)} other classes" if len(few) > len(told) else ""
        sentences.append(f"Few objects to learn from had {', '.join(told)}{others}.")
    return sentences


def percent(part: float, whole: float = 1.0) -> str:
    """As "71 %", "99.7 %" (100 % is all); a dash of nothing."""
    if not whole:
        return "-"
    share = 100 * part / whole
    return f"{share:.1f} %" if 99.5 <= share < 99.95 else f"{share:.0f} %"


def _of(part: int, whole: int) -> str:
    return "all" if part == whole else f"{part:,} of them"
