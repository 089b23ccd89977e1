import pytest
import torch
from torch import nn

from onestage.errors import UserError
from onestage.training.optimizer import (
    AveragedWeights,
    build_optimizer,
    freeze,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    train_mode,
)
from onestage.training.recipe import Recipe


def network() -> nn.Module:
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            "other": nn.Conv2d(4, 4, 1),
            "head": nn.Conv2d(4, 2, 1),
        }
    )


def test_biases_and_norms_have_no_weight_decay_and_backbone_and_head_their_own_rates() -> None:
    net = network()
    rates = {"learning_rate": 2.0, "backbone_learning_rate_factor": 0.5, "head_learning_rate_factor": 0.25}
    optimizer = build_optimizer(net, Recipe(weight_decay=0.1, **rates))
    set_learning_rate(optimizer, 2.0)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    named = {name: of[id(parameter)] for name, parameter in net.named_parameters()}
    assert named == {
        "backbone.0.weight": (1.0, 0.1),
        "backbone.0.bias": (1.0, 0.0),
        "backbone.1.weight": (1.0, 0.0),
        "backbone.1.bias": (1.0, 0.0),
        "other.weight": (2.0, 0.1),
        "other.bias": (2.0, 0.0),
        "head.weight": (0.5, 0.1),
        "head.bias": (0.5, 0.0),
    }


def rate_factors(net: nn.Module, recipe: Recipe) -> dict[str, float]:
    groups = build_optimizer(net, recipe).param_groups
    of = {id(parameter): group["rate_factor"] for group in groups for parameter in group["params"]}
    return {name: of[id(parameter)] for name, parameter in net.named_parameters() if id(parameter) in of}


def test_biases_of_convolutions_have_a_rate_of_their_own_as_in_caffe() -> None:
    """lr_mult 2 and decay_mult 0 of every bias in SSD's net; those of norms are no biases of convolutions."""
    net = network()
    optimizer = build_optimizer(net, Recipe(weight_decay=0.1, learning_rate=1.0, bias_learning_rate_factor=2.0))
    set_learning_rate(optimizer, 1.0)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    named = {name: of[id(parameter)] for name, parameter in net.named_parameters()}
    assert {name for name, how in named.items() if how == (2.0, 0.0)} == {"backbone.0.bias", "other.bias", "head.bias"}
    assert {name for name, how in named.items() if how == (1.0, 0.0)} == {"backbone.1.weight", "backbone.1.bias"}


def test_all_parameters_decay_where_the_recipe_says_so() -> None:
    optimizer = build_optimizer(network(), Recipe(weight_decay=0.1, decay_all=True))
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [(8, 0.1)]


def test_rate_factors_of_all_beginnings_that_a_name_has_are_multiplied() -> None:
    factors = (("backbone.1", 0.5), ("backbone.1.b", 4.0), ("other", 3.0))
    recipe = Recipe(backbone_learning_rate_factor=0.25, head_learning_rate_factor=8.0, learning_rate_factors=factors)
    assert rate_factors(network(), recipe) == {
        "backbone.0.weight": 0.25,
        "backbone.0.bias": 0.25,
        "backbone.1.weight": 0.125,
        "backbone.1.bias": 0.5,  # 0.25 * 0.5 * 4
        "other.weight": 3.0,
        "other.bias": 3.0,
        "head.weight": 8.0,
        "head.bias": 8.0,
    }


def test_a_rate_factor_of_the_head_is_not_for_what_only_begins_like_it() -> None:
    net = nn.ModuleDict({"head": nn.Linear(1, 1, bias=False), "head_norms": nn.Linear(1, 1, bias=False)})
    recipe = Recipe(head_learning_rate_factor=0.5)
    assert rate_factors(net, recipe) == {"head.weight": 0.5, "head_norms.weight": 1.0}


def test_a_rate_factor_may_be_of_something_frozen() -> None:
    net = network()
    freeze(net, ("backbone", "other"))
    factors = rate_factors(net, Recipe(learning_rate_factors=(("backbone", 0.5),)))
    assert factors == {"head.weight": 1.0, "head.bias": 1.0}


def test_a_rate_factor_for_an_unknown_beginning_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"learning_rate_factors: no parameter's name starts with 'bakcbone'.*'backbone"
    ):
        build_optimizer(network(), Recipe(learning_rate_factors=(("bakcbone", 0.5),)))


def test_frozen_parameters_are_not_trained_and_an_unknown_prefix_is_refused() -> None:
    net = network()
    freeze(net, ("backbone.0",))
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == [
        "backbone.0.weight",
        "backbone.0.bias",
    ]
    assert sum(len(g["params"]) for g in build_optimizer(net, Recipe()).param_groups) == 6
    with pytest.raises(UserError, match="backbon_"):
        freeze(net, ("backbon_",))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_optimizers_state_goes_out_and_in_by_parameter_names(kind: str) -> None:
    def trained(steps: int, state: dict[str, torch.Tensor] | None, weights: dict[str, torch.Tensor] | None):
        torch.manual_seed(0)
        net = network()
        optimizer = build_optimizer(net, Recipe(optimizer=kind, learning_rate=0.1))  # pyright: ignore[reportArgumentType]
        if state is not None and weights is not None:
            net.load_state_dict(weights)
            load_optimizer_tensors(optimizer, net, state)
        for _ in range(steps):
            optimizer.zero_grad()
            net.get_submodule("head")(net.get_submodule("backbone")(torch.ones(2, 3, 5, 5))).square().sum().backward()
            optimizer.step()
        return net.state_dict(), optimizer_tensors(optimizer, net)

    straight, _ = trained(4, None, None)
    weights, state = trained(2, None, None)
    resumed, _ = trained(2, state, weights)
    for name, tensor in straight.items():
        assert torch.equal(resumed[name], tensor), name


def test_the_average_of_a_constant_is_the_constant_and_follows_a_change_by_its_decay() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    average = AveragedWeights(net, decay=0.5)
    average.update(step=1000)
    assert average.tensors["weight"].item() == 1.0
    nn.init.constant_(net.weight, 3.0)
    average.update(step=1000)
    assert average.tensors["weight"].item() == 2.0  # 0.5 * 1 + 0.5 * 3


def test_the_average_soon_forgets_the_random_beginning() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    average = AveragedWeights(net, decay=0.999)
    nn.init.constant_(net.weight, 1.0)
    average.update(step=0)  # decay (1 + 0) / (10 + 0) = 0.1
    assert average.tensors["weight"].item() == pytest.approx(0.9)


def test_a_frozen_batch_norm_keeps_its_statistics_and_the_others_train() -> None:
    net = nn.ModuleDict({"backbone": nn.BatchNorm2d(3), "head": nn.BatchNorm2d(3)})
    freeze(net, ("backbone",))
    train_mode(net)
    images = 5 + torch.rand(2, 3, 4, 4)
    for part in ("backbone", "head"):
        net.get_submodule(part)(images)
    assert net.get_buffer("backbone.running_mean").tolist() == [0, 0, 0]
    assert all(mean > 0.5 for mean in net.get_buffer("head.running_mean").tolist())  # 0.1 * (5 to 6)
