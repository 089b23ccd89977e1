"""The first paragraph of the report says what the numbers say."""

from __future__ import annotations

import numpy as np

from onestage.evaluation.at_thresholds import AtThresholds, count_at_thresholds
from onestage.evaluation.words import TrainedOn, in_words, percent
from onestage.structures import Categories, DetectionTable, GroundTruth

CATEGORIES = Categories.from_names(("dent", "rust"))
BOX, OTHER, FAR = (0, 0, 10, 10), (0, 0, 10, 3), (90, 90, 99, 99)


def judged(
    thresholds: tuple[float, float] = (0.5, 0.5), alarms: int = 3, images: int = 300, crowd: int = 0
) -> AtThresholds:
    """An object of class 0 in each of 200 images, of which 150 are found; one of class 1 in each of 10, 7 found.

    Three objects of class 0 are taken for class 1; two are badly placed; `alarms` of class 1 are where nothing is.
    The first `crowd` objects are in the first image.
    """
    image = np.arange(210)
    labels = np.where(image < 200, 0, 1)
    in_image = np.where(image < crowd, 0, image)
    truth = GroundTruth(
        images, in_image, labels, np.tile(np.array(BOX, float), (210, 1)), image < 0, np.full(210, 100.0)
    )
    hits = np.concatenate([np.arange(150), np.arange(200, 207)])
    rows = np.concatenate([hits, [150, 151, 152], [153, 154], np.arange(220, 220 + alarms)])
    label = np.concatenate([labels[hits], [1, 1, 1], [0, 0], np.full(alarms, 1)])
    boxes = np.array([BOX] * len(hits) + [BOX] * 3 + [OTHER] * 2 + [FAR] * alarms, dtype=np.float64)
    found = DetectionTable(rows, label, np.full(len(rows), 0.9), boxes)
    return count_at_thresholds(truth, found, np.array(thresholds))


def test_it_says_how_much_is_found_and_how_much_is_right() -> None:
    first = in_words(judged(), CATEGORIES)[0]

    assert first == (
        "On 300 images, the model finds 157 of 210 objects (75 %) at scores above 0.5, and 157 of its 165 marks are "
        "right (95 %)."
    )
    assert "at the thresholds of its classes" in in_words(judged((0.5, 0.3)), CATEGORIES)[0]


def test_it_names_the_commonest_mistake_the_confused_classes_and_the_worst_class() -> None:
    text = " ".join(in_words(judged(alarms=30), CATEGORIES))

    assert "Most of the 35 false alarms (30) are where nothing is, all as rust." in text
    assert "It takes dent for rust 3 times, the most of such mix-ups." in text
    assert "Of the 53 objects that it does not find, 48 are not marked at all; the others are," in text
    assert "It is best at dent (F1 0.85) and worst at rust (0.28)." in text  # 300 / 352 and 14 / 50


def test_it_says_which_class_has_too_few_objects_to_tell() -> None:
    text = " ".join(in_words(judged(), CATEGORIES))

    # Wilson's interval of 7 of 10, by any table; that of 150 of 200 is narrow.
    assert (
        "Too few objects to tell how good it is: rust has 10 (found: 70 %, but 40 % or 89 % would be no surprise)."
        in text
    )


def test_it_says_what_chose_the_weights_and_what_was_rare_in_training() -> None:
    def told(chosen_on: str, these: bool, objects: tuple[int, int] = (900, 12), of_these: int = 0) -> str:
        facts = TrainedOn(700, np.array(objects), chosen_on, 80, these, of_these)
        return " ".join(in_words(judged(), CATEGORIES, facts))

    assert "The weights were chosen on other images, val (80 images), so these here are a fair test." in told(
        "val", False
    )
    assert "The same images chose the weights, so the figures flatter the model a little." in told("val", True)
    assert "No images chose the weights" in told("", False)
    assert "Few objects to learn from had rust (12)." in told("val", False)
    assert "Few objects" not in told("val", False, (900, 900))
    assert "On 300 images that it did not learn from, " in told("val", False)
    seen = [told("val", True, of_these=count) for count in (300, 40)]
    assert "It learned from these images: the figures say how well it knows them" in seen[0]
    assert "It learned from 40 of these images: " in seen[1]
    assert not any("that it did not learn from" in one or "a fair test" in one for one in seen)
    assert "is not known here" in " ".join(in_words(judged(), CATEGORIES))


def test_it_says_so_where_there_is_nothing_to_measure_or_nothing_is_marked() -> None:
    none, boxes = np.zeros(0, dtype=np.int64), np.zeros((0, 4))
    found = DetectionTable(none, none, np.zeros(0), boxes)
    empty = GroundTruth(4, none, none, boxes, np.zeros(0, dtype=bool), np.zeros(0))
    assert in_words(count_at_thresholds(empty, found, np.full(2, 0.5)), CATEGORIES) == [
        "There are no objects in these 4 images, so there is nothing to measure."
    ]
    quiet = in_words(count_at_thresholds(judged().truth, found, np.full(2, 0.5)), CATEGORIES)
    assert quiet[0].endswith("the model finds 0 of 210 objects (0 %) at scores above 0.5; it marks nothing.")


def test_one_mark_and_one_class_like_another_are_told_in_few_words() -> None:
    at = judged()
    alone = at.found.rows(np.array([200 - 43]))  # class 0 as class 1
    assert alone.labels.tolist() == [1]

    text = in_words(count_at_thresholds(at.truth.rows(np.array([0, 209])), alone, np.full(2, 0.5)), CATEGORIES)

    assert text[0].endswith("finds 0 of 2 objects (0 %) at scores above 0.5; its one mark is wrong.")
    assert not any("false alarms" in one or "It is best at" in one for one in text)


def test_all_but_a_few_is_not_all_and_one_is_not_plural() -> None:
    at = judged()
    truth = at.truth.rows(np.append(np.arange(150), 209))  # 150 that are found, and one that is not

    text = " ".join(in_words(count_at_thresholds(truth, at.found.rows(np.arange(150)), np.full(2, 0.5)), CATEGORIES))

    assert "finds 150 of 151 objects (99 %)" in text
    assert "The object that it does not find is not marked at all." in text
    assert (percent(359, 360), percent(360, 360), percent(0, 0)) == ("99.7 %", "100 %", "-")


def test_it_says_how_high_cocos_ap_can_be_where_images_have_more_objects_than_it_counts() -> None:
    assert "COCO's AP" not in " ".join(in_words(judged(), CATEGORIES))
    # 150 dents in one image and 50 in another, 100 + 50 of which count, and 10 of rust: (150 / 200 + 10 / 10) / 2
    text = " ".join(in_words(judged(crowd=150), CATEGORIES))
    assert "COCO's AP counts the best 100 detections of an image and class; 1 of these images have more" in text
    assert "it can't be above 0.88 here" in text
