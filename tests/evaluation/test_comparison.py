"""Differences between runs, and when they are more than chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from measured_runs import measured_run

from onestage.errors import UserError
from onestage.evaluation.coco import coco_metrics
from onestage.evaluation.comparison import FEWEST_IMAGES, ONE_SEED, Difference, compare_sides, in_common
from onestage.evaluation.measured import Measured
from onestage.structures import Categories, DetectionTable, GroundTruth


def test_values_are_those_of_the_metrics() -> None:
    runs = [measured_run(0.7), measured_run(0.75)]

    comparison = compare_sides([[run] for run in runs])

    assert comparison.resamples == 1_000
    for name in ("AP", "AP50"):
        values = [coco_metrics(run.truth, run.found, 3)[name] for run in runs]
        assert comparison.values[name][:, 0].tolist() == pytest.approx(values, abs=1e-9)
        assert comparison.differences[name][1][0].points == pytest.approx(100 * (values[1] - values[0]), abs=1e-7)


def test_the_interval_is_that_of_a_proportion_where_ap_is_one() -> None:
    """One object an image, found or not, without false alarms: AP is the part that is found."""
    each, part = np.arange(200), 0.7
    boxes, one_class = np.tile([0.0, 0.0, 10.0, 10.0], (200, 1)), np.zeros(200, dtype=np.int64)
    truth = GroundTruth(200, each, one_class, boxes, np.zeros(200, dtype=bool), np.full(200, 100.0))
    hit = each < 200 * part
    found = DetectionTable(each[hit], one_class[hit], np.full(hit.sum(), 0.9), boxes[hit])
    nothing = DetectionTable(each[:0], each[:0], np.zeros(0), boxes[:0])
    a, b = (replace(measured_run(images=200, names=("ball",)), truth=truth, found=rows) for rows in (nothing, found))

    one = compare_sides([[a], [b]]).differences["AP"][1][0]

    assert one.points == pytest.approx(100 * part, abs=1)  # by 101 recalls
    assert one.interval == pytest.approx(ONE_SEED * 1.96 * 100 * np.sqrt(part * (1 - part) / 200), rel=0.08)


def test_a_run_equals_itself_and_a_much_better_one_is_better_in_each_class() -> None:
    a, same, better = measured_run(0.5), measured_run(0.5), measured_run(0.9)

    comparison = compare_sides([[a], [same], [better]])

    assert {str(one) for one in comparison.differences["AP"][1]} == {"+0.0 ± 0.0"}
    assert {one.verdict for metric in comparison.differences.values() for one in metric[1]} == {"equal"}
    assert {one.verdict for name in ("AP", "AP50") for one in comparison.differences[name][2]} == {"better"}
    assert comparison.sentence(1).startswith("no difference that these 60 images can show: AP of B less that of A is")
    assert comparison.sentence(2).startswith("C is better than A by ")
    assert compare_sides([[better], [a]]).sentence(1).startswith("B is worse than A by ")


def test_runs_that_differ_by_chance_are_called_equal_and_intervals_hold_in_95_of_100() -> None:
    """Seeds that hit other objects, but no more of them: all that images can tell."""
    verdicts, beyond, of_classes = [], 0, 0
    for seed in range(40):
        sides = [[measured_run(0.7, 2 * seed + one, data_seed=seed)] for one in (0, 1)]
        one, *classes = compare_sides(sides, metrics=["AP50"], most_work=200 * 600).differences["AP50"][1]
        verdicts.append(one.verdict)
        beyond += abs(one.points) > one.interval / ONE_SEED
        of_classes += any(abs(of_class.points) > of_class.interval / ONE_SEED for of_class in classes)

    assert verdicts.count("equal") >= 39
    assert 0 < beyond <= 6  # 5 % of 40 are 2; 7 or more come once in 300 times
    assert of_classes <= 6  # of any class: intervals hold together


def test_too_few_images_tell_nothing() -> None:
    few = [measured_run(quality, images=FEWEST_IMAGES - 1) for quality in (0.1, 0.9)]
    comparison = compare_sides([[one] for one in few])

    assert comparison.differences["AP"][1][0].verdict == "too few"
    assert comparison.sentence(1).startswith("19 images are too few to tell: ")
    assert Difference(float("nan"), 0.0, 1_000).verdict == "too few"
    assert str(Difference(float("nan"), 0.0, 1_000)) == "-"


def test_the_spread_of_seeds_widens_the_interval_by_students_t() -> None:
    a, other, b = (measured_run(0.7, seed) for seed in range(3))

    alone = compare_sides([[a], [b]]).values["AP"]
    both = compare_sides([[a, other], [b, b]])
    means = [[coco_metrics(run.truth, run.found, 3)["AP"] for run in side] for side in ((a, other), (b, b))]

    values = both.values["AP"][:, 0]
    assert values.tolist() == pytest.approx([np.mean(side) for side in means])
    assert alone[1, 0] == pytest.approx(values[1])
    variance = np.var(means[0], ddof=1) / 2  # pooled over both sides, 2 degrees of freedom
    of_seeds = 100 * 4.303 * np.sqrt(variance * (1 / 2 + 1 / 2))  # t of 97.5 %
    one = both.differences["AP"][1][0]
    assert one.interval > of_seeds
    images_alone = compare_sides([[_mixed(a, other)], [b]]).differences["AP"][1][0].interval / ONE_SEED
    assert one.interval == pytest.approx(np.hypot(of_seeds, images_alone), rel=0.35)


def _mixed(a: Measured, b: Measured) -> Measured:
    """Every second image as one run has it: as good as their mean, about."""
    columns = {}
    for name in ("image_index", "labels", "scores", "boxes_xyxy"):
        parts = [getattr(run.found, name)[run.found.image_index % 2 == half] for half, run in enumerate((a, b))]
        columns[name] = np.concatenate(parts)
    return replace(a, found=DetectionTable(**columns))


def test_images_that_changed_most_come_first_and_none_that_did_not() -> None:
    a = measured_run(0.7)
    first, second = a.found.image_index[a.found.scores > 0.9][[0, 3]].tolist()  # surely hits

    def without(*images: int) -> Measured:
        kept = ~np.isin(a.found.image_index, images)
        return replace(a, found=DetectionTable(*(values[kept] for values in vars(a.found).values())))

    assert compare_sides([[a], [without(second)]]).changed_images(1) == ([], [second])
    better, worse = compare_sides([[without(first, second)], [a]]).changed_images(1)
    assert (sorted(better), worse) == (sorted((first, second)), [])
    assert compare_sides([[without(first, second)], [a]]).changed_images(1, limit=1)[0] == better[:1]


def test_images_and_classes_that_not_all_have_are_left_out_and_named() -> None:
    a = measured_run(images=40)
    more = measured_run(images=50)
    same = replace(more.truth, **{
        name: np.concatenate([getattr(a.truth, name), values[more.truth.image_index >= 40]])
        for name, values in vars(more.truth).items() if isinstance(values, np.ndarray)
    })  # fmt: skip
    moved = same.boxes_xyxy.copy()
    moved[0] += 1  # of image 0
    more = replace(more, truth=replace(same, boxes_xyxy=moved), categories=Categories.from_names(("wall", "ball", "x")))
    swapped = replace(more, truth=replace(more.truth, labels=np.array([1, 0, 2])[more.truth.labels]))

    runs, said = in_common([a, swapped], ["A", "B"])

    assert said == [
        "A has 1 class that not all have, as star",
        "B has 1 class that not all have, as x",
        "B has 10 images that not all have, as 040.jpg",
        "1 image with other objects in B than in A, as 000.jpg",
        "compared on what all have alike: 39 images, 2 classes",
    ]
    for run in runs:
        assert run.image_names == a.image_names[1:]
        assert run.categories.names == ("ball", "wall")
        assert run.truth.num_images == 39
        assert len(run.score_thresholds) == 2
    assert sorted(runs[0].truth.labels.tolist()) == sorted(runs[1].truth.labels.tolist())


def test_the_same_objects_in_another_order_are_no_difference() -> None:
    a = measured_run()
    back = {name: values[::-1] for name, values in vars(a.truth).items() if isinstance(values, np.ndarray)}

    runs, said = in_common([a, replace(a, truth=replace(a.truth, **back))], ["A", "B"])

    assert said == []
    assert len(runs[0].image_names) == 60


def test_runs_without_an_image_in_common_are_refused_with_what_differs() -> None:
    other = measured_run()
    other = replace(other, image_names=tuple(f"b/{name}" for name in other.image_names))

    with pytest.raises(UserError, match=r"B has 60 images that not all have, as b/000.jpg; .*nothing to compare"):
        in_common([measured_run(), other], ["A", "B"])
    with pytest.raises(UserError, match="60 images with other objects in B than in A"):
        in_common([measured_run(), measured_run(data_seed=1)], ["A", "B"])
