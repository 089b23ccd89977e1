"""Threads beside the network: order, depth, failures, and the frames that a live source drops."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from onestage.inference.threads import ahead, behind, mapped_ahead, newest


def counting(number: int, made: list[int]) -> Iterator[int]:
    for index in range(number):
        made.append(index)
        yield index


@pytest.mark.parametrize("number", [0, 1, 5, 100])
def test_items_made_ahead_are_the_same_in_order(number: int) -> None:
    assert list(ahead(counting(number, []), depth=3)) == list(range(number))


def test_no_more_is_made_than_the_depth_allows() -> None:
    made: list[int] = []
    line = ahead(counting(100, made), depth=3)
    assert next(line) == 0
    time.sleep(0.2)
    assert made == [0, 1, 2, 3]
    line.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(made) <= 4


def test_a_failure_while_reading_ahead_reaches_the_caller_in_its_place() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    line = ahead(failing(), depth=4)
    assert next(line) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(line)


def test_mapping_ahead_keeps_the_order() -> None:
    assert list(mapped_ahead(lambda x: x * x, range(50), depth=4, threads=3)) == [x * x for x in range(50)]


def test_a_live_source_gives_its_newest_item_and_drops_the_older_ones() -> None:
    seen, release = [], threading.Event()

    def live() -> Iterator[int]:
        yield 0
        release.wait(timeout=10)
        yield from (1, 2, 3, 4)
        all_made.set()

    all_made = threading.Event()
    for item in newest(live()):
        seen.append(item)
        if item == 0:
            release.set()
            all_made.wait(timeout=10)
    assert seen == [0, 4]


def test_a_failure_of_a_live_source_reaches_the_caller() -> None:
    def failing() -> Iterator[int]:
        raise OSError("unplugged")
        yield

    with pytest.raises(OSError, match="unplugged"):
        list(newest(failing()))


def test_work_behind_is_done_in_order_before_the_end() -> None:
    done: list[int] = []
    with behind(done.append, depth=2) as put:
        for item in range(20):
            put(item)
    assert done == list(range(20))


@pytest.mark.parametrize("items", [1, 10])
def test_a_failure_behind_reaches_the_caller(items: int) -> None:
    def fail(item: int) -> None:
        raise OSError("disk full")

    def work_on(number: int) -> None:
        with behind(fail, depth=2) as put:
            for item in range(number):
                put(item)

    with pytest.raises(OSError, match="disk full"):
        work_on(items)
