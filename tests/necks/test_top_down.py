"""The top-down path."""

import torch
from torch import nn

from onestage.necks import TopDown


def identity_neck(levels: int) -> TopDown:
    """One channel; every convolution and norm passes its input on."""
    neck = TopDown([1] * levels, 1).eval()
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return neck


def test_each_map_is_its_own_plus_the_coarser_ones_enlarged() -> None:
    fine, middle, coarse = (
        torch.ones(1, 1, 4, 4),
        torch.tensor([[[[10.0, 20], [30, 40]]]]),
        torch.full((1, 1, 1, 1), 100.0),
    )
    maps = identity_neck(3)([fine, middle, coarse])
    assert maps[2].flatten().tolist() == [100]
    assert maps[1].flatten().tolist() == [110, 120, 130, 140]
    assert maps[0][0, 0].tolist() == [[111, 111, 121, 121]] * 2 + [[131, 131, 141, 141]] * 2


def test_odd_sizes_stay_as_they_are() -> None:
    neck = TopDown([3, 5, 7], 4).eval()
    maps = neck([torch.rand(2, 3, 19, 38), torch.rand(2, 5, 10, 19), torch.rand(2, 7, 5, 10)])
    assert [tuple(x.shape) for x in maps] == [(2, 4, 19, 38), (2, 4, 10, 19), (2, 4, 5, 10)]


def test_one_map_is_smoothed_only() -> None:
    (only,) = identity_neck(1)([torch.tensor([[[[2.0, -3.0]]]])])
    assert only.flatten().tolist() == [2, 0]  # ReLU


def test_the_coarsest_map_teaches_from_the_finest_output() -> None:
    inputs = [torch.rand(1, 2, 4, 4), torch.rand(1, 2, 2, 2, requires_grad=True)]
    TopDown([2, 2], 3).eval()(inputs)[0].square().sum().backward()
    assert inputs[1].grad.abs().sum() > 0
