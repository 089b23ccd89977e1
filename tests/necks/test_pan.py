from __future__ import annotations

import pytest
import torch

from onestage.necks import PAN


@pytest.mark.parametrize("levels", [3, 5])
def test_it_makes_maps_of_half_the_sides_each_from_odd_sizes_too(levels: int) -> None:
    neck = PAN((4, 6, 8), 16, levels).eval()
    with torch.no_grad():
        found = neck([torch.rand(2, c, h, w) for c, h, w in ((4, 13, 20), (6, 7, 10), (8, 4, 5))])
    sizes = [(13, 20), (7, 10), (4, 5), (2, 3), (1, 2)][:levels]
    assert [x.shape for x in found] == [(2, 16, *size) for size in sizes]
    assert neck.channels == (16,) * levels


def test_every_level_sees_every_map() -> None:
    """Top-down from the coarsest map to the finest level, and bottom-up from the finest map to the coarsest level."""
    torch.manual_seed(0)
    neck = PAN((4, 4, 4), 8, 4).eval()
    maps = [torch.rand(1, 4, side, side) for side in (16, 8, 4)]
    with torch.no_grad():
        before = neck(maps)
        for changed in range(3):
            after = neck([x + (index == changed) for index, x in enumerate(maps)])
            assert all(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
