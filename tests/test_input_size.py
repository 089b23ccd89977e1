"""How images are brought to the input's size."""

from __future__ import annotations

import pytest

from onestage.errors import UserError
from onestage.input_size import KeepRatio, Stretch, typical_input_hw


def test_a_stretched_image_is_a_square_whatever_it_was() -> None:
    assert Stretch(300).image_hw((375, 500)) == (300, 300)
    assert Stretch(300).input_hw([(300, 300)] * 3) == (300, 300)


@pytest.mark.parametrize(
    ("original_hw", "expected_hw"),
    [
        ((480, 640), (800, 1067)),  # the shorter side decides: 640 * 800 / 480 = 1066.7
        ((640, 480), (1067, 800)),
        ((400, 1000), (533, 1333)),  # the longer one: 400 * 1333 / 1000 = 533.2
        ((1, 10_000), (1, 1333)),  # never less than a pixel
    ],
)
def test_a_image_keeps_its_proportions(original_hw: tuple[int, int], expected_hw: tuple[int, int]) -> None:
    assert KeepRatio(800, 1333).image_hw(original_hw) == expected_hw


def test_a_batch_is_as_large_as_its_largest_sides_in_multiples_of_32() -> None:
    assert KeepRatio(800, 1333).input_hw([(800, 1067), (1067, 800)]) == (1088, 1088)
    assert KeepRatio(800, 1333).input_hw([(800, 1056)]) == (800, 1056)


def test_counts_are_of_a_image_of_three_to_four() -> None:
    assert typical_input_hw(KeepRatio(800, 1333)) == (800, 1088)
    assert typical_input_hw(Stretch(320)) == (320, 320)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Stretch(0), "image size 0: expected 32 to 8,192"),
        (lambda: KeepRatio(20, 100), "shortest edge 20"),
        (lambda: KeepRatio(200, 100), "longest edge 100 is below the shortest edge 200"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()
