"""The multi-level pyramid on its own; the golden networks in tests/models hold its values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onestage.necks import MLFPN

SMALL = {"channels": 32, "num_levels": 3, "num_scales": 4}


def two_maps(size: int = 20) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 8, size, size), torch.randn(2, 16, size // 2, size // 2)]


def test_any_two_maps_become_one_map_a_scale_of_all_levels() -> None:
    found = MLFPN((8, 16), **SMALL)(two_maps())
    assert [tuple(x.shape) for x in found] == [(2, 96, s, s) for s in (20, 10, 5, 3)]  # the last without padding


def test_shared_layers_are_one_and_the_papers_are_one_a_level_or_scale() -> None:
    released = MLFPN((8, 16), **SMALL, sfam=True)
    papers = MLFPN((8, 16), **SMALL, sfam=True, shared_reduction=False, shared_sfam=False)
    counts = [sum(p.numel() for p in network.parameters()) for network in (released, papers)]
    reduction = 768 * 16 + 2 * 16  # 1x1 convolution to half of 32 channels, batch norm
    attention = 96 * 6 + 6 + 6 * 96 + 96  # 96 channels squeezed by 16, and back, with biases
    assert counts[1] - counts[0] == 2 * reduction + 3 * attention
    assert len(papers(two_maps())) == 4


def test_attention_weighs_channels_between_nothing_and_all() -> None:
    torch.manual_seed(0)
    plain = MLFPN((8, 16), **SMALL).eval()
    weighed = MLFPN((8, 16), **SMALL, sfam=True).eval()
    weighed.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for one, other in zip(plain(two_maps())[1:], weighed(two_maps())[1:], strict=True):
            ratio = (other / one)[one.abs() > 1e-3]
            assert (ratio > 0).all()
            assert (ratio < 1).all()
            assert ratio.std() > 0


def test_checkpointed_activations_give_the_same_outputs_gradients_and_statistics() -> None:
    torch.manual_seed(0)
    plain = MLFPN((8, 16), **SMALL)
    frugal = MLFPN((8, 16), **SMALL, checkpoint_activations=True)
    frugal.load_state_dict(plain.state_dict())
    for network in (plain, frugal):
        sum(x.square().mean() for x in network.train()(two_maps())).backward()  # pyright: ignore
    for one, other in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(plain.buffers(), frugal.buffers(), strict=True):
        torch.testing.assert_close(one, other)  # running statistics moved once, counts by one


@pytest.mark.parametrize("frugal", [False, True])
def test_every_layer_learns(frugal: bool) -> None:
    network = MLFPN((8, 16), **SMALL, sfam=True, checkpoint_activations=frugal)
    sum(x.square().mean() for x in network(two_maps())).backward()  # pyright: ignore
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # ReLU can silence single units of the squeeze, never a whole layer of the pyramid
    assert [name for name in without if "attention" not in name] == []
    assert not any(isinstance(module, nn.Dropout) for module in network.modules())


def test_a_momentum_is_that_of_all_batch_norms_but_the_last() -> None:
    """M2Det's layers/nn_utils.py gives BasicConv 0.01; the norm of the largest map (m2det.py, `Norm`) keeps 0.1."""
    pyramid = MLFPN((8, 16), channels=8, num_levels=2, norm_momentum=0.01)
    norms = {name: one.momentum for name, one in pyramid.named_modules() if isinstance(one, nn.BatchNorm2d)}
    assert norms.pop("norm") == 0.1
    assert len(norms) > 10
    assert set(norms.values()) == {0.01}
