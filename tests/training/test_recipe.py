import json
from dataclasses import replace

import pytest

from onestage.data.augmentation import Augmentation, Crop, Expand
from onestage.detectors import detector_config
from onestage.errors import UserError
from onestage.recipes import RECIPES, named_recipe
from onestage.training.recipe import Recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = named_recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_an_augmentation_of_ones_own_survives_json() -> None:
    recipe = Recipe(augmentation=Augmentation((Crop(ious=(0.5,)), Expand(max=2.0))))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_the_papers_schedules() -> None:
    voc, coco = named_recipe("ssd300-voc0712"), named_recipe("ssd512-coco")
    assert voc.steps == 120_000
    assert [round(m * 120_000) for m in voc.milestones] == [80_000, 100_000]  # ssd_pascal.py of the release
    assert coco.steps == 400_000
    assert [round(m * 400_000) for m in coco.milestones] == [280_000, 360_000]  # ssd_coco.py of the release
    for recipe in (voc, coco):  # Liu 2016, 3
        assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay, recipe.batch_size) == (1e-3, 0.9, 5e-4, 32)


def test_another_length_replaces_the_recipes_own() -> None:
    recipe = Recipe(steps=100)
    assert recipe.with_length(minutes=3).steps is None
    assert recipe.with_length(minutes=3).minutes == 3
    assert recipe.with_length() is recipe


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 10, "epochs": 1.0}, "epochs and steps"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"milestones": (0.9, 0.5)}, "milestones"),
        ({"milestones": (80_000.0,)}, "milestones"),
        ({"epochs": float("nan")}, "epochs is nan; expected a number above 0"),
        ({"minutes": float("inf")}, r"minutes is inf; expected at most 1e\+12"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"seed": -1}, r"seed is -1; expected 0 to 9223372036854775807"),
        ({"seed": 2**70}, r"seed is 1180591620717411303424; expected 0 to"),
        ({"workers": -1}, "workers is -1; expected 0 to 1000"),
        ({"repeat": 10**9}, "repeat is 1000000000; expected 1 to 10000"),
        ({"momentum": float("nan")}, "momentum is nan; expected 0 to 1"),
        ({"ema_decay": 1.5}, "ema_decay is 1.5; expected 0 to 1"),
        ({"weight_decay": float("inf")}, "weight_decay is inf; expected 0 or more"),
        ({"gradient_clip": 0.0}, r"gradient_clip is 0\.0; expected a number above 0"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Recipe(**settings)  # pyright: ignore[reportArgumentType]


def test_a_field_of_another_version_is_named() -> None:
    with pytest.raises(UserError, match="gradient_noise"):
        Recipe.from_dict({**Recipe().as_dict(), "gradient_noise": 1})


def test_settings_reach_the_network_the_augmentation_and_the_post_processing_by_name() -> None:
    recipe = Recipe().with_settings(
        {
            "batch_size": 4,
            "negatives_per_positive": 2,
            "augmentation.expand-max": 2.0,
            "augmentation.crop_min_side": 0.5,
            "augmentation.fill": [1, 2, 3],
            "postprocessing.iou_threshold": 0.6,
            "ema_decay": None,
        }
    )
    assert recipe.batch_size == 4
    assert recipe.network.negatives_per_positive == 2.0
    varied = recipe.augmentation.as_dict()
    assert (varied["expand"]["max"], varied["crop"]["min_side"], varied["fill"]) == (2.0, 0.5, [1, 2, 3])
    assert varied["flip"] == Recipe().augmentation.as_dict()["flip"]
    assert recipe.postprocessing == replace(Recipe().postprocessing, iou_threshold=0.6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sfam": True}, "sfam: SSD has no such setting; it has anchor_sizes, aspect_ratios"),
        ({"augmentation.expand_most": 2.0}, "most"),
        ({"augmentation.rotate_degrees": 2.0}, "rotate"),
        ({"postprocessing.nms_iou": 0.5}, "unknown setting 'nms_iou'"),
        ({"learning_rate": "high"}, "learning_rate is 'high'; expected a number"),
    ],
)
def test_a_setting_that_is_not_there_or_does_not_fit_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe().with_settings(settings)


def test_another_detector_brings_its_own_settings() -> None:
    recipe = Recipe(batch_size=4).with_settings({"detector": "m2det320-vgg16", "sfam": True})
    assert recipe.batch_size == 4
    assert recipe.network == replace(detector_config("m2det320-vgg16"), sfam=True)
    assert recipe.postprocessing.nms == "soft-linear"


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest is 'ssd300-voc0712'"):
        named_recipe("ssd300-voc07")
