from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import dropout

from onestage.compute.device import choose_compute
from onestage.detectors import Detector, build, detector_config
from onestage.errors import UserError
from onestage.structures import Batch
from onestage.training import batch_size
from onestage.training.batch_size import (
    BatchSizeFound,
    Search,
    Tried,
    divided,
    drawn_batch,
    find_batch_size,
    growth_limits,
    largest_usual_input_hw,
    scaled_rate,
    state_bytes,
)
from onestage.training.optimizer import freeze
from onestage.training.recipe import Recipe
from onestage.training.step import in_parts

GB = 10**9


class Device:
    """Trials on a made-up device: steps take `fixed + size * an_image` bytes and `seconds(size)`; above `crash` bytes
    they fail. Remembers the sizes that were tried."""

    def __init__(
        self, an_image: int = 10, fixed: int = 0, crash: int = 10**9, seconds: Callable[[int], float] = float
    ) -> None:
        self.an_image, self.fixed, self.crash, self.seconds = an_image, fixed, crash, seconds
        self.sizes: list[int] = []

    def __call__(self, size: int) -> Tried | None:
        self.sizes.append(size)
        taken = self.fixed + size * self.an_image
        return Tried(size, taken, float(self.seconds(size))) if taken <= self.crash else None


# --- the search: what fits


def test_where_running_out_can_be_caught_sizes_are_halved_until_one_fits() -> None:
    device = Device(crash=100)  # 10 images
    search = Search(device, 1000, 2, careful=False)
    assert search.largest_that_fits(32) == 8
    assert device.sizes == [32, 16, 8]
    assert search.too_large == 16


def test_what_a_device_has_is_too_much_where_it_is_more_than_the_room() -> None:
    device = Device()
    assert Search(device, 100, 2, careful=False).largest_that_fits(16) == 8
    assert device.sizes == [16, 8]


def test_a_careful_search_comes_from_below_and_tries_nothing_that_would_not_fit() -> None:
    device = Device(crash=100)
    search = Search(device, 100, 2, careful=True)
    assert search.largest_that_fits(32) == 8
    assert device.sizes == [2, 4, 8]  # 16 would take 160
    assert search.too_large == 16


@pytest.mark.parametrize("careful", [False, True])
def test_a_start_that_fits_is_taken(careful: bool) -> None:
    assert Search(Device(), 160, 2, careful=careful).largest_that_fits(16) == 16


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize(
    ("start", "least", "sizes"), [(1, 1, [1]), (2, 2, [2]), (13, 2, [13, 6, 3, 2]), (3, 1, [3, 1])]
)
def test_sizes_are_the_halves_of_the_start_down_to_the_least(
    careful: bool, start: int, least: int, sizes: list[int]
) -> None:
    device = Device()
    search = Search(device, 1000, least, careful=careful)
    assert search.largest_that_fits(start) == start
    assert device.sizes == (sizes[::-1] if careful else sizes[:1])


@pytest.mark.parametrize(("careful", "sizes"), [(False, [8, 4, 2]), (True, [2])])
def test_nothing_is_found_where_the_least_does_not_fit(careful: bool, sizes: list[int]) -> None:
    device = Device()
    assert Search(device, 19, 2, careful=careful).largest_that_fits(8) is None
    assert device.sizes == sizes


def test_a_careful_search_does_not_begin_without_any_room() -> None:
    device = Device()
    assert Search(device, -1, 2, careful=True).largest_that_fits(8) is None
    assert device.sizes == []


# --- the search: what is predicted


def test_memory_is_predicted_on_a_line_through_the_two_largest_sizes() -> None:
    search = Search(Device(fixed=100), 1000, 2, careful=True)
    assert search.predicted(4) == 0
    search.fits(2)  # 120
    assert search.predicted(4) == 240  # as if nothing of it were fixed
    search.fits(4)  # 140
    assert search.predicted(8) == 180
    assert search.predicted(64) == 740
    search.fits(8)
    assert search.predicted(16) == 260


def test_memory_that_was_seen_to_fall_is_predicted_not_to_fall_further() -> None:
    search = Search(Device(fixed=100, an_image=-5), 1000, 2, careful=True)
    search.fits(2)  # 90
    search.fits(4)  # 80
    assert search.predicted(8) == 80


# --- the search: what is faster


def test_sizes_are_doubled_as_long_as_more_images_a_second_come_of_it() -> None:
    # 16, 32 and 64 images in a second, 128 in two
    device = Device(seconds=lambda size: max(1.0, size / 64))
    search = Search(device, 10_000, 2, careful=False)
    assert search.largest_that_fits(16) == 16
    assert search.faster(16, 1000) == 64
    assert device.sizes == [16, 32, 64, 128]


@pytest.mark.parametrize(("gain", "expected"), [(1.0, 16), (1.09, 16), (1.11, 32)])
def test_a_small_gain_is_none(gain: float, expected: int) -> None:
    search = Search(Device(seconds=lambda size: 1.0 if size == 16 else size / 16 / gain), 10_000, 2, careful=False)
    search.largest_that_fits(16)
    assert search.faster(16, 32) == expected


@pytest.mark.parametrize("most", [16, 31])
def test_no_size_above_the_most_is_tried(most: int) -> None:
    device = Device(seconds=lambda size: 1.0)
    search = Search(device, 10_000, 2, careful=False)
    search.largest_that_fits(16)
    assert search.faster(16, most) == 16
    assert device.sizes == [16]


