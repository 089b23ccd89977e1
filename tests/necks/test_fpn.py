"""The feature pyramid against torchvision's, whose layers it is made of."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from onestage.necks import FPN


@pytest.mark.parametrize("p6_from", ["c5", "p5"])
def test_five_levels_are_torchvisions(p6_from) -> None:
    torch.manual_seed(0)
    channels = [8, 16, 32]
    ours = FPN(channels, 8, p6_from)
    theirs = FeaturePyramidNetwork(channels, 8, extra_blocks=LastLevelP6P7(32 if p6_from == "c5" else 8, 8))
    names = {f"pyramid.{name}": name for name in theirs.state_dict() if "extra_blocks" not in name}
    names |= {name.removeprefix("extra_blocks."): name for name in theirs.state_dict() if "extra_blocks" in name}
    ours.load_state_dict({mine: theirs.state_dict()[name] for mine, name in names.items()})
    maps = [torch.randn(2, c, 16 // 2**i, 24 // 2**i) for i, c in enumerate(channels)]
    with torch.no_grad():
        found, expected = ours(maps), list(theirs(dict(zip("345", maps, strict=True))).values())
    assert [tuple(x.shape[-2:]) for x in found] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_relu_before_p7_can_be_left_out() -> None:
    torch.manual_seed(0)
    with_relu, without = FPN([4, 4, 4], 4), FPN([4, 4, 4], 4, p7_relu=False)
    without.load_state_dict(with_relu.state_dict())
    maps = [torch.randn(1, 4, 16 // 2**i, 16 // 2**i) for i in range(3)]
    first, second = with_relu(maps), without(maps)
    torch.testing.assert_close(first[3], second[3])
    assert not torch.allclose(first[4], second[4])
