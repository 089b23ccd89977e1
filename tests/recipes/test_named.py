"""The named recipes: every one can be built and is held to account."""

from __future__ import annotations

import pytest

from onestage.data.augmentation.presets import FLIP_ONLY, M2DET_RELEASE, SSD_PAPER
from onestage.detectors import M2DetConfig, RetinaNetConfig, SSDConfig, detector_config
from onestage.errors import UserError
from onestage.input_size import KeepRatio
from onestage.recipes import RECIPES, named_recipe, summary
from onestage.training.schedule import learning_rate_factor


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits_its_detector_and_says_what_to_expect(name: str) -> None:
    recipe, about = named_recipe(name), summary(name)
    assert type(recipe.network) is type(detector_config(recipe.detector))
    assert about.what
    assert any(word in about.expected for word in ("AP", "nothing published"))
    assert about.measured


def test_a_result_nobody_has_run_says_so() -> None:
    assert summary("ssd300-voc0712").measured == "not run."
    assert summary("ssd300-voc0712").expected.startswith("77.2 mAP (11-point; Liu 2016, Table 6)")


def test_retinanets_1x_is_the_papers() -> None:
    """Lin 2017, 4.1: 16 images, 90,000 steps from 0.01, a tenth at 60,000 and 80,000, decay 0.0001, flips only."""
    recipe = named_recipe("retinanet-r50-coco")
    assert (recipe.batch_size, recipe.steps, recipe.learning_rate, recipe.weight_decay) == (16, 90_000, 0.01, 1e-4)
    factors = [learning_rate_factor(recipe, step, step / 90_000) for step in (1_000, 59_999, 60_000, 80_000)]
    assert factors == pytest.approx([1, 1, 0.1, 0.01])
    assert recipe.augmentation == FLIP_ONLY
    assert detector_config(recipe.detector).input_resize == KeepRatio(800, 1333)
    assert recipe.postprocessing == recipe.network.PAPERS_SELECTION


def test_retinanets_1x_warms_up_and_matches_as_detectron() -> None:
    """detectron/core/config.py: WARM_UP_ITERS 500, WARM_UP_FACTOR 1/3, BIAS_DOUBLE_LR True, BIAS_WEIGHT_DECAY False;
    roi_data/retinanet.py: all anchors that tie for an object's best, unless below NEGATIVE_OVERLAP 0.4."""
    recipe = named_recipe("retinanet-r50-coco")
    rates = [recipe.learning_rate * learning_rate_factor(recipe, step, step / 90_000) for step in (0, 250, 500)]
    assert rates == pytest.approx([0.01 / 3, 0.01 * 2 / 3, 0.01])
    assert (recipe.bias_learning_rate_factor, recipe.decay_all) == (2, False)
    network = recipe.network
    assert isinstance(network, RetinaNetConfig)
    assert (network.keep_best, network.best_iou, network.best_ties) == (True, 0.4, "all_nearest")


def test_retinanets_recipe_for_voc_is_mmdetections() -> None:
    """configs/pascal_voc/retinanet_r50_fpn_1x_voc0712.py and _base_/models/retinanet_r50_fpn.py: min_pos_iou 0,
    gt_max_assign_all, AnchorGenerator without a centre offset, FPN without ReLU before the extra convolutions, L1,
    torchvision://resnet50, SGD with decay of all parameters, no warm-up."""
    recipe = named_recipe("retinanet-r50-voc0712")
    network = recipe.network
    assert isinstance(network, RetinaNetConfig)
    assert (network.keep_best, network.best_iou, network.best_ties) == (True, 0, "all")
    assert (network.anchor_style, network.p7_relu, network.box_loss) == ("cornered", False, "l1")
    assert recipe.detector == "retinanet-resnet50.tv_in1k"
    assert (recipe.decay_all, recipe.warmup, recipe.warmup_steps) == (True, 0, 0)


