"""One predictor for many requests: images are decoded in threads, and those that arrive together share a batch.

    request -> look_at -> (threads) decode, shrink -> waiting line -> (one thread) network -> request

What waits is bounded everywhere: images without an answer, decoded pixels, the time until an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2

from onestage.drawing import SMALLEST_DRAWN_SIDE
from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor
from onestage.runtime.decode import ImageError, decode_image, read_header
from onestage.runtime.session import cores
from onestage.serving.limits import Limits, RefusedError, busy
from onestage.serving.network_thread import NetworkThread
from onestage.serving.pixel_budget import PixelBudget
from onestage.structures import Detections


@dataclass(frozen=True)
class Looked:
    """One image and what was found in it.

    Attributes:
        size_hw: of the upright image, pixels.
        found: in pixels of it.
        wait_ms: until the network began with it: decoding, and waiting for others.
        network_ms: of its batch.
    """

    size_hw: tuple[int, int]
    found: Detections
    wait_ms: float
    network_ms: float


class SharedPredictor:
    """Call it from coroutines of one event loop; `close` when done.

    Attributes:
        waiting: images that have no answer yet.
    """

    def __init__(
        self,
        predictor: BasePredictor,
        limits: Limits,
        *,
        batch_size: int = 8,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        """`on_batch` is told the images and the seconds of each batch, in the network's thread."""
        self.waiting = 0
        self._prepare, self._limits = predictor.prepare, limits
        self._decoding = 0
        self._budget = PixelBudget(limits.decoded_pixels)
        self._threads = ThreadPoolExecutor(max_workers=cores(), thread_name_prefix="onestage-decode")
        self._network = NetworkThread(predictor.detect, batch_size, lambda: self._decoding > 0, on_batch)
        self._tasks: set[asyncio.Task[Looked]] = set()

    @property
    def healthy(self) -> bool:
        """Whether the network answers."""
        return self._network.healthy

    async def look_at(self, images: Sequence[bytes]) -> list[Looked | ImageError]:
        """Detect in encoded images, in order; what can't be read is an error in its place.

        Raises:
            RefusedError: too many are waiting, or the answer takes too long.
        """
        if self.waiting + len(images) > self._limits.waiting:
            raise busy(f"{self.waiting} images are waiting")
        self.waiting += len(images)
        deadline = self._deadline()
        tasks = [asyncio.create_task(self._look_at_one(image, deadline)) for image in images]
        for task in tasks:
            self._tasks.add(task)  # or nothing would hold it when its client goes away
            task.add_done_callback(self._finished)
        _, late = await asyncio.wait(tasks, timeout=self._limits.answer_seconds)
        if late:
            raise self._too_late()
        return [self._outcome(task) for task in tasks]

    async def draw(self, image: bytes, found: Detections) -> bytes:
        """The image with its detections on it, as PNG. It is decoded again: no pixels are kept while others wait.

        Raises:
            RefusedError: it takes too long.
        """
        try:
            return await self._in_thread(self._draw, image, found, self._deadline())
        except TimeoutError as error:
            raise self._too_late() from error

    def close(self) -> None:
        """Answer what is waiting, and end the threads."""
        self._threads.shutdown(wait=True)
        self._network.close()

    async def _look_at_one(self, encoded: bytes, deadline: float) -> Looked:
        arrived = time.monotonic()
        try:
            self._decoding += 1
            try:
                opened = await self._in_thread(self._open, encoded, deadline)
            finally:
                self._decoding -= 1
            answer = await asyncio.wrap_future(self._network.put(opened.prepared, deadline))
        finally:
            self.waiting -= 1
        return Looked(opened.size_hw, answer.found, 1e3 * (answer.begun - arrived), 1e3 * answer.seconds)

    def _finished(self, task: asyncio.Task[Looked]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, though its client may be gone

    def _outcome(self, task: asyncio.Task[Looked]) -> Looked | ImageError:
        try:
            return task.result()
        except ImageError as error:
            return error
        except TimeoutError as error:
            raise self._too_late() from error

    def _too_late(self) -> RefusedError:
        return busy(f"no answer within {self._limits.answer_seconds:g} seconds")

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _deadline(self) -> float:
        return time.monotonic() + self._limits.answer_seconds

    def _open(self, encoded: bytes, deadline: float) -> _Opened:
        """The size from the header first, and pixels only once there is room for them."""
        header = read_header(encoded, max_pixels=self._limits.pixels)
        with self._budget.taken(header.height * header.width, deadline):
            image = decode_image(encoded, max_pixels=self._limits.pixels)
            return _Opened(image.shape[:2], self._prepare(image))

    def _draw(self, encoded: bytes, found: Detections, deadline: float) -> bytes:
        header = read_header(encoded, max_pixels=self._limits.pixels)
        with self._budget.taken(header.height * header.width, deadline):
            drawn = found.draw(decode_image(encoded, max_pixels=self._limits.pixels), min_side=SMALLEST_DRAWN_SIDE)
            done, png = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        if not done:
            raise UserError("the drawn image can't be written as PNG")
        return png.tobytes()


@dataclass(frozen=True)
class _Opened:
    size_hw: tuple[int, int]
    prepared: Any  # of the network's size, so it may wait
