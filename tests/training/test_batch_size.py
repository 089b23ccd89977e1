from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.nn.functional import dropout

from onestage.compute import batch_size as trials
from onestage.compute.device import choose_compute
from onestage.compute.memory import Memory
from onestage.detectors import Detector, build, detector_config
from onestage.errors import UserError
from onestage.structures import Batch
from onestage.training.batch_size import (
    divided,
    find_batch_size,
    growth_limits,
    noise_batch,
    scaled_rate,
    state_bytes,
)
from onestage.training.optimizer import freeze
from onestage.training.recipe import Recipe
from onestage.training.step import in_parts

GB = 10**9


def test_a_run_of_epochs_keeps_a_thousand_steps_and_grows_eightfold_at_most() -> None:
    # 20 epochs of 500 images twice: 20,000 images, so 20 a step
    assert growth_limits(Recipe(epochs=20, repeat=2), 8, 500) == (20, float("inf"))
    assert growth_limits(Recipe(epochs=20, repeat=2), 2, 500) == (16, float("inf"))
    assert growth_limits(Recipe(epochs=2000), 8, 50) == (50, float("inf"))  # all there are


def test_a_run_of_minutes_keeps_a_thousand_steps_too() -> None:
    assert growth_limits(Recipe(minutes=50), 8, 500) == (64, 3.0)  # 3,000 s


def test_a_run_that_counts_steps_does_not_grow() -> None:
    assert growth_limits(Recipe(steps=90_000), 8, 500)[0] == 8


# --- what comes of it for the recipe


def test_sgds_rate_grows_as_the_images_and_adamws_as_their_root() -> None:
    assert scaled_rate("sgd", 0.001, 4) == pytest.approx(0.004)
    assert scaled_rate("adamw", 0.001, 4) == pytest.approx(0.002)
    assert scaled_rate("sgd", 0.003, 1) == scaled_rate("adamw", 0.003, 1) == 0.003


@pytest.mark.parametrize(
    ("images", "size", "least", "expected"),
    [
        (16, 16, 2, (16, 1)),
        (16, 4, 2, (16, 4)),
        (13, 6, 2, (13, 3)),  # 4, 4, 5
        (5, 2, 2, (4, 2)),  # not 1, 2, 2
        (5, 2, 1, (5, 3)),
        (5, 1, 1, (5, 5)),
    ],
)
def test_a_step_is_divided_into_parts_that_fit(images: int, size: int, least: int, expected: tuple[int, int]) -> None:
    assert divided(images, size, least) == expected


@pytest.mark.parametrize("least", [1, 2])
def test_no_part_is_larger_than_what_fits_or_smaller_than_the_least(least: int) -> None:
    for start in range(least, 65):
        for size in {start >> power for power in range(7) if start >> power >= least} | {least}:
            images, accumulate = divided(start, size, least)
            batch = Batch(torch.zeros(images, 3, 1, 1, dtype=torch.uint8), [], torch.zeros(images).long())
            sizes = [len(part.images) for part in in_parts(batch, accumulate)]
            assert least <= min(sizes) <= max(sizes) <= size, (start, size, sizes)
            assert start - 1 <= sum(sizes) <= start


def test_the_state_of_a_run_is_the_optimizers_its_gradients_and_the_average() -> None:
    detector = small_detector()
    freeze(detector, ("backbone.",))
    trained = sum(p.numel() for name, p in detector.named_parameters() if not name.startswith("backbone."))
    everything = sum(t.numel() * t.element_size() for t in detector.state_dict().values())
    assert state_bytes(detector, Recipe(optimizer="sgd")) == 4 * 2 * trained  # momentum, gradients
    assert state_bytes(detector, Recipe(optimizer="adamw", ema_decay=0.9)) == 4 * 3 * trained + everything


def test_images_are_tried_at_the_size_of_a_mixed_batch() -> None:
    with pytest.raises(UserError, match=r"even steps of 2 \(300 x 300 pixels\) do not fit"):
        found(build("ssd300-test_efficientnet", 2), Recipe(epochs=9), free=0)
    config = detector_config("retinanet-test_resnet").adjusted({"edges": (400, 1000)})
    # 400 x 600 and 600 x 400, to multiples of 32
    with pytest.raises(UserError, match=r"even steps of 2 \(608 x 608 pixels\) do not fit"):
        found(build("retinanet-test_resnet", 2, config=config), Recipe(epochs=9), free=0)


def test_noise_images_are_as_the_loader_gives_them() -> None:
    images, targets = noise_batch(3, (40, 60), 5, torch.device("cpu"))
    assert images.shape == (3, 3, 40, 60)
    assert images.is_contiguous(memory_format=torch.channels_last)
    for target in targets:
        corners, far_corners = target.boxes_xyxy[:, :2], target.boxes_xyxy[:, 2:]
        assert (corners >= 0).all()
        assert (far_corners > corners).all()
        assert (far_corners <= torch.tensor([60, 40])).all()
        assert set(target.labels.tolist()) <= set(range(5))


# --- a real detector, a made-up machine


def small_detector() -> Detector:
    """RetinaNet for 32 x 32 pixels, with batch norms in its backbone."""
    torch.manual_seed(0)
    config = replace(detector_config("retinanet-test_resnet").adjusted({"image_size": 32}), channels=64)
    return build("retinanet-test_resnet", 2, config=config)


