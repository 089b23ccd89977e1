import copy
import os
import re

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.testing import assert_close

from onestage.compute.bfloat16 import avoid_slow_and_wrong_bfloat16
from onestage.compute.device import (
    choose_compute,
    compiled,
    find_fastest_convolutions,
    readable_compile_errors,
    same_bits_in_each_run,
)
from onestage.errors import UserError


@pytest.mark.parametrize(
    ("amx", "processor", "dtype", "reason"),
    [
        (True, {"cpu_name": "Intel Xeon", "avx512_bf16": True}, torch.bfloat16, "bf16: this processor has AMX"),
        (False, {"cpu_name": "AMD EPYC", "avx512_bf16": True}, torch.bfloat16, "bf16: this AMD processor has AVX-512"),
        (False, {"cpu_name": "AMD EPYC", "avx512_bf16": False}, torch.float32, "fp32: .*no AMX"),
        (False, {"cpu_name": "Intel Xeon", "avx512_bf16": True}, torch.float32, "fp32: .*no AMX"),
        (False, {}, torch.float32, "fp32: .*no AMX"),
    ],
)
def test_the_chosen_number_format_comes_with_its_reason(amx, processor, dtype, reason, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    compute = choose_compute("cpu")
    assert compute.dtype == dtype
    assert re.match(reason, compute.reason)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_precision_that_is_asked_for_is_used(precision: str, dtype: torch.dtype) -> None:
    compute = choose_compute("cpu", precision)
    assert compute.dtype == dtype
    assert compute.reason == f"{precision}, as asked"
    with compute.autocast():
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype == dtype


def test_a_placed_network_has_its_channels_last() -> None:
    network = choose_compute("cpu").place(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)))
    assert network.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_missing_device_is_named(device: str) -> None:
    with pytest.raises(UserError, match=device):
        choose_compute(device)


