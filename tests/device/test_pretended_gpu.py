"""The rules of the pretended GPU itself, which the tests beside this one rely on."""

from __future__ import annotations

import pytest
import torch
from device.pretended_gpu import DEVICE, MixedDevicesError, PretendedGpu


def test_values_are_computed_and_stay_on_the_device() -> None:
    with PretendedGpu():
        there = torch.tensor([1.0, 2.0]).to(DEVICE)
        doubled = there * 2 + torch.ones((), device=DEVICE)
        assert doubled.device == DEVICE
        assert doubled.tolist() == [3.0, 5.0]
        assert (there * torch.tensor(3.0)).cpu().tolist() == [3.0, 6.0]  # a number of the CPU may come


def test_tensors_of_two_devices_may_not_meet() -> None:
    with PretendedGpu():
        there = torch.ones(2, device=DEVICE)
        with pytest.raises(MixedDevicesError, match=r"aten\.add\.Tensor: a CPU tensor of shape \(2,\)"):
            torch.add(there, torch.ones(2))
        with pytest.raises(TypeError, match=r"use \.cpu\(\) first"):
            there.numpy()


def test_a_fused_optimizer_takes_no_step_of_the_cpu() -> None:
    with PretendedGpu():
        weight = torch.nn.Parameter(torch.ones(2, device=DEVICE))
        optimizer = torch.optim.AdamW([weight], fused=True)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        optimizer.state[weight]["step"] = torch.tensor(1.0)
        with pytest.raises(MixedDevicesError, match="_fused_adamw"):
            optimizer.step()


def test_what_comes_without_waiting_is_garbage_until_the_device_was_waited_for() -> None:
    with PretendedGpu() as gpu:
        there = torch.tensor([1.0, 2.0], device=DEVICE)
        late, early = there.to("cpu", non_blocking=True), (there > 1).to("cpu", non_blocking=True)
        assert late.isnan().all()
        assert early.all()
        torch.accelerator.synchronize()
        assert late.tolist() == [1.0, 2.0]
        assert early.tolist() == [False, True]
        assert sum(gpu.synchronisations.values()) == 1


def test_waiting_and_operators_are_counted() -> None:
    with PretendedGpu() as gpu:
        there = torch.arange(4.0, device=DEVICE)
        gpu.calls.clear()
        large = there > 1
        assert not gpu.synchronisations
        assert len(there[large]) == 2  # how many there are, the host must ask
        assert sum(gpu.synchronisations.values()) == 1
        assert gpu.calls == {"aten.gt.Scalar": 1, "aten.index.Tensor": 1}
        there[torch.tensor([0, 1], device=DEVICE)] = 0.0
        assert sum(gpu.synchronisations.values()) == 1
        assert bool(there.sum() > 4)
        assert sum(gpu.synchronisations.values()) == 2


def test_autocast_convolves_in_the_reduced_format() -> None:
    with PretendedGpu():
        layer = torch.nn.Conv2d(3, 4, 3).to(DEVICE)
        images = torch.rand(1, 3, 8, 8).to(DEVICE)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("pretend", dtype=dtype):
                assert layer(images).dtype == dtype
        assert layer(images).dtype == torch.float32
