"""The recipe that is made for a data set, and the reasons it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onestage.anchors import anchor_coverage
from onestage.data.table import Table, TableBuilder
from onestage.detectors import Detector, build, detector_config
from onestage.detectors.ssd import SSD300_VOC_SIZES
from onestage.input_size import KeepRatio, Stretch
from onestage.recipes.default import default_recipe
from onestage.structures import Categories


def table_of(boxes_xyxy: list[tuple[float, float, float, float]], images: int = 200) -> Table:
    """Images of 300x600 pixels (height, width) with these objects each."""
    builder = TableBuilder(Path("nowhere"), "trainval", "voc")
    objects = np.array(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    labels, ignored = [0] * len(objects), [False] * len(objects)
    for index in range(images):
        builder.add(
            path=f"{index}.jpg",
            image_id=str(index),
            size_hw=(300, 600),
            boxes_xyxy=objects,
            labels=labels,
            ignored=ignored,
        )
    return builder.build(Categories.from_names(["thing"]))


def test_box_sizes_are_those_in_the_stretched_input() -> None:
    assert table_of([(0, 0, 100, 30)], 2).box_sizes_hw(Stretch(300)).tolist() == [[30, 50], [30, 50]]


@pytest.mark.parametrize(("detector", "fresh_norms"), [("ssd300-vgg16", True), ("ssd300-test_efficientnet", False)])
def test_vgg16_gets_batch_norms_in_its_fresh_layers_and_light_backbones_have_their_own(
    detector: str, fresh_norms: bool
) -> None:
    recipe, reasons = default_recipe(detector, table_of([(0, 0, 120, 60)]), pretrained=True)
    assert recipe.network == (
        detector_config(detector).with_quick_start() if fresh_norms else detector_config(detector)
    )
    assert any("batch norms" in reason for reason in reasons) == fresh_norms


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_first_layers_are_trained_only_where_they_start_from_nothing(pretrained: bool) -> None:
    recipe, reasons = default_recipe("ssd300-test_efficientnet", table_of([(0, 0, 120, 60)]), pretrained=pretrained)
    assert recipe.train_stem != pretrained
    assert any("first layers keep" in reason for reason in reasons) == pretrained


def test_anchor_sizes_come_from_the_data_only_where_the_papers_do_not_meet_the_boxes() -> None:
    usual, _ = default_recipe("ssd300-test_efficientnet", table_of([(0, 0, 120, 60)]), pretrained=True)  # 60x60 there
    assert usual.network.anchor_sizes == SSD300_VOC_SIZES
    tiny, reasons = default_recipe(
        "ssd300-test_efficientnet", table_of([(0, 0, 24, 12)]), pretrained=True, tile="none"
    )  # 12x12
    assert tiny.network.anchor_sizes[0] <= 15
    assert any("anchors from the data (sizes" in reason for reason in reasons)


@pytest.mark.parametrize(("images", "epochs"), [(100, 300), (600, 100), (20_000, 12)])
def test_few_images_are_shown_more_often(images: int, epochs: float) -> None:
    recipe, _ = default_recipe("ssd300-test_efficientnet", table_of([], images), pretrained=True)
    assert recipe.epochs == epochs


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    recipe, _ = default_recipe("ssd300-test_efficientnet", table_of([], 5), pretrained=True)
    assert recipe.batch_size == 5


def test_box_sizes_are_those_in_an_input_that_keeps_proportions() -> None:
    table = table_of([(0, 0, 100, 30)], 2)  # 300 x 600: the longer side becomes 400, a factor of 2/3
    np.testing.assert_allclose(table.box_sizes_hw(KeepRatio(300, 400)), [[20, 200 / 3]] * 2)


def test_retinanets_batch_norms_are_frozen_only_over_imagenet_weights() -> None:
    table = table_of([(0, 0, 120, 60)])
    with_weights, _ = default_recipe("retinanet-resnet50", table, pretrained=True)
    without, reasons = default_recipe("retinanet-resnet50", table, pretrained=False)
    assert with_weights.network.backbone_norm == "frozen"
    assert without.network.backbone_norm == "batch"
    assert any("frozen ones" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("detector", "small"),
    [("retinanet-tf_efficientnet_lite0", (24, 12)), ("retinanet-resnet18", (12, 6)), ("m2det320-vgg16", (24, 12))],
)
def test_small_objects_get_smaller_anchors_in_every_family(detector: str, small: tuple[int, int]) -> None:
    usual, _ = default_recipe(detector, table_of([(0, 0, 240, 120)]), pretrained=True)
    tiny, _ = default_recipe(detector, table_of([(0, 0, *small)]), pretrained=True)
    papers = detector_config(detector).anchor_sizes
    assert usual.network.anchor_sizes == papers
    assert tiny.network.anchor_sizes[0] < papers[0]


def test_retinanet_gets_long_anchors_only_for_long_objects() -> None:
    # In the 320 x 320 input: 40 x 240 pixels, 6 times as long as broad. Of the paper's 1:2 the best overlap is
    # 40 * 113 against 181 x 90: below 0.25; of 1:5, 227 x 45 meets it.
    long, reasons = default_recipe("retinanet-tf_efficientnet_lite0", table_of([(0, 0, 75, 225)]), pretrained=True)
    assert long.network.aspect_ratios == (5.0, 2.0, 1.0, 0.5, 0.2)
    assert any("ratios 5, 2, 1, 0.5, 0.2" in reason for reason in reasons)
    usual, _ = default_recipe("retinanet-tf_efficientnet_lite0", table_of([(0, 0, 240, 120)]), pretrained=True)
    assert usual.network.aspect_ratios == (2.0, 1.0, 0.5)


def a_trained_detector() -> Detector:
    config = detector_config("ssd300-test_efficientnet").adjusted({"box_loss_weight": 3.0, "background_prior": 0.6})
    detector = build("ssd300-test_efficientnet", 2, config=config)
    detector.evaluation_selection = replace(detector.evaluation_selection, iou_threshold=0.3)
    return detector


def test_from_a_trained_detector_its_settings_stay_and_the_run_is_a_third_as_long() -> None:
    start, table = a_trained_detector(), table_of([(0, 0, 120, 60)], images=500)
    recipe, reasons = default_recipe(start.name, table, pretrained=True, start=start)
    assert recipe.network == start.config
    assert recipe.postprocessing.iou_threshold == 0.3
    assert (recipe.epochs, default_recipe(start.name, table, pretrained=True)[0].epochs) == (40, 120)
    assert any(reason.startswith("anchors of the trained detector: ") for reason in reasons)


def test_its_anchors_are_changed_where_they_meet_hardly_any_box_and_that_is_said() -> None:
    start = a_trained_detector()
    recipe, reasons = default_recipe(start.name, table_of([(0, 0, 20, 20)]), pretrained=True, start=start)
    assert recipe.network == start.config.adjusted({"anchor_sizes": recipe.network.anchor_sizes})  # pyright: ignore[reportAttributeAccessIssue]
    assert recipe.network != start.config
    assert "what its head learned about its own anchors is lost in part" in reasons


def test_of_a_trained_detector_of_another_name_no_setting_is_taken() -> None:
    table = table_of([(0, 0, 120, 60)])
    recipe, _ = default_recipe("ssd300-test_resnet", table, pretrained=True, start=a_trained_detector())
    assert recipe.network == detector_config("ssd300-test_resnet")
    assert recipe.postprocessing == recipe.network.PAPERS_SELECTION


def of_small_objects(detector: str = "ssd300-test_efficientnet", **options):
    return default_recipe(detector, table_of([(0, 0, 24, 14)] * 3), pretrained=True, **options)  # 13 px at 300


@pytest.mark.parametrize(
    "detector", ["ssd300-test_efficientnet", "m2det320-test_efficientnet", "gfl-test_efficientnet"]
)
def test_small_objects_get_a_larger_input_and_steps_of_as_many_pixels(detector: str) -> None:
    recipe, reasons = of_small_objects(detector)
    usual = detector_config(detector).made_for_data("test_efficientnet", pretrained=True)
    assert (recipe.network.input_resize, recipe.tiling) == (Stretch(384), None)  # 300 / 13 * 16 = 371
    assert any(
        reason.startswith("input of 384 x 384: 100% of the objects are then 16 px or more") for reason in reasons
    )
    pixels = usual.config.input_resize.side**2
    assert recipe.batch_size == round(usual.batch_size * pixels / 384**2)
    assert recipe.learning_rate == usual.learning_rate
    small = (
        anchor_coverage(np.full((1, 2), 16.6), recipe.network.anchor_shapes()) if recipe.network.anchor_shapes() else 1
    )
    assert small == 1  # anchors for the objects as they are in the larger input


@pytest.mark.parametrize("asked", [{"image_size": 300}, {"image_size": 320}])
def test_an_input_that_is_asked_for_stays_and_tiles_are_chosen_for_it(asked: dict[str, int]) -> None:
    recipe, _ = of_small_objects(settings=asked)
    assert recipe.network.input_resize == Stretch(asked["image_size"])
    assert recipe.tiling is not None
    assert recipe.tiling.side == pytest.approx(asked["image_size"] * (24 * 14) ** 0.5 / 16, abs=1)
    assert of_small_objects(tile="none", settings=asked)[0].tiling is None


@pytest.mark.parametrize("asked", [{"tile": "auto"}, {"tile": 100}, {"tile_overlap": 30}])
def test_who_asks_for_tiles_gets_them(asked: dict[str, str | int]) -> None:
    recipe, _ = of_small_objects(**asked)
    assert recipe.network.input_resize == Stretch(300)
    assert recipe.tiling is not None


def test_anchors_follow_the_input_that_is_asked_for() -> None:
    recipe, _ = default_recipe(
        "ssd300-test_efficientnet", table_of([(0, 0, 120, 60)]), pretrained=True, settings={"image_size": 600}
    )
    assert recipe.network.anchor_sizes == tuple(2 * size for size in SSD300_VOC_SIZES)  # boxes are twice as large, too
    assert (recipe.batch_size, recipe.learning_rate) == (4, 2e-3)


def test_the_reasons_name_the_augmentation_that_is_asked_for_or_when_another_does_better() -> None:
    for asked, told in (({}, "mild"), ({"augmentation": "none", "batch_size": 4}, "none")):
        _, reasons = default_recipe("ssd300-vgg16", table_of([(0, 0, 200, 100)]), pretrained=True, settings=asked)
        (line,) = (one for one in reasons if one.startswith("batches of "))
        assert f", {told} augmentation" in line
        assert ("--augmentation texture may do better" in line) == (told == "mild")


def test_of_a_trained_detector_the_input_stays() -> None:
    start = a_trained_detector()
    assert of_small_objects(start.name, start=start)[0].network.input_resize == start.resize


def test_a_backbone_learns_at_the_rate_that_was_measured_best_for_its_start_and_detector() -> None:
    table, light, ssd = table_of([(0, 0, 120, 60)]), "gfl-test_efficientnet", "ssd300-test_efficientnet"

    def factor(detector: str, start: Detector | None = None, pretrained: bool = True) -> float:
        recipe, _ = default_recipe(detector, table, pretrained=pretrained, start=start)
        return recipe.backbone_learning_rate_factor

    assert (factor(light), factor(ssd)) == (1.0, 0.5)
    assert factor(light, start=build(light, 1)) == 0.5
    assert factor(ssd, pretrained=False) == 1.0


@pytest.mark.parametrize(
    ("detector", "objects", "kept", "candidates"),
    [
        ("gfl-test_efficientnet", 100, 100, 6000),  # of the paper's 100
        ("gfl-test_efficientnet", 101, 202, 6000),
        ("ssd300-test_efficientnet", 200, 200, 200),
        ("ssd300-test_efficientnet", 250, 500, 2000),
    ],
)
def test_crowded_images_get_room_for_their_objects(detector: str, objects: int, kept: int, candidates: int) -> None:
    boxes = [(10.0 * (n % 50), 10.0 * (n // 50), 10.0 * (n % 50) + 30, 10.0 * (n // 50) + 30) for n in range(objects)]
    recipe, reasons = default_recipe(detector, table_of(boxes, 2), pretrained=True, tile="none")
    selection = recipe.postprocessing
    assert (selection.max_detections, selection.candidates_per_class) == (kept, candidates)
    said = f"up to {kept} detections an image or tile, not {objects // 100 * 100}: some have {objects} objects"
    assert (said in reasons) == (objects not in (100, 200))