def test_a_network_with_replaced_convolutions_keeps_its_tensors_and_names_and_can_be_copied() -> None:
    body = timm.create_model("tf_efficientnet_lite0", features_only=True)
    names, parameters = list(body.state_dict()), list(body.parameters())
    modules = [name for name, _ in body.named_modules()]
    avoid_slow_and_wrong_bfloat16(body)
    once = list(body.modules())
    avoid_slow_and_wrong_bfloat16(body)
    assert list(body.modules()) == once
    assert [name for name, _ in body.named_modules()] == modules
    assert all(one is other for one, other in zip(body.parameters(), parameters, strict=True))

    twin = copy.deepcopy(body)
    assert list(twin.state_dict()) == names
    x = torch.ones(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = body.eval()(x)
        assert {one.dtype for one in expected} == {torch.bfloat16}
        for parameter in body.parameters():
            torch.nn.init.zeros_(parameter)
        found = twin.eval()(x)  # of its own parameters
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert twin.to(torch.float64)(x.double())[0].dtype == torch.float64


def test_a_network_with_replaced_convolutions_can_be_compiled_and_exported() -> None:
    network = nn.Sequential(nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.Conv2d(8, 4, 3))
    x = torch.randn(1, 8, 9, 9)
    expected = network(x)
    avoid_slow_and_wrong_bfloat16(network)
    program = torch.export.export(network, (x,), strict=False)
    assert torch.equal(program.module()(x), expected)
    assert list(program.state_dict) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    with torch.autocast("cpu", torch.bfloat16):
        expected = network(x)
        assert_close(torch.compile(network, backend="eager")(x), expected, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("groups", [1, 8])
def test_other_convolutions_stay_in_bfloat16(groups: int) -> None:
    network, x = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=groups)), torch.randn(2, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        expected = network(x)
        avoid_slow_and_wrong_bfloat16(network)
        assert torch.equal(network(x), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "height", "width"), [(3, 2, 1, 1), (3, 2, 10, 1), (5, 1, 1, 5), (3, 3, 10, 2)]
)
def test_the_gradient_on_maps_smaller_than_the_kernel_is_right(kernel, stride, height: int, width: int) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(24, 36, kernel, stride, kernel // 2)
    x = torch.randn(2, 24, height, width)
    conv(x).square().sum().backward()
    expected = conv.weight.grad.clone()
    network = nn.Sequential(conv)
    avoid_slow_and_wrong_bfloat16(network)
    for size in (1000, 10_000, 30_000, 100_000):  # what the gradient's memory may hold
        del [torch.full((size,), 1e30) for _ in range(3)][:]
    conv.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x)
    assert found.dtype == torch.bfloat16
    found.float().square().sum().backward()
    assert_close(conv.weight.grad, expected, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("kernel", [3, 5, (4, 7)])
@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
@pytest.mark.parametrize("padding", ["same", (0, 2)])
def test_gradients_of_depthwise_convolutions_are_float32s_to_the_rounding_of_bfloat16(kernel, stride, padding) -> None:
    torch.manual_seed(0)
    layer, options = (Conv2dSame, {}) if padding == "same" else (nn.Conv2d, {"padding": padding})
    conv = layer(8, 16, kernel, stride, groups=8, bias=True, **options)
    parameters, x = list(conv.parameters()), torch.randn(3, 8, 13, 12).bfloat16()
    for parameter in parameters:
        parameter.data = parameter.data.bfloat16().float()
    expected = conv(image := x.float().requires_grad_())
    wanted = torch.randn_like(expected).bfloat16()
    of_float32 = torch.autograd.grad(expected, [image, *parameters], wanted.float())

    network = nn.Sequential(conv)
    avoid_slow_and_wrong_bfloat16(network)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(image := x.to(memory_format=torch.channels_last).requires_grad_())
    assert_close(found, expected.bfloat16(), rtol=0.01, atol=0.01)
    for gradient, float32s in zip(torch.autograd.grad(found, [image, *parameters], wanted), of_float32, strict=True):
        assert_close(gradient.float(), float32s, rtol=0.01, atol=0.005 * float32s.abs().max().item())


def test_float32_is_not_cast() -> None:
    with choose_compute("cpu", "fp32").autocast():
        assert not torch.is_autocast_enabled("cpu")


def test_a_compiled_network_trains_the_networks_own_parameters() -> None:
    network = torch.nn.Linear(2, 1)
    twin = compiled(network)
    ours, theirs = list(network.parameters()), list(twin.parameters())
    assert len(ours) == len(theirs) == 2
    assert all(one is other for one, other in zip(ours, theirs, strict=True))
    with torch.compiler.set_stance("force_eager"):  # compiling takes half a minute
        twin(torch.ones(1, 2)).sum().backward()
    assert network.weight.grad.tolist() == [[1, 1]]


@pytest.mark.parametrize(("device", "expected"), [("cpu", False), ("cuda", True)])
def test_the_same_bits_are_asked_for_on_gpus(device: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "remembered")  # so that it is as before after the test
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        same_bits_in_each_run(torch.device(device))
        assert torch.are_deterministic_algorithms_enabled() is expected
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if expected else None)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("device", "deterministic", "expected"), [("cpu", 0, 0), ("cuda", 0, 1), ("cuda", 1, 0)])
def test_cudnn_tries_its_kernels_on_gpus_unless_the_same_bits_are_asked_for(
    device: str, deterministic: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: bool(deterministic))
    find_fastest_convolutions(torch.device(device))
    assert torch.backends.cudnn.benchmark is bool(expected)


def test_an_error_of_torch_compile_is_one_line() -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return x

    network = torch.compile(Unknown(), backend="eager", fullgraph=True)
    expected = r"^--compile: the network can't be compiled here \(.*\); leave it out$"
    with pytest.raises(UserError, match=expected), readable_compile_errors():
        network(torch.zeros(1))


def test_other_errors_stay_as_they_are_beside_torch_compile() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), readable_compile_errors():
        raise RuntimeError("size mismatch")
