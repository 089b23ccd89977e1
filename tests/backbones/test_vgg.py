"""The reduced VGG-16's maps and its norm; the golden networks in tests/models hold its values."""

import pytest
import torch

from onestage.backbones import VGG16Reduced
from onestage.backbones.vgg import L2Norm


# Liu 2016, 2.1 and 3.5: conv4_3 and conv7 (fc7) of 300- and 512-pixel images.
@pytest.mark.parametrize(
    ("image_size", "shapes"),
    [(300, [(1, 512, 38, 38), (1, 1024, 19, 19)]), (512, [(1, 512, 64, 64), (1, 1024, 32, 32)])],
)
def test_vgg16_gives_conv4_3_and_conv7_at_the_papers_sizes(image_size: int, shapes: list[tuple[int, ...]]) -> None:
    backbone = VGG16Reduced().to("meta")
    maps = backbone(torch.empty(1, 3, image_size, image_size, device="meta"))
    assert [tuple(x.shape) for x in maps] == shapes
    assert [x.shape[1] for x in maps] == list(backbone.channels)


def test_vgg16_has_the_papers_entries() -> None:
    blocks = ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
    convs = [f"conv{block}_{i + 1}" for block, layers in blocks for i in range(layers)] + ["conv6", "conv7"]
    expected = {f"{conv}.{kind}" for conv in convs for kind in ("weight", "bias")} | {"conv4_3_norm.scale"}
    assert VGG16Reduced().state_dict().keys() == expected


def test_l2_norm_of_a_3_4_cell_is_its_direction_times_the_scale() -> None:
    norm = L2Norm(2, initial_scale=20.0)
    x = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(norm(x).flatten(), torch.tensor([12.0, 16.0]))


def test_l2_norm_of_a_cell_of_zeros_has_finite_values_and_gradients() -> None:
    norm = L2Norm(4, initial_scale=20.0)
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros_like(y))
    assert x.grad.isfinite().all()
    assert norm.scale.grad.isfinite().all()


def test_l2_norm_sums_in_float32_under_bfloat16_autocast() -> None:
    norm, x = L2Norm(512, initial_scale=20.0), torch.rand(1, 512, 1, 1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        length = norm(x).norm(dim=1)
    torch.testing.assert_close(length, torch.full_like(length, 20.0), rtol=1e-5, atol=0)
