"""Numbers of channels and layers that no network can have, from an option, a recipe or a model file."""

from dataclasses import replace

import pytest

from onestage.detectors import detector_config
from onestage.errors import UserError


@pytest.mark.parametrize(
    ("detector", "settings", "message"),
    [
        ("retinanet-test_efficientnet", {"channels": 0}, "channels is 0; expected 1 to 4096"),
        ("retinanet-test_efficientnet", {"channels": 10**9}, "channels is 1000000000; expected 1 to 4096"),
        ("retinanet-test_efficientnet", {"centerness": True}, "centerness weighs the loss giou; set box_loss so"),
        ("gfl-test_efficientnet", {"channels": 0}, "channels is 0; expected 1 to 4096"),
        ("gfl-test_efficientnet", {"reg_max": 65}, "reg_max is 65; expected 1 to 64"),
        ("gfl-test_efficientnet", {"levels": 7}, "levels is 7; expected 3 to 6"),
        ("gfl-test_efficientnet", {"neck": "fpn"}, "levels 4: the neck fpn makes 5"),
        ("gfl-test_efficientnet", {"norm": "group", "channels": 40}, "expected a multiple of 32"),
        ("gfl-test_efficientnet", {"image_size": 300}, "GFL takes multiples of 32 pixels"),
        ("gfl-resnet18", {"image_size": 320, "edges": (300, 500)}, "images are resized one way; give one"),
        ("retinanet-test_efficientnet", {"subnet_depth": -1}, "subnet_depth is -1; expected 0 to 64"),
        ("retinanet-test_efficientnet", {"channels": 40, "subnet_norm": "group"}, "expected a multiple of 32"),
        ("m2det320-resnet50", {"channels": -4}, "channels is -4; expected 2 to 4096"),
        ("m2det320-resnet50", {"channels": 33}, "channels 33: expected an even number"),
        ("m2det320-test_resnet", {"base_channels": (3, 8)}, "base_channels .3, 8.: expected even numbers"),
        ("m2det320-resnet50", {"num_levels": 0}, "num_levels is 0; expected 1 to 64"),
        ("ssd300-test_efficientnet", {"neck_channels": 0}, "neck_channels is 0; expected 1 to 4096"),
    ],
)
def test_numbers_of_channels_and_layers_are_bounded(detector: str, settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(detector_config(detector), **settings)
