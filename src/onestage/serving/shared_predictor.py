"""One predictor for many requests: images are decoded in threads, and those that wait together share a batch.

    request -> (threads) decode, shrink -> line -> (one thread) network -> request

Whatever waits is bounded: images without an answer, decoded pixels, the time until an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar

import cv2
import numpy as np
from starlette.exceptions import HTTPException

from onestage.drawing import SMALLEST_DRAWN_SIDE
from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor
from onestage.runtime.decode import ImageError, decode_image, read_header
from onestage.runtime.threads import cpu_threads
from onestage.serving.limits import Limits, busy
from onestage.structures import Detections

GATHER_SECONDS = 0.01  # a batch waits at most so long for images that are being decoded
STUCK_SECONDS = 30.0  # a batch that takes longer means that the network hangs

T = TypeVar("T")
_Answer: TypeAlias = tuple[Detections, float, float]  # of one image; when its batch began; the seconds of its batch
_InLine: TypeAlias = tuple[Any, "asyncio.Future[_Answer]"]  # an image of the network's size, so that many may wait


@dataclass(frozen=True)
class ImageResult:
    """What was found in one image.

    Attributes:
        size_hw: size of the upright image, pixels.
        found: its detections, in pixels of the upright image.
        wait_ms: time until the network began with it: decoding, and waiting for others.
        network_ms: the network's time for its batch.
    """

    size_hw: tuple[int, int]
    found: Detections
    wait_ms: float
    network_ms: float


class SharedPredictor:
    """Detects for the coroutines of one event loop; `close` ends its threads.

    Attributes:
        waiting: number of images that have no answer yet.
    """

    def __init__(
        self,
        predictor: BasePredictor,
        limits: Limits,
        *,
        batch_size: int = 8,
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        """`on_batch` is called after each batch with its number of images and its seconds."""
        self.waiting = 0
        self._predictor, self._limits, self._batch_size, self._on_batch = predictor, limits, batch_size, on_batch
        self._budget = PixelBudget(limits.decoded_pixels)
        self._decoders = ThreadPoolExecutor(max_workers=cpu_threads(), thread_name_prefix="onestage-decode")
        self._decoding = 0
        self._line: deque[_InLine] = deque()
        self._answering = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._batches: SimpleQueue[tuple[list[Any], Future[Any]] | None] = SimpleQueue()
        self._batch_began: float | None = None
        # a daemon, so that a network that hangs can't keep the process alive
        self._network = Thread(target=self._run_network, name="onestage-network", daemon=True)
        self._network.start()

    @property
    def healthy(self) -> bool:
        """False where a batch has not come back for half a minute."""
        began = self._batch_began
        return began is None or time.monotonic() - began < STUCK_SECONDS

    async def detect(self, images: Sequence[bytes]) -> list[ImageResult | ImageError]:
        """Detect in encoded images, in order; one that can't be read has its error in its place.

        Raises:
            HTTPException: too many images are waiting, or the answer takes too long.
        """
        if self.waiting + len(images) > self._limits.waiting:
            raise busy(f"{self.waiting} images are waiting")
        self.waiting += len(images)
        deadline = self._deadline()
        tasks = [self._task(self._detect_one(image, deadline)) for image in images]
        await asyncio.wait(tasks, timeout=self._limits.answer_seconds)
        return [self._outcome(task) for task in tasks]

    async def draw(self, encoded: bytes, found: Detections) -> bytes:
        """The image with its detections on it, as PNG. It is decoded again: no pixels are kept while others wait.

        Raises:
            HTTPException: it takes too long.
        """
        drawing = self._with_pixels(encoded, lambda image: _drawn_png(image, found), self._deadline())
        try:
            return await asyncio.shield(self._task(drawing))
        except TimeoutError as error:
            raise self._too_late() from error

    def close(self) -> None:
        """End the threads, once they have done what they were given."""
        self._decoders.shutdown(wait=True)
        self._batches.put(None)
        self._network.join(timeout=STUCK_SECONDS)

    async def _detect_one(self, encoded: bytes, deadline: float) -> ImageResult:
        arrived = time.monotonic()
        try:
            self._decoding += 1
            try:
                size_hw, prepared = await self._with_pixels(
                    encoded, lambda image: (image.shape[:2], self._predictor.prepare(image)), deadline
                )
            finally:
                self._decoding -= 1
            answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
            self._line.append((prepared, answer))
            if not self._answering:
                self._answering = True
                self._task(self._answer_line())
            async with asyncio.timeout_at(deadline):
                found, began, seconds = await answer
        finally:
            self.waiting -= 1
        return ImageResult(size_hw, found, 1e3 * (began - arrived), 1e3 * seconds)

    async def _with_pixels(self, encoded: bytes, work: Callable[[np.ndarray], T], deadline: float) -> T:
        """Work on a decoded image in a thread. The header gives its size first; pixels come once there is room."""
        loop, max_pixels = asyncio.get_running_loop(), self._limits.pixels
        header = await loop.run_in_executor(self._decoders, lambda: read_header(encoded, max_pixels=max_pixels))
        async with self._budget.taken(header.height * header.width, deadline):
            return await loop.run_in_executor(
                self._decoders, lambda: work(decode_image(encoded, max_pixels=max_pixels))
            )

    async def _answer_line(self) -> None:
        """Answer what is in the line, a batch at a time, until it is empty."""
        try:
            while self._line:
                give_up = time.monotonic() + GATHER_SECONDS
                while len(self._line) < self._batch_size and self._decoding and time.monotonic() < give_up:
                    await asyncio.sleep(GATHER_SECONDS / 10)
                await self._answer([self._line.popleft() for _ in range(min(self._batch_size, len(self._line)))])
        finally:
            self._answering = False

    async def _answer(self, batch: Sequence[_InLine]) -> None:
        batch = [one for one in batch if not one[1].done()]  # nobody waits any more for those whose time is over
        if not batch:
            return
        outcome: Future[tuple[list[Detections], float, float]] = Future()
        self._batches.put(([prepared for prepared, _ in batch], outcome))
        try:
            found, began, seconds = await asyncio.wrap_future(outcome)
        except Exception as error:
            if len(batch) > 1:  # one of them is to blame: the others get their answers
                for one in batch:
                    await self._answer([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        self._on_batch(len(batch), seconds)
        for (_, answer), detections in zip(batch, found, strict=True):
            if not answer.done():
                answer.set_result((detections, began, seconds))

    def _run_network(self) -> None:
        """Run the network on one batch after another. Whatever it raises, the thread goes on."""
        while (batch := self._batches.get()) is not None:
            prepared, outcome = batch
            began = self._batch_began = time.monotonic()
            try:
                found: list[Detections] | Exception = self._predictor.detect(prepared)
            except Exception as error:
                found = error
            self._batch_began = None
            if isinstance(found, Exception):
                outcome.set_exception(found)
            else:
                outcome.set_result((found, began, time.monotonic() - began))

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that goes on, within its bounds, when its client goes away."""

        def finished(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # or asyncio would log the errors of those whose clients are gone

        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop itself would not keep it
        task.add_done_callback(finished)
        return task

    def _outcome(self, task: asyncio.Task[ImageResult]) -> ImageResult | ImageError:
        if not task.done():
            raise self._too_late()
        try:
            return task.result()
        except ImageError as error:
            return error
        except TimeoutError as error:
            raise self._too_late() from error

    def _too_late(self) -> HTTPException:
        return busy(f"no answer within {self._limits.answer_seconds:g} seconds")

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._limits.answer_seconds


class PixelBudget:
    """Number of pixels that may be decoded at a time, which bounds the memory of decoding. First come, first served."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def taken(self, pixels: int, deadline: float) -> AsyncIterator[None]:
        """Wait for room, and hold it inside of `with`. More than the whole budget counts as the whole.

        Raises:
            TimeoutError: no room by the deadline, a time of the event loop.
        """
        wanted = min(pixels, self._all)
        async with asyncio.timeout_at(deadline), self._turn:  # in turn, or small images would overtake a large one
            while self._free < wanted:
                self._freed.clear()
                await self._freed.wait()
            self._free -= wanted
        try:
            yield
        finally:
            self._free += wanted
            self._freed.set()


def _drawn_png(image: np.ndarray, found: Detections) -> bytes:
    drawn = found.draw(image, min_side=SMALLEST_DRAWN_SIDE)
    done, png = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    if not done:
        raise UserError("the drawn image can't be written as PNG")
    return png.tobytes()
