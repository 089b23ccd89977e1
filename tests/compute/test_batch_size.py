from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from onestage.compute import batch_size
from onestage.compute.batch_size import Search, Trial, try_steps
from onestage.compute.memory import Memory


class Device:
    """A made-up device. Steps take `fixed + size * an_image` bytes and `seconds(size)`, and fail above `crash` bytes.
    Remembers the sizes that were tried."""

    def __init__(
        self, an_image: int = 10, fixed: int = 0, crash: int = 10**9, seconds: Callable[[int], float] = float
    ) -> None:
        self.an_image, self.fixed, self.crash, self.seconds = an_image, fixed, crash, seconds
        self.sizes: list[int] = []

    def __call__(self, size: int) -> Trial | None:
        self.sizes.append(size)
        taken = self.fixed + size * self.an_image
        return Trial(size, taken, float(self.seconds(size))) if taken <= self.crash else None


# --- what fits


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


# --- what is predicted


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


# --- what is faster


def test_sizes_are_doubled_as_long_as_more_images_a_second_come_of_it() -> None:
    # 16, 32 and 64 images in a second, 128 in two
    device = Device(seconds=lambda size: max(1.0, size / 64))
    search = Search(device, 10_000, 2, careful=False)
    assert search.largest_that_fits(16) == 16
    assert search.faster(16, 1000, math.inf) == 64
    assert device.sizes == [16, 32, 64, 128]


@pytest.mark.parametrize(("gain", "expected"), [(1.0, 16), (1.09, 16), (1.11, 32)])
def test_a_small_gain_is_none(gain: float, expected: int) -> None:
    search = Search(Device(seconds=lambda size: 1.0 if size == 16 else size / 16 / gain), 10_000, 2, careful=False)
    search.largest_that_fits(16)
    assert search.faster(16, 32, math.inf) == expected


@pytest.mark.parametrize("most", [16, 31])
def test_no_size_above_the_most_is_tried(most: int) -> None:
    device = Device(seconds=lambda size: 1.0)
    search = Search(device, 10_000, 2, careful=False)
    search.largest_that_fits(16)
    assert search.faster(16, most, math.inf) == 16
    assert device.sizes == [16]


@pytest.mark.parametrize("careful", [False, True])
def test_faster_sizes_must_fit_too(careful: bool) -> None:
    device = Device(seconds=lambda size: 1.0)
    search = Search(device, 400, 8, careful=careful)
    search.largest_that_fits(16)
    assert search.faster(16, 1000, math.inf) == 32
    assert search.too_large == 64
    assert device.sizes == ([8, 16, 32] if careful else [16, 32, 64])


def test_a_step_that_takes_too_long_is_not_faster() -> None:
    search = Search(Device(seconds=lambda size: size**0.5), 10_000, 2, careful=False)
    search.largest_that_fits(16)  # 4 s
    assert search.faster(16, 1000, longest_s=8.0) == 64  # 8 s; 128 would take 11.3


# --- trials


class Machine(Memory):
    """Memory of which a step takes a byte for each of its images."""

    fatal, free = False, 1000

    def __init__(self) -> None:
        self.steps: list[int] = []

    @contextmanager
    def watch(self) -> Iterator[Callable[[], int]]:
        yield lambda: max(self.steps)

    def prepare(self, size: int) -> Callable[[], None]:
        return lambda: self.steps.append(size)


def test_the_fastest_of_three_steps_counts_and_not_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 11.0, 11.25, 12.0, 12.75])
    monkeypatch.setattr(batch_size, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    machine = Machine()
    trial = try_steps(8, machine.prepare, machine)
    assert trial == Trial(8, bytes=8, seconds=0.25)
    assert machine.steps == [8] * 4


def test_slow_steps_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(batch_size, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    machine = Machine()
    assert try_steps(8, machine.prepare, machine) == Trial(8, 8, 4.0)
    assert machine.steps == [8] * 2


def test_a_trial_that_runs_out_of_memory_gives_nothing_and_other_errors_come_out() -> None:
    def prepare(size: int) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory") if size > 4 else RuntimeError("mat1 and mat2")

    assert try_steps(8, prepare, Machine()) is None
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        try_steps(4, prepare, Machine())