@pytest.mark.parametrize(("name", "difficult"), [("ssd300-voc0712", True), ("ssd512-coco", False)])
def test_ssds_recipes_are_the_caffe_programs(name: str, difficult: bool) -> None:
    """ssd_pascal.py and ssd_coco.py: clip False; nms_param top_k 400, keep_top_k 200, confidence 0.01, NMS 0.45; biases
    lr_mult 2 and decay_mult 0; train_on_diff_gt; hue_delta 18 of OpenCV's 180; five interp_modes; the mean as fill."""
    recipe = named_recipe(name)
    assert isinstance(recipe.network, SSDConfig)
    assert recipe.network.clip_anchors == "none"
    kept = recipe.postprocessing
    assert (kept.candidates_per_class, kept.max_detections, kept.score_threshold) == (400, 200, 0.01)
    assert (kept.iou_threshold, kept.nms) == (0.45, "hard")
    assert (recipe.bias_learning_rate_factor, recipe.decay_all, recipe.weight_decay) == (2, False, 5e-4)
    assert recipe.train_difficult == difficult
    assert recipe.augmentation == SSD_PAPER
    settings = recipe.augmentation.as_dict()
    assert settings["colour"]["hue"] == 36
    assert sorted(settings["interpolate"]["kernels"]) == ["area", "cubic", "lanczos4", "linear", "nearest"]
    assert settings["fill"] == [123, 117, 104]


def test_gfls_schedule_is_mmdetections_1x() -> None:
    """configs/_base_/schedules/schedule_1x.py: 12 epochs from 0.01, a tenth from the epochs 8 and 11 on."""
    recipe = named_recipe("gfl-r50-coco")
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rate, recipe.weight_decay) == (16, 12, 0.01, 1e-4)
    factors = [learning_rate_factor(recipe, 10**6, epoch / 12) for epoch in (7.9, 8.1, 11.1)]
    assert factors == pytest.approx([1, 0.1, 0.01])
    # LinearLR from 0.001 to step 500, of 7,330 an epoch: COCO's 117,266 images with objects in batches of 16
    warming = [learning_rate_factor(recipe, 0, step / (12 * 7_330)) for step in (0, 250, 500)]
    assert warming == pytest.approx([0.001, 0.5005, 1])
    assert recipe.detector == "gfl-resnet50.tv_in1k"  # torchvision://resnet50
    assert (recipe.bias_learning_rate_factor, recipe.decay_all) == (1, True)
    assert recipe.augmentation == FLIP_ONLY


def test_m2dets_schedule_is_the_releases() -> None:
    """configs/m2det320_vgg.py: 0.004, 0.002, 0.0004, 0.00004, 0.000004 up to the epochs 90, 110, 130, 150, 160."""
    recipe = named_recipe("m2det320-vgg16-coco")
    rates = [
        recipe.learning_rate * learning_rate_factor(recipe, 10**6, epoch / 160) for epoch in (89, 91, 111, 131, 151)
    ]
    assert rates == pytest.approx([0.004, 0.002, 0.0004, 0.00004, 0.000004])
    warming = [recipe.learning_rate * learning_rate_factor(recipe, 0, epoch / 160) for epoch in (0, 2.5, 5)]
    assert warming == pytest.approx([1e-6, (1e-6 + 0.004) / 2, 0.004])  # utils/core.py: end_lr 1e-6, 5 epochs
    assert (recipe.batch_size, recipe.epochs, recipe.weight_decay) == (16, 160, 5e-4)
    assert recipe.augmentation == M2DET_RELEASE
    assert isinstance(recipe.network, M2DetConfig)
    assert (recipe.network.norm_momentum, recipe.decay_all, recipe.train_difficult) == (0.01, True, False)
    assert named_recipe("m2det800-vgg16-coco").batch_size == 9


def test_m2dets_schedule_for_voc_is_the_releases() -> None:
    """configs/m2det512_vgg.py: epochs 100, 150, 200, 250, 300; data/voc0712.py keeps difficult objects."""
    recipe = named_recipe("m2det512-vgg16-voc0712").with_length(steps=3_000)  # fractions stay what they are
    rates = [
        recipe.learning_rate * learning_rate_factor(recipe, 10**6, epoch / 300)
        for epoch in (0, 5, 99, 101, 151, 201, 251)
    ]
    assert rates == pytest.approx([1e-6, 0.004, 0.004, 0.002, 0.0004, 0.00004, 0.000004])
    assert recipe.train_difficult


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest is 'retinanet-r50-coco'"):
        named_recipe("retinanet-r50-cocoo")
