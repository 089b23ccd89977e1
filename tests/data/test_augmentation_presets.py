"""Augmentations by name. What each does is drawn here; expected values: by hand."""

import numpy as np
import pytest

from onestage.data.augmentation import Augmentation
from onestage.data.augmentation.canvas import Canvas, Layer
from onestage.data.augmentation.presets import FLIP_ONLY, M2DET_RELEASE, SSD_PAPER, augmentation_named
from onestage.data.table import Objects
from onestage.errors import UserError
from onestage.training.recipe import Recipe

NO_OBJECTS = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
DRAWS = 400


def drawn(augmentation: Augmentation) -> list[Canvas]:
    layer = Layer(0, (60, 80), NO_OBJECTS)
    return [augmentation.draw(layer, np.random.default_rng(number), None) for number in range(DRAWS)]


def recipes(detector: str, **settings: object) -> Augmentation:
    return Recipe(detector).with_settings(settings).augmentation


def test_none_leaves_every_image_as_it_is() -> None:
    for canvas in drawn(recipes("ssd300-vgg16", augmentation="none")):
        assert canvas.view_xyxy == (0.0, 0.0, 80.0, 60.0)
        assert (canvas.transpose, canvas.mirror, canvas.upside_down) == (False, False, False)
        assert canvas.layers[0].pixel_changes == ()


@pytest.mark.parametrize(("preset", "turned"), [("mild", 0.0), ("texture", 0.5)])
def test_textures_are_turned_and_flipped_both_ways_and_mild_changes_only_mirror(preset: str, turned: float) -> None:
    canvases = drawn(recipes("gfl-resnet18", augmentation=preset))
    for name, share in (("mirror", 0.5), ("upside_down", turned), ("transpose", turned)):
        assert np.mean([getattr(one, name) for one in canvases]) == pytest.approx(share, abs=0.1 if share else 0)


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        ("ssd300-vgg16", SSD_PAPER),
        ("retinanet-resnet18", FLIP_ONLY),
        ("gfl-resnet18", FLIP_ONLY),
        ("m2det320-vgg16", M2DET_RELEASE),
    ],
)
def test_paper_is_that_of_the_detectors_own_paper(detector: str, expected: Augmentation) -> None:
    assert recipes(detector, augmentation="paper") == expected


def test_settings_of_transforms_change_a_preset_further() -> None:
    changed = recipes("gfl-resnet18", **{"augmentation": "none", "augmentation.flip-vertical-probability": 1.0})
    assert all(canvas.upside_down for canvas in drawn(changed))


def test_an_unknown_name_and_a_family_without_a_paper_are_refused() -> None:
    with pytest.raises(UserError, match="augmentation 'wild': expected paper, mild, texture, none"):
        recipes("gfl-resnet18", augmentation="wild")
    with pytest.raises(UserError, match="augmentation 'paper': expected mild, texture, none"):
        augmentation_named("paper", "FCOS")
