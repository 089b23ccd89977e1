"""Many requests share one network: batches, bounds, and an answer for each."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from red_box import CATEGORIES, RedBoxDetector
from served import red_png
from starlette.exceptions import HTTPException

from onestage.inference.predictor import Predictor, PreparedImage
from onestage.runtime.decode import ImageError, decode_image
from onestage.runtime.threads import cpu_threads
from onestage.runtime.tiles import Tiling
from onestage.serving.limits import Limits
from onestage.serving.shared_predictor import ImageResult, PixelBudget, SharedPredictor
from onestage.structures import Detections

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


def test_images_that_arrive_while_the_network_works_share_the_next_batches() -> None:
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> list[list[ImageResult | ImageError]]:
        first = asyncio.create_task(one.detect([red_png(BOX)]))
        await until(lambda: detector.begun.acquire(blocking=False))
        rest = [asyncio.create_task(one.detect([red_png((10, 10, 20 + n, 90))])) for n in range(20)]
        await until(lambda: one._line.qsize() == 20)
        for _ in range(4):
            detector.go.release()
        return await asyncio.gather(first, *rest)

    with shared(detector) as one:
        answers = asyncio.run(scene(one))
    assert detector.batch_sizes == [1, 8, 8, 4]
    results = [answer[0] for answer in answers[1:]]
    assert [one.found.boxes_xyxy[0, 2].item() for one in results if isinstance(one, ImageResult)] == [
        20 + n for n in range(20)
    ]


def test_two_networks_take_turns_on_one_thread_and_a_batch_is_never_of_both() -> None:
    detectors = GatedDetector(), GatedDetector()
    first, second = (Predictor(one, CATEGORIES, device="cpu") for one in detectors)

    async def scene(one: SharedPredictor) -> None:
        begun = asyncio.create_task(one.detect([red_png(BOX)]))
        await until(lambda: detectors[0].begun.acquire(blocking=False))
        rest = [asyncio.create_task(one.detect([red_png(BOX)], second if n % 2 else first)) for n in range(12)]
        await until(lambda: one._line.qsize() == 12)
        assert not detectors[1].begun.acquire(blocking=False)  # while the first works
        for detector in detectors:
            for _ in range(3):
                detector.go.release()
        await asyncio.gather(begun, *rest)

    one = SharedPredictor(first, Limits(), batch_size=4)
    try:
        asyncio.run(scene(one))
    finally:
        one.close()
    assert [detector.batch_sizes for detector in detectors] == [[1, 4, 2], [4, 2]]


def test_two_models_share_the_limit_on_images_that_wait() -> None:
    detector = GatedDetector()
    second = Predictor(RedBoxDetector(), CATEGORIES, device="cpu")

    async def scene(one: SharedPredictor) -> None:
        waiting = [asyncio.create_task(one.detect([red_png(BOX)], which)) for which in (None, None, second)]
        await until(lambda: one.waiting == 3)
        for which in (None, second):
            with pytest.raises(HTTPException, match="3 images are waiting"):
                await one.detect([red_png(BOX)], which)
        for _ in range(2):
            detector.go.release()
        await asyncio.gather(*waiting)

    with shared(detector, Limits(waiting=3)) as one:
        asyncio.run(scene(one))


def test_an_image_alone_does_not_wait_for_others() -> None:
    async def scene(one: SharedPredictor) -> float:
        await one.detect([red_png(BOX)])
        begun = time.monotonic()
        for _ in range(20):
            await one.detect([red_png(BOX)])
        return (time.monotonic() - begun) / 20

    detector = RedBoxDetector()
    with shared(detector) as one:
        asyncio.run(scene(one))
    assert detector.batch_sizes == 21 * [1]


def test_images_beyond_the_limit_get_503_and_the_rest_is_answered() -> None:
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> list[object]:
        requests = [asyncio.create_task(one.detect([red_png(BOX)])) for _ in range(10)]
        await until(lambda: sum(request.done() for request in requests) == 6)
        assert one.waiting == 4
        for _ in range(4):
            detector.go.release()
        return list(await asyncio.gather(*requests, return_exceptions=True))

    with shared(detector, Limits(waiting=4), batch_size=1) as one:
        outcomes = asyncio.run(scene(one))
        assert one.waiting == 0
    refused = [outcome for outcome in outcomes if isinstance(outcome, HTTPException)]
    assert len(refused) == 6
    assert {(error.status_code, error.headers["Retry-After"]) for error in refused} == {(503, "1")}


def test_an_image_that_waits_too_long_gets_503() -> None:
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> list[object]:
        first = asyncio.create_task(one.detect([red_png(BOX)]))
        await until(lambda: detector.begun.acquire(blocking=False))
        outcomes = await asyncio.gather(first, one.detect([red_png(BOX)]), return_exceptions=True)
        detector.go.release()
        await until(lambda: one.waiting == 0)
        return list(outcomes)

    with shared(detector, Limits(answer_seconds=0.3)) as one:
        outcomes = asyncio.run(scene(one))
    assert [type(outcome) for outcome in outcomes] == [HTTPException, HTTPException]
    assert detector.batch_sizes == [1]  # nothing is computed for an answer that nobody waits for


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> None:
        gone = asyncio.create_task(one.detect([red_png(BOX)]))
        await until(lambda: detector.begun.acquire(blocking=False))
        gone.cancel()
        await asyncio.sleep(0.05)
        detector.go.release()
        await until(lambda: one.waiting == 0)
        detector.go.release()
        assert len(await one.detect([red_png(BOX)])) == 1

    with shared(detector) as one:
        asyncio.run(scene(one))


def test_a_large_image_of_many_tiles_lets_small_ones_pass() -> None:
    detector = GatedDetector()
    large = red_png((0, 0, 400, 30), size=400)  # 25 tiles

    async def scene(one: SharedPredictor) -> tuple[list[ImageResult | ImageError], int]:
        waiting = asyncio.create_task(one.detect([large]))
        await until(lambda: detector.begun.acquire(blocking=False))
        small = asyncio.create_task(one.detect([red_png(BOX), red_png(BOX)]))
        await until(lambda: one._line.qsize() == 2)
        for _ in range(2):  # four tiles of the large image, then two small images and two more of its tiles
            detector.go.release()
        assert len(await small) == 2
        assert not waiting.done()
        done = sum(detector.batch_sizes)
        for _ in range(10):
            detector.go.release()
        return await waiting, done

    predictor = Predictor(detector, CATEGORIES, device="cpu")
    predictor.tiling = Tiling(100, 20)
    one = SharedPredictor(predictor, Limits(), batch_size=4)
    try:
        answer, done = asyncio.run(scene(one))
    finally:
        one.close()
    assert done == 8
    assert sum(detector.batch_sizes) == 27
    (result,) = answer
    assert isinstance(result, ImageResult)
    assert result.size_hw == (400, 400)
    assert result.found.boxes_xyxy.tolist() == [[0, 0, 400, 30]]


def test_an_image_whose_tiles_can_not_be_merged_has_its_error_and_the_rest_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu")
    predictor.tiling = Tiling(100, 20)
    of_image = predictor.of_image

    def failing(image: PreparedImage, found: Sequence[Detections]) -> Detections:
        if len(found) > 1:
            raise ValueError("no merging")
        return of_image(image, found)

    async def scene(one: SharedPredictor) -> None:
        with pytest.raises(ValueError, match="no merging"):
            await one.detect([red_png(BOX, size=400)])
        assert len(await one.detect([red_png(BOX)])) == 1

    monkeypatch.setattr(predictor, "of_image", failing)
    one = SharedPredictor(predictor, Limits(), batch_size=4)
    try:
        asyncio.run(scene(one))
    finally:
        one.close()


def test_images_of_many_tiles_wait_for_room_while_those_of_few_pass() -> None:
    detector = GatedDetector()
    many, few = red_png(BOX, size=400), red_png(BOX, size=180)  # 25 and 4 tiles

    async def scene(one: SharedPredictor) -> None:
        first, second = (asyncio.create_task(one.detect([many])) for _ in range(2))
        await until(lambda: detector.begun.acquire(blocking=False))
        passing = asyncio.create_task(one.detect([few]))
        await until(lambda: one._line.qsize() == 1)  # the second of many tiles is not there
        for _ in range(30):
            detector.go.release()
        await asyncio.gather(first, second, passing)

    predictor = Predictor(detector, CATEGORIES, device="cpu")
    predictor.tiling = Tiling(100, 20)
    one = SharedPredictor(predictor, Limits(tiles=30), batch_size=4)
    try:
        asyncio.run(scene(one))
    finally:
        one.close()
    assert sum(detector.batch_sizes) == 54


def test_the_server_is_healthy_until_its_network_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onestage.serving.shared_predictor.STUCK_SECONDS", 0.2)
    detector = GatedDetector()

    async def scene(one: SharedPredictor) -> None:
        assert one.healthy
        request = asyncio.create_task(one.detect([red_png(BOX)]))
        await until(lambda: detector.begun.acquire(blocking=False))
        await asyncio.sleep(0.3)
        assert not one.healthy
        detector.go.release()
        await request
        assert one.healthy

    with shared(detector) as one:
        asyncio.run(scene(one))


def test_scan_bomb_small_images_pass_a_large_one_that_is_being_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def slow_if_large(encoded: bytes, **options: int) -> np.ndarray:
        image = decode_image(encoded, **options)
        assert len(image) < 200 or go.wait(timeout=30)
        return image

    async def scene(one: SharedPredictor) -> None:
        large = [asyncio.create_task(one.detect([red_png(BOX, size=200)])) for _ in range(3)]
        await asyncio.sleep(0.05)
        for _ in range(3):
            await one.detect([red_png(BOX)])
        assert not any(task.done() for task in large)
        go.set()
        await asyncio.gather(*large)

    monkeypatch.setattr("onestage.serving.shared_predictor.decode_image", slow_if_large)
    with shared(RedBoxDetector(), Limits(decoded_pixels=40_000)) as one:
        asyncio.run(scene(one))


def test_never_reads_small_images_pass_those_that_are_being_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def slow_to_draw(found: Detections, image: np.ndarray, **options: int) -> np.ndarray:
        assert go.wait(timeout=30)
        return image

    async def scene(one: SharedPredictor) -> None:
        found = await one.detect([red_png(BOX)])
        drawn = [asyncio.create_task(one.draw(red_png(BOX), found[0].found, 16)) for _ in range(2 * cpu_threads())]
        await asyncio.sleep(0.05)
        for _ in range(3):
            await one.detect([red_png(BOX)])
        assert not any(task.done() for task in drawn)
        go.set()
        await asyncio.gather(*drawn)

    monkeypatch.setattr(Detections, "draw", slow_to_draw)
    with shared(RedBoxDetector()) as one:
        asyncio.run(scene(one))


def test_a_large_image_is_not_overtaken_for_ever() -> None:
    async def scene() -> list[int]:
        budget, order = PixelBudget(100), []
        deadline = asyncio.get_running_loop().time() + 30

        async def take(pixels: int) -> None:
            async with budget.taken(pixels, deadline):
                order.append(pixels)

        async with budget.taken(60, deadline):
            tasks = [asyncio.create_task(take(pixels)) for pixels in (90, 10, 20)]  # the small ones would fit at once
            await asyncio.sleep(0.05)
            assert order == []
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(scene()) == [90, 10, 20]


def test_a_budget_is_whole_again_after_errors_and_late_ones() -> None:
    async def scene() -> None:
        budget, now = PixelBudget(100), asyncio.get_running_loop().time()
        with pytest.raises(ZeroDivisionError):
            async with budget.taken(100, now + 1):
                raise ZeroDivisionError
        async with budget.taken(1, now + 1):
            with pytest.raises(TimeoutError):
                async with budget.taken(100, now + 0.05):
                    pass
        async with budget.taken(1_000_000, now + 1):  # more than all counts as all
            pass

    asyncio.run(scene())
