"""Which parameters are trained, the optimizer's groups and state, and the running average of the weights."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.training.recipe import Recipe


def freeze(detector: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Stop training the parameters whose names start with one of `prefixes`.

    Their batch norms keep the statistics that they have: see `train_mode`. A prefix of no parameter is a UserError.
    """
    _check_prefixes("frozen", prefixes, detector)
    for name, parameter in detector.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)


def freeze_untrained(detector: Detector, recipe: Recipe) -> None:
    """Freeze what a recipe does not train."""
    freeze(detector, recipe.frozen)
    if not recipe.train_stem:
        freeze(detector, tuple(f"backbone.{name}" for name in detector.backbone.stem))


def _check_prefixes(setting: str, prefixes: Iterable[str], detector: nn.Module) -> None:
    names = [name for name, _ in detector.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise UserError(f"{setting}: no parameter's name starts with {prefix!r}; names look like {names[0]!r}")


def train_mode(detector: nn.Module) -> None:
    """Set training mode, but for frozen batch norms: they use and keep the statistics that they have."""
    detector.train()
    trained = trained_batch_norms(detector)
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in trained:
            module.eval()


def trained_batch_norms(detector: nn.Module) -> set[nn.Module]:
    """The batch norms that are not frozen: in training they normalise by the batch's own statistics."""
    norms = (module for module in detector.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return {norm for norm in norms if any(p.requires_grad for p in norm.parameters()) or not list(norm.parameters())}


def build_optimizer(detector: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW. Parameters are grouped by learning rate and weight decay; biases, norms and scales have no
    decay, unless the recipe says `decay_all`.

    The `rate_factor` of a group is its factor on the scheduled rate: the product of the recipe's factors whose prefixes
    its parameters' names have, and of that for biases. A factor for a prefix of no parameter is a UserError.
    """
    _check_prefixes("learning_rate_factors", dict(recipe.learning_rate_factors), detector)
    usual = (("backbone.", recipe.backbone_learning_rate_factor), ("head.", recipe.head_learning_rate_factor))
    factors = (*usual, *recipe.learning_rate_factors)
    biases = _biases_of_convolutions(detector)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            rate_factor = math.prod(factor for prefix, factor in factors if name.startswith(prefix))
            rate_factor *= recipe.bias_learning_rate_factor if name in biases else 1.0
            weight_decay = recipe.weight_decay if parameter.ndim > 1 or recipe.decay_all else 0.0
            group = {"params": [], "rate_factor": rate_factor, "weight_decay": weight_decay}
            groups.setdefault((rate_factor, weight_decay), group)["params"].append(parameter)
    parameters = list(groups.values())
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.learning_rate, fused=True)
    return torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)


def _biases_of_convolutions(detector: nn.Module) -> set[str]:
    """The names of all biases but those of norms."""
    dimensions = {name: parameter.ndim for name, parameter in detector.named_parameters()}
    prefixes = (name.removesuffix("bias") for name in dimensions if name.endswith(".bias"))
    return {f"{prefix}bias" for prefix in prefixes if dimensions.get(f"{prefix}weight", 0) > 1}


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
    """Read `optimizer_tensors` back, onto the parameters' devices and into their memory formats.

    The optimizer's `load_state_dict` keeps the file's memory format, but fused kernels expect the parameter's.
    """
    for key, value in tensors.items():
        name, entry = key.rsplit("/", 1)
        parameter = detector.get_parameter(name)
        like = parameter if value.shape == parameter.shape else value
        optimizer.state[parameter][entry] = torch.empty_like(like, device=parameter.device).copy_(value)


class AveragedWeights:
    """An exponential moving average of a network's parameters and buffers, which stay the tensors that they are now."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        latest = network.state_dict()
        self.tensors = {name: tensor.detach().clone() for name, tensor in latest.items()}
        self._pairs = [(self.tensors[name], tensor) for name, tensor in latest.items()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))  # the random start is soon forgotten
        averaged, latest = zip(*(pair for pair in self._pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(averaged, latest, weight)  # pyright: ignore[reportPrivateImportUsage]
        copy_all(pair for pair in self._pairs if not pair[0].is_floating_point())


def copy_all(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy into the first of each pair what the second has; a GPU does it at once."""
    if pairs := list(pairs):
        to, values = zip(*pairs, strict=True)
        torch._foreach_copy_(to, values)  # pyright: ignore[reportPrivateImportUsage]