@pytest.mark.parametrize("careful", [False, True])
def test_faster_sizes_must_fit_too(careful: bool) -> None:
    device = Device(seconds=lambda size: 1.0)
    search = Search(device, 400, 8, careful=careful)
    search.largest_that_fits(16)
    assert search.faster(16, 1000) == 32
    assert search.too_large == 64
    assert device.sizes == ([8, 16, 32] if careful else [16, 32, 64])


def test_a_step_that_takes_too_long_is_not_faster() -> None:
    search = Search(Device(seconds=lambda size: size**0.5), 10_000, 2, careful=False)
    search.largest_that_fits(16)  # 4 s
    assert search.faster(16, 1000, longest_s=8.0) == 64  # 8 s; 128 would take 11.3


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
    assert largest_usual_input_hw(build("ssd300-test_efficientnet", 2)) == (300, 300)
    config = detector_config("retinanet-test_resnet").adjusted({"edges": (400, 1000)})
    # 400 x 600 and 600 x 400, to multiples of 32
    assert largest_usual_input_hw(build("retinanet-test_resnet", 2, config=config)) == (608, 608)


def test_drawn_images_are_as_the_loader_gives_them() -> None:
    images, targets = drawn_batch(3, (40, 60), 5, torch.device("cpu"))
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


class Machine:
    """Memory of which each image takes a gigabyte: of the last step that was taken."""

    def __init__(self, detector: Detector, free: int, *, careful: bool = True) -> None:
        self.careful, self._free, self.sizes = careful, free, [0]
        detector.register_forward_pre_hook(lambda _, inputs: self.sizes.append(len(inputs[0])))

    def free(self) -> int:
        return self._free

    @contextmanager
    def watch(self) -> Iterator[Callable[[], int]]:
        yield lambda: self.sizes[-1] * GB


@pytest.fixture(autouse=True)
def _every_step_takes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count()
    monkeypatch.setattr(batch_size, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    monkeypatch.setattr(batch_size, "TIMED_STEPS", 1)


def found(detector: Detector, recipe: Recipe, *, limit: int = 1000, free: int, careful: bool = True) -> BatchSizeFound:
    said: list[str] = []
    memory = Machine(detector, free, careful=careful)
    result = find_batch_size(
        detector, choose_compute("cpu", "fp32"), recipe=recipe, limit=limit, say=said.append, memory=memory
    )
    assert len(said) == 1
    return result


def test_where_little_is_free_a_step_goes_through_the_network_in_parts_at_the_same_rate() -> None:
    # room for 0.8 * 8 = 6.4 images
    assert found(small_detector(), Recipe(batch_size=16, epochs=9), free=8 * GB) == BatchSizeFound(
        batch_size=16,
        accumulate=4,
        learning_rate=1e-3,
        reason="batch size 16 in 4 parts of up to 4 by trial: 4 GB of 8 GB free, 4 images/s (2: 2, 8 do not fit); "
        "learning rate 0.001",
    )


def test_where_much_is_free_a_step_grows_and_its_rate_with_it() -> None:
    # room for 8 images, less the optimizer's state
    assert found(small_detector(), Recipe(batch_size=2, epochs=1000), free=11 * GB) == BatchSizeFound(
        batch_size=8,
        accumulate=1,
        learning_rate=4e-3,
        reason="batch size 8 by trial: 8 GB of 11 GB free, 8 images/s (4: 4, 16 do not fit); "
        "learning rate 0.001 -> 0.004",
    )
    grown = found(small_detector(), Recipe(batch_size=2, epochs=1000, optimizer="adamw"), limit=4, free=1000 * GB)
    assert (grown.batch_size, grown.learning_rate) == (4, pytest.approx(1e-3 * 2**0.5))


def test_a_recipes_images_a_step_are_kept_where_they_fit_and_no_more_are_good() -> None:
    kept = found(small_detector(), Recipe(batch_size=4, steps=100), free=1000 * GB)
    assert kept == BatchSizeFound(
        batch_size=4,
        accumulate=1,
        learning_rate=1e-3,
        reason="batch size 4 by trial: 4 GB of 1000 GB free, 4 images/s (2: 2); learning rate 0.001",
    )


def test_steps_have_no_more_images_than_there_are() -> None:
    few = found(small_detector(), Recipe(batch_size=16, epochs=1000), limit=3, free=1000 * GB)
    assert (few.batch_size, few.accumulate, few.learning_rate) == (3, 1, 1e-3)


def test_a_graphics_card_that_runs_out_of_memory_tells_how_many_fit() -> None:
    detector = small_detector()

    def run_out(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    detector.register_forward_pre_hook(run_out)
    fewer = found(detector, Recipe(batch_size=8, epochs=9), free=80 * GB, careful=False)
    assert (fewer.batch_size, fewer.accumulate) == (8, 2)


def test_nothing_that_fits_is_an_error_that_says_what_was_free() -> None:
    with pytest.raises(UserError, match=r"even steps of 2 \(32 x 32 pixels\) do not fit in .* free 2 GB"):
        found(small_detector(), Recipe(batch_size=16, epochs=9), free=2 * GB)


def test_batch_norms_need_two_images_and_frozen_ones_do_not() -> None:
    with pytest.raises(UserError, match="training images: 1; this detector needs 2"):
        found(small_detector(), Recipe(epochs=9), limit=1, free=80 * GB)
    detector = small_detector()
    freeze(detector, ("backbone.",))
    assert found(detector, Recipe(epochs=9), limit=1, free=80 * GB).batch_size == 1


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
