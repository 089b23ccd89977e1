import pytest
import torch

from onestage.errors import UserError
from onestage.training.precision import choose_compute


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