class Machine(Memory):
    """Memory of which each image takes a gigabyte: of the last step that was taken."""

    def __init__(self, detector: Detector, free: int, *, fatal: bool = True) -> None:
        self.fatal, self.free, self.sizes = fatal, free, [0]
        detector.register_forward_pre_hook(lambda _, inputs: self.sizes.append(len(inputs[0])))

    @contextmanager
    def watch(self) -> Iterator[Callable[[], int]]:
        yield lambda: self.sizes[-1] * GB


@pytest.fixture(autouse=True)
def _every_step_takes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count()
    monkeypatch.setattr(trials, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    monkeypatch.setattr(trials, "TIMED_STEPS", 1)


def found(
    detector: Detector, recipe: Recipe, *, limit: int = 1000, free: int, fatal: bool = True
) -> tuple[Recipe, str]:
    """The recipe with the batch size that was found, and the line that says why."""
    said: list[str] = []
    compute, machine = choose_compute("cpu", "fp32"), Machine(detector, free, fatal=fatal)
    with mock.patch("onestage.training.batch_size.memory_of", return_value=machine):
        result = find_batch_size(detector, compute, recipe=recipe, limit=limit, say=said.append)
    _, reason = said
    return result, reason


def test_where_little_is_free_a_step_goes_through_the_network_in_parts_at_the_same_rate() -> None:
    # room for 0.8 * 8 = 6.4 images
    assert found(small_detector(), Recipe(batch_size=16, epochs=9), free=8 * GB) == (
        Recipe(batch_size=16, accumulate=4, learning_rate=1e-3, epochs=9),
        "batch size 16 in 4 parts of up to 4 by trial: 4.0 GB of 8.0 GB free, 4 images/s (2: 2, 8 do not fit); "
        "learning rate 0.001",
    )


def test_where_much_is_free_a_step_grows_and_its_rate_with_it() -> None:
    # room for 8 images, less the optimizer's state
    assert found(small_detector(), Recipe(batch_size=2, epochs=1000), free=11 * GB) == (
        Recipe(batch_size=8, learning_rate=4e-3, epochs=1000),
        "batch size 8 by trial: 8.0 GB of 11.0 GB free, 8 images/s (4: 4, 16 do not fit); learning rate 0.001 -> 0.004",
    )
    grown, _ = found(small_detector(), Recipe(batch_size=2, epochs=1000, optimizer="adamw"), limit=4, free=1000 * GB)
    assert (grown.batch_size, grown.learning_rate) == (4, pytest.approx(1e-3 * 2**0.5))


def test_a_recipes_images_a_step_are_kept_where_they_fit_and_no_more_are_good() -> None:
    recipe = Recipe(batch_size=4, steps=100)
    reason = "batch size 4 by trial: 4.0 GB of 1.0 TB free, 4 images/s (2: 2); learning rate 0.001"
    assert found(small_detector(), recipe, free=1000 * GB) == (recipe, reason)


def test_steps_have_no_more_images_than_there_are() -> None:
    few, _ = found(small_detector(), Recipe(batch_size=16, epochs=1000), limit=3, free=1000 * GB)
    assert (few.batch_size, few.accumulate, few.learning_rate) == (3, 1, 1e-3)


def test_a_graphics_card_that_runs_out_of_memory_tells_how_many_fit() -> None:
    detector = small_detector()

    def run_out(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    detector.register_forward_pre_hook(run_out)
    fewer, _ = found(detector, Recipe(batch_size=8, epochs=9), free=80 * GB, fatal=False)
    assert (fewer.batch_size, fewer.accumulate) == (8, 2)


def test_nothing_that_fits_is_an_error_that_says_what_was_free() -> None:
    with pytest.raises(UserError, match=r"even steps of 2 \(32 x 32 pixels\) do not fit in .* free 2\.0 GB"):
        found(small_detector(), Recipe(batch_size=16, epochs=9), free=2 * GB)


def test_batch_norms_need_two_images_and_frozen_ones_do_not() -> None:
    with pytest.raises(UserError, match="training images: 1; this detector needs 2"):
        found(small_detector(), Recipe(epochs=9), limit=1, free=80 * GB)
    detector = small_detector()
    freeze(detector, ("backbone.",))
    assert found(detector, Recipe(epochs=9), limit=1, free=80 * GB)[0].batch_size == 1


def state(detector: Detector) -> dict[str, object]:
    """Everything about a detector that a trial might change."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in detector.state_dict().items()},
        "buffers": {name: buffer.clone() for name, buffer in detector.named_buffers()},
        "modes": [module.training for module in detector.modules()],
        "trained": [parameter.requires_grad for parameter in detector.parameters()],
        "gradients": [parameter.grad for parameter in detector.parameters()],
        "random": torch.random.get_rng_state(),
    }


def half_frozen() -> Detector:
    """In training mode, but for some layers; with a layer that draws random numbers."""
    detector = small_detector()
    freeze(detector, ("backbone.body.conv1",))
    detector.train()
    detector.backbone.eval()
    detector.register_forward_hook(lambda module, _, outputs: type(outputs)(*(dropout(one, 0.1) for one in outputs)))
    return detector


def test_a_search_leaves_the_detector_and_random_numbers_as_they_were() -> None:
    detector = half_frozen()
    before = state(detector)
    found(detector, Recipe(batch_size=4, epochs=1000), free=20 * GB)
    torch.testing.assert_close(state(detector), before, rtol=0, atol=0)


def test_a_search_that_fails_leaves_them_so_too() -> None:
    detector = half_frozen()
    before = state(detector)

    def break_down(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 2:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    detector.register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        found(detector, Recipe(batch_size=4, epochs=9), free=80 * GB)
    torch.testing.assert_close(state(detector), before, rtol=0, atol=0)
