import copy

import pytest
import timm
import torch

from onestage.errors import UserError
from onestage.training.precision import choose_compute, wide_depthwise_in_float32


def test_the_choice_is_said_with_its_reason() -> None:
    compute = choose_compute("cpu")
    amx = torch.cpu._is_amx_tile_supported()
    assert compute.dtype == (torch.bfloat16 if amx else torch.float32)
    assert "AMX" in compute.reason


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_precision_that_is_asked_for_is_used(precision: str, dtype: torch.dtype) -> None:
    compute = choose_compute("cpu", precision)
    with compute.autocast():
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype == dtype


def test_a_placed_network_has_its_channels_last() -> None:
    conv = choose_compute("cpu").place(torch.nn.Conv2d(3, 8, 3))
    assert conv.get_parameter("weight").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(UserError, match=device):
        choose_compute(device)


def test_a_network_with_wide_depthwise_convolutions_can_be_copied_and_keeps_its_names() -> None:
    body = timm.create_model("tf_efficientnet_lite0", features_only=True)
    names = list(body.state_dict())
    wide_depthwise_in_float32(body)
    wide_depthwise_in_float32(body)  # a second time changes nothing
    twin = copy.deepcopy(body)
    assert list(twin.state_dict()) == names
    with torch.autocast("cpu", torch.bfloat16):
        assert {one.dtype for one in twin(torch.ones(1, 3, 64, 64))} == {torch.bfloat16}


def test_only_wide_depthwise_convolutions_are_changed() -> None:
    narrow, dense = torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Conv2d(8, 8, 5)
    wide_depthwise_in_float32(torch.nn.Sequential(narrow, dense))
    assert type(narrow) is type(dense) is torch.nn.Conv2d


@pytest.mark.parametrize("stride", [1, 2])
def test_a_wide_depthwise_convolution_under_autocast_is_float32s_to_the_rounding_of_its_output(stride: int) -> None:
    conv = torch.nn.Conv2d(8, 8, 5, stride, padding=2, groups=8)
    x = torch.randn(2, 8, 9, 9).bfloat16()
    expected = conv(x.float())
    wide_depthwise_in_float32(conv)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(x), expected.bfloat16())
