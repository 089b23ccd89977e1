"""Many requests, one network: batches, bounds, and each its own answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from red_box import CATEGORIES, RedBoxDetector
from served import red_png

from onestage.inference.predictor import Predictor
from onestage.runtime.decode import ImageError
from onestage.serving.limits import Limits, RefusedError
from onestage.serving.pixel_budget import PixelBudget
from onestage.serving.shared_predictor import Looked, SharedPredictor

BOX = (20, 30, 80, 90)


class GatedDetector(RedBoxDetector):
    """Waits with each batch until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def forward(self, images):
        self.begun.release()
        assert self.go.acquire(timeout=30)
        return super().forward(images)


@contextmanager
def shared(detector: RedBoxDetector, limits: Limits | None = None, batch_size: int = 8) -> Iterator[SharedPredictor]:
    predictor = Predictor(detector, CATEGORIES, device="cpu")
    one = SharedPredictor(predictor, limits or Limits(), batch_size=batch_size)
    try:
        yield one
    finally:
        one.close()


async def until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


def test_what_comes_while_the_network_works_shares_the_next_batches() -> None:
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> list[list[Looked | ImageError]]:
        first = asyncio.create_task(one.look_at([red_png(BOX)]))
        await until(lambda: detector.begun.acquire(blocking=False))
        rest = [asyncio.create_task(one.look_at([red_png((10, 10, 20 + n, 90))])) for n in range(20)]
        await until(lambda: len(one._network._line) == 20)
        for _ in range(4):
            detector.go.release()
        return await asyncio.gather(first, *rest)

    with shared(detector) as one:
        answers = asyncio.run(scene(one))
    assert detector.batch_sizes == [1, 8, 8, 4]
    looked = [answer[0] for answer in answers[1:]]
    assert [one.found.boxes_xyxy[0, 2].item() for one in looked if isinstance(one, Looked)] == [
        20 + n for n in range(20)
    ]


def test_a_image_alone_does_not_wait_for_others() -> None:
    async def scene(one: SharedPredictor) -> float:
        await one.look_at([red_png(BOX)])
        begun = time.monotonic()
        for _ in range(20):
            await one.look_at([red_png(BOX)])
        return (time.monotonic() - begun) / 20

    detector = RedBoxDetector()
    with shared(detector) as one:
        asyncio.run(scene(one))
    assert detector.batch_sizes == 21 * [1]


def test_more_than_may_wait_are_told_to_come_later_and_the_rest_is_answered() -> None:
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> list[object]:
        requests = [asyncio.create_task(one.look_at([red_png(BOX)])) for _ in range(10)]
        await until(lambda: sum(request.done() for request in requests) == 6)
        assert one.waiting == 4
        for _ in range(4):
            detector.go.release()
        return list(await asyncio.gather(*requests, return_exceptions=True))

    with shared(detector, Limits(waiting=4), batch_size=1) as one:
        outcomes = asyncio.run(scene(one))
        assert one.waiting == 0
    refused = [outcome for outcome in outcomes if isinstance(outcome, RefusedError)]
    assert len(refused) == 6
    assert {(error.status, error.headers["Retry-After"]) for error in refused} == {(503, "1")}


def test_who_waits_too_long_is_told_to_come_later() -> None:
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> list[object]:
        first = asyncio.create_task(one.look_at([red_png(BOX)]))
        await until(lambda: detector.begun.acquire(blocking=False))
        outcomes = await asyncio.gather(first, one.look_at([red_png(BOX)]), return_exceptions=True)
        detector.go.release()
        await until(lambda: one.waiting == 0)
        return list(outcomes)

    with shared(detector, Limits(answer_seconds=0.3)) as one:
        outcomes = asyncio.run(scene(one))
    assert [type(outcome) for outcome in outcomes] == [RefusedError, RefusedError]
    assert detector.batch_sizes == [1]  # nothing is computed for an answer that nobody waits for


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> None:
        gone = asyncio.create_task(one.look_at([red_png(BOX)]))
        await until(lambda: detector.begun.acquire(blocking=False))
        gone.cancel()
        await asyncio.sleep(0.05)
        detector.go.release()
        await until(lambda: one.waiting == 0)
        detector.go.release()
        assert len(await one.look_at([red_png(BOX)])) == 1

    with shared(detector) as one:
        asyncio.run(scene(one))


def test_the_server_is_healthy_until_its_network_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onestage.serving.network_thread.STUCK_SECONDS", 0.2)
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> None:
        assert one.healthy
        request = asyncio.create_task(one.look_at([red_png(BOX)]))
        await until(lambda: detector.begun.acquire(blocking=False))
        await asyncio.sleep(0.3)
        assert not one.healthy
        detector.go.release()
        await request
        assert one.healthy

    with shared(detector) as one:
        asyncio.run(scene(one))


def test_a_large_image_is_not_overtaken_for_ever() -> None:
    budget = PixelBudget(100)
    order: list[int] = []

    def take(pixels: int) -> None:
        with budget.taken(pixels, time.monotonic() + 30):
            order.append(pixels)

    with budget.taken(60, time.monotonic() + 1):
        threads = []
        for pixels in (90, 10, 20):  # the small ones would fit at once
            threads.append(threading.Thread(target=take, args=(pixels,)))
            threads[-1].start()
            time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(timeout=30)
    assert order[0] == 90


def test_a_budget_is_whole_again_after_errors_and_late_ones() -> None:
    budget = PixelBudget(100)
    with pytest.raises(ZeroDivisionError), budget.taken(100, time.monotonic() + 1):
        raise ZeroDivisionError
    with budget.taken(1, time.monotonic() + 1), pytest.raises(TimeoutError), budget.taken(100, time.monotonic() + 0.05):
        pass
    with budget.taken(1_000_000, time.monotonic() + 1):  # more than all counts as all
        pass
