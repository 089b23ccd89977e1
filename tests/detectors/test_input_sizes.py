"""Another size of a square input: strides and anchor sizes follow it."""

from dataclasses import replace

import pytest
import torch

from onestage.detectors import build, detector_config
from onestage.detectors.multibox import MultiBoxConfig
from onestage.errors import UserError

# All strides that the papers' programs list, but M2Det's for 704 and 800 pixels, which follow no one rule
RELEASED = ("ssd300-vgg16", "ssd512-vgg16", "m2det320-vgg16", "m2det512-vgg16")
LIGHT = ("ssd300-test_efficientnet", "ssd512-test_efficientnet", "m2det320-test_efficientnet")


def at(name: str, image_size: int) -> MultiBoxConfig:
    config = detector_config(name).adjusted({"image_size": image_size})
    assert isinstance(config, MultiBoxConfig)
    return config


@pytest.mark.parametrize("name", [*RELEASED, "ssd512-test_efficientnet"])
def test_the_rule_gives_the_strides_that_were_released(name: str) -> None:
    released = detector_config(name)
    assert isinstance(released, MultiBoxConfig)
    other = replace(released, image_size=333)
    assert other.adjusted({"image_size": released.image_size}).strides == pytest.approx(released.strides, abs=0.5)


@pytest.mark.parametrize("image_size", [288, 320, 416, 640, 928])
@pytest.mark.parametrize("name", [*LIGHT, "ssd300-vgg16"])
def test_the_anchors_of_every_level_lie_over_the_whole_input(name: str, image_size: int) -> None:
    config = at(name, image_size)
    with torch.device("meta"):
        cells = build(name, 3, config=config).cells((image_size, image_size))
    assert [height for height, _, _ in cells] == config.cells_at(image_size)
    for (height, _, _), stride in zip(cells, config.strides, strict=True):
        covered = (height * stride) / image_size
        assert 0.9 <= covered <= 1.12  # cells of odd maps reach beyond the input, as SSD300's of 10 x 10 do
    usual = detector_config(name)
    assert isinstance(usual, MultiBoxConfig)
    share = [size / usual.image_size for size in usual.anchor_sizes]
    assert [size / image_size for size in config.anchor_sizes] == pytest.approx(share, abs=1e-6)


def test_strides_and_sizes_that_are_given_stay() -> None:
    usual = detector_config("ssd300-test_efficientnet")
    assert isinstance(usual, MultiBoxConfig)
    given = {"strides": (8, 16, 32, 64, 128, 256), "anchor_sizes": (9, 20, 40, 80, 160, 300, 320)}
    adjusted = usual.adjusted({"image_size": 600, **given})
    assert (adjusted.strides, adjusted.anchor_sizes) == (given["strides"], given["anchor_sizes"])
    assert usual.adjusted({"image_size": 300}) == usual


def test_an_input_that_is_too_small_for_the_levels_is_refused() -> None:
    with pytest.raises(UserError, match="image size 128: too small for the 6 levels of this SSD"):
        at("ssd300-test_efficientnet", 128)
