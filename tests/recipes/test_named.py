"""The named recipes: every one can be built and is held to account."""

from __future__ import annotations

import pytest

from onestage.data.augmentation import FLIP_ONLY, SSD_PAPER
from onestage.detectors import detector_config
from onestage.errors import UserError
from onestage.input_size import KeepRatio
from onestage.recipes import RECIPES, named_recipe, summary
from onestage.training.schedule import learning_rate_factor


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits_its_detector_and_says_what_to_expect(name: str) -> None:
    recipe, about = named_recipe(name), summary(name)
    assert type(recipe.network) is type(detector_config(recipe.detector))
    assert recipe.postprocessing == recipe.network.PAPERS_SELECTION
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


def test_gfls_schedule_is_mmdetections_1x() -> None:
    """configs/_base_/schedules/schedule_1x.py: 12 epochs from 0.01, a tenth from the epochs 8 and 11 on."""
    recipe = named_recipe("gfl-r50-coco")
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rate, recipe.weight_decay) == (16, 12, 0.01, 1e-4)
    factors = [learning_rate_factor(recipe, 10**6, epoch / 12) for epoch in (7.9, 8.1, 11.1)]
    assert factors == pytest.approx([1, 0.1, 0.01])
    assert recipe.augmentation == FLIP_ONLY


def test_m2dets_schedule_is_the_releases() -> None:
    """configs/m2det320_vgg.py: 0.004, 0.002, 0.0004, 0.00004, 0.000004 up to the epochs 90, 110, 130, 150, 160."""
    recipe = named_recipe("m2det320-vgg16-coco")
    rates = [
        recipe.learning_rate * learning_rate_factor(recipe, 10**6, epoch / 160) for epoch in (89, 91, 111, 131, 151)
    ]
    assert rates == pytest.approx([0.004, 0.002, 0.0004, 0.00004, 0.000004])
    assert (recipe.batch_size, recipe.epochs, recipe.weight_decay) == (16, 160, 5e-4)
    assert recipe.augmentation == SSD_PAPER
    assert named_recipe("m2det800-vgg16-coco").batch_size == 9


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest is 'retinanet-r50-coco'"):
        named_recipe("retinanet-r50-cocoo")
