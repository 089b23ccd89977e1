"""Batch norms of many ranks normalise as those of one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from many_processes import results_of
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from onestage.training.optimizer import freeze, train_mode, trained_batch_norms
from onestage.training.processes import GlooBatchNorm, joined_processes, synchronise_batch_norms

NORMS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.BatchNorm2d(4),
    "without parameters": lambda: nn.BatchNorm2d(4, affine=False, momentum=0.3),
    "without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "mean of all batches": lambda: nn.BatchNorm2d(4, momentum=None),
    "with activation": lambda: BatchNormAct2d(4, act_layer=nn.SiLU),
    "of sequences": lambda: nn.BatchNorm1d(4),
}


def norm_and_batch(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A norm with weights of its own, five inputs, and the gradient of the outputs."""
    torch.manual_seed(3)
    norm = NORMS[name]().double()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    shape = (5, 4, 6) if name == "of sequences" else (5, 4, 3, 2)
    x = torch.randn(shape, dtype=torch.float64) * 3 + 100  # far from zero: sums of squares would lose digits
    return norm, x, torch.randn(shape, dtype=torch.float64)


def normalise(norm: nn.Module, x: Tensor, gradient: Tensor, share: slice) -> dict[str, Any]:
    """Two steps with one share of the batch."""
    for scale in (1.0, 2.0):
        norm.zero_grad()
        own = (x[share] * scale).requires_grad_()
        y = norm(own)
        y.backward(gradient[share])
    norm.eval()
    return {
        "y": y.detach(),
        "dx": own.grad,
        "parameters": [p.grad for p in norm.parameters()],
        "buffers": list(norm.buffers()),
        "evaluated": norm(x).detach(),
    }


def normalise_together() -> dict[str, Any]:
    found = {}
    with joined_processes("cpu") as world:
        for name in NORMS:
            norm, x, gradient = norm_and_batch(name)
            network = nn.Sequential(norm)
            synchronise_batch_norms(network, on_gpus=False)
            one = normalise(network, x, gradient, slice(world.rank, None, world.size))
            one["parameters"] = [world.sum(own) for own in one["parameters"]]
            found[name] = one
    return found


def test_synchronised_batch_norms_are_those_of_one_rank() -> None:
    parts = results_of(normalise_together, 2)  # 3 and 2 images
    for name in NORMS:
        norm, x, gradient = norm_and_batch(name)
        alone = normalise(norm, x, gradient, slice(None))
        for rank, together in enumerate(part[name] for part in parts):
            share = slice(rank, None, 2)
            expected = {**alone, "y": alone["y"][share], "dx": alone["dx"][share]}
            if name == "without statistics":  # in evaluation too, it sees one rank's images: all of them here
                assert not list(norm.buffers())
            torch.testing.assert_close(
                together, expected, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )


def network_with_norms() -> nn.Sequential:
    """The last norm is frozen."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), BatchNormAct2d(4), nn.BatchNorm2d(4))
    freeze(network, ("3.",))
    train_mode(network)
    return network


@pytest.mark.parametrize("on_gpus", [False, True])
def test_only_batch_norms_that_train_are_replaced_and_their_tensors_stay(on_gpus: bool) -> None:
    network = network_with_norms()
    before, parameters, modes = network.state_dict(), list(network.parameters()), [m.training for m in network]
    synchronise_batch_norms(network, on_gpus=on_gpus)
    once = list(network.modules())
    synchronise_batch_norms(network, on_gpus=on_gpus)
    assert list(network.modules()) == once
    kind = nn.SyncBatchNorm if on_gpus else GlooBatchNorm
    assert [isinstance(module, kind) for module in network] == [False, True, True, False]
    assert trained_batch_norms(network) == {network[1], network[2]}
    assert [module.training for module in network] == modes
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))
    assert list(copy.deepcopy(network).state_dict()) == list(before)


@pytest.mark.parametrize("on_gpus", [False, True])
def test_in_evaluation_a_replaced_norm_gives_the_same_bits(on_gpus: bool) -> None:
    network, x = network_with_norms(), torch.randn(2, 3, 5, 5)
    network(x)
    expected = network.eval()(x)
    synchronise_batch_norms(network.train(), on_gpus=on_gpus)
    assert torch.equal(network.eval()(x), expected)


def test_the_batch_norms_of_a_compiled_network_are_replaced_too() -> None:
    network = network_with_norms()
    twin = torch.compile(network, backend="eager")
    synchronise_batch_norms(twin, on_gpus=False)
    assert [isinstance(module, GlooBatchNorm) for module in network] == [False, True, True, False]
