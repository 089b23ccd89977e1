"""The optimizer's parameter groups, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.training.recipe import Recipe


def freeze(detector: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Stop training the parameters whose name starts with one of `prefixes`.

    Batch norms among them keep the statistics that they have: see `train_mode`.

    Raises:
        UserError: a prefix that no parameter has.
    """
    for prefix in prefixes:
        frozen = [parameter for name, parameter in detector.named_parameters() if name.startswith(prefix)]
        if not frozen:
            first = next(iter(detector.named_parameters()))[0]
            raise UserError(f"frozen: no parameter's name starts with {prefix!r}; names look like {first!r}")
        for parameter in frozen:
            parameter.requires_grad_(False)


def freeze_untrained(detector: Detector, recipe: Recipe) -> None:
    """Freeze what a recipe does not train."""
    freeze(detector, recipe.frozen)
    if not recipe.train_stem:
        freeze(detector, tuple(f"backbone.{name}" for name in detector.backbone.stem))


def train_mode(detector: nn.Module) -> None:
    """Training mode, but for batch norms whose parameters are frozen: they use and keep the statistics they have."""
    detector.train()
    trained = trained_batch_norms(detector)
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in trained:
            module.eval()


def trained_batch_norms(detector: nn.Module) -> set[nn.Module]:
    """The batch norms that are not frozen: they normalise by the batch's own statistics in training."""
    norms = (module for module in detector.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return {norm for norm in norms if any(p.requires_grad for p in norm.parameters()) or not list(norm.parameters())}


def build_optimizer(detector: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW over groups: by factor on the learning rate, and with weight decay or not (biases, norms and scales:
    none).

    Each group keeps its own factor on the scheduled rate in `group["rate_factor"]`: the product of those factors whose
    beginning its parameters' names have.

    Raises:
        UserError: a factor for a beginning that no parameter's name has.
    """
    factors = [
        ("backbone.", recipe.backbone_learning_rate_factor),
        ("head.", recipe.head_learning_rate_factor),
        *recipe.learning_rate_factors,
    ]
    names = [name for name, _ in detector.named_parameters()]
    for beginning, _ in recipe.learning_rate_factors:
        if not any(name.startswith(beginning) for name in names):
            raise UserError(
                f"learning_rate_factors: no parameter's name starts with {beginning!r}; names look like {names[0]!r}"
            )
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            rate_factor = math.prod(factor for beginning, factor in factors if name.startswith(beginning))
            weight_decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate_factor, weight_decay), []).append(parameter)
    parameters = [
        {"params": group, "rate_factor": rate_factor, "weight_decay": weight_decay}
        for (rate_factor, weight_decay), group in groups.items()
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.learning_rate, fused=True)
    return torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set every group to the scheduled rate times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_factor"]


def optimizer_tensors(optimizer: torch.optim.Optimizer, detector: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as `{"parameter name/entry": tensor}`."""
    return {
        f"{name}/{entry}": value
        for name, parameter in detector.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, detector: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Read `optimizer_tensors` back."""
    parameters = dict(detector.named_parameters())
    for key, value in tensors.items():
        name, entry = key.rsplit("/", 1)
        parameter = parameters[name]
        if value.ndim:
            value = value.to(device=parameter.device, memory_format=_memory_format(parameter))
        optimizer.state[parameter][entry] = value


def _memory_format(parameter: Tensor) -> torch.memory_format:
    channels_last = parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


class AveragedWeights:
    """An exponential moving average of a network's parameters and buffers.

    The decay grows from 0.1 to its value in the first steps, so that the random beginning is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, weight)
            else:
                self.tensors[name].copy_(tensor)
