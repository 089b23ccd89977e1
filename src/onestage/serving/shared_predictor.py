"""One predictor, or some, for many requests: images are decoded in threads, and those that wait together share a batch.

    request -> (threads) decode, cut into tiles, shrink -> line -> (one thread) network -> request

Images of many tiles let others pass: a batch takes a tile of each waiting image in turn. Whatever waits is bounded:
images without an answer, decoded pixels, tiles, the time until an answer. A second model shares all this, and the one
thread too: networks take turns.
"""

import asyncio
import os
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread, get_native_id
from typing import Any, TypeVar

import cv2
import numpy as np

from onestage.compute.memory import out_of_memory
from onestage.drawing import SMALLEST_DRAWN_SIDE
from onestage.inference.predictor import BasePredictor, PreparedImage
from onestage.runtime.decode import ImageError, ImageHeader, decode_image, read_header
from onestage.runtime.threads import cpu_threads
from onestage.serving.limits import Limits, busy
from onestage.structures import Detections
from onestage.tiled_detections import windows_of

GATHER_SECONDS = 0.01  # a batch waits at most so long for images that are being decoded
STUCK_SECONDS = 30.0  # a batch that takes longer means that the network hangs
BYTES_OF_A_PIXEL = 9  # that decoding an ordinary JPEG takes
SLOW_THREADS_NICE = 10
DRAWING_WEIGHT = 1.5  # the drawn copy, another order of colours, the PNG

T = TypeVar("T")


@dataclass
class _Waiting:
    """An image in line, in tiles of the network's size."""

    image: PreparedImage
    predictor: BasePredictor  # whose network it waits for
    answer: Future[tuple[Detections, float, float]]  # when the network began with it; its seconds for the batches
    found: list[Detections] = field(default_factory=list)  # of the tiles that are done
    taken: int = 0  # tiles that went to the network
    began: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class ImageResult:
    """What was found in one image."""

    size_hw: tuple[int, int]  # of the upright image, pixels
    found: Detections  # in pixels of the upright image
    wait_ms: float  # until the network began with it: decoding, and waiting for others
    network_ms: float  # the network's time for its batch, or for all batches that had a tile of it


class SharedPredictor:
    """Detects for the coroutines of one event loop; `close` ends its threads."""

    def __init__(
        self,
        predictor: BasePredictor,
        limits: Limits,
        *,
        batch_size: int = 8,
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        """`on_batch` is called after each batch with its number of images, or tiles, and its seconds."""
        self.waiting = 0  # images that have no answer yet
        self._predictor, self._limits, self._batch_size, self._on_batch = predictor, limits, batch_size, on_batch
        # Large images, of which the budget has room for one at a time, and drawing have threads of their own: others
        # pass them.
        threads = cpu_threads()
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="onestage-decode")
        self._slow_threads = ThreadPoolExecutor(max(1, threads // 2), "onestage-slow", _give_way)
        self._budget = PixelBudget(limits.decoded_pixels * 3 // 4)
        self._slow_budget = PixelBudget(limits.decoded_pixels)
        self._tiles, self._many_tiles = PixelBudget(limits.tiles), PixelBudget(limits.tiles)
        self._decoding = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._line: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._batch_began: float | None = None
        # a daemon, so that a network that hangs can't keep the process alive
        self._network = Thread(target=self._run_network, name="onestage-network", daemon=True)
        self._network.start()

    @property
    def healthy(self) -> bool:
        """False where a batch has not come back for half a minute."""
        began = self._batch_began
        return began is None or time.monotonic() - began < STUCK_SECONDS

    async def detect(
        self, images: Sequence[bytes], predictor: BasePredictor | None = None
    ) -> list[ImageResult | ImageError]:
        """Detect in encoded images, in order; one that can't be read has its error in its place.

        Args:
            images: files, as many as the limit on those that wait allows.
            predictor: another than the one that this was made for.

        Raises:
            HTTPException: too many images are waiting, or the answer takes too long.
        """
        if self.waiting + len(images) > self._limits.waiting:
            raise busy(f"{self.waiting} images are waiting")
        self.waiting += len(images)
        deadline = self._deadline()
        return await self._results(
            [self._detect_one(image, predictor or self._predictor, deadline) for image in images]
        )

    async def draw(self, encoded: bytes, found: Detections, bits: int) -> bytes:
        """The image with its detections on it, as PNG. It is decoded again: no pixels are kept while others wait.

        `bits` are those of 16-bit images that hold values.

        Raises:
            HTTPException: it takes too long.
        """

        def drawn_png(image: np.ndarray) -> bytes:
            drawn = found.draw(image, min_side=SMALLEST_DRAWN_SIDE)
            return cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1].tobytes()

        async def drawn() -> bytes:
            header = await self._header(encoded)
            return await self._with_pixels(encoded, header, bits, drawn_png, self._deadline(), drawing=True)

        return (await self._results([drawn()]))[0]

    def close(self) -> None:
        """End the threads, once they have done what they were given."""
        self._decoders.shutdown(wait=True)
        self._slow_threads.shutdown(wait=True)
        self._line.put(None)
        self._network.join(timeout=STUCK_SECONDS)

    async def _detect_one(self, encoded: bytes, predictor: BasePredictor, deadline: float) -> ImageResult | ImageError:
        arrived = time.monotonic()
        try:
            header = await self._header(encoded)
            tiles = len(windows_of(predictor.tiling, (header.height, header.width)))
            budget = self._many_tiles if 4 * tiles > self._limits.tiles else self._tiles
            async with budget.taken(tiles, deadline) if tiles > 1 else nullcontext():
                self._decoding += 1
                try:
                    bits = predictor.input_bits
                    prepared = await self._with_pixels(encoded, header, bits, predictor.prepare, deadline)
                finally:
                    self._decoding -= 1
                waiting = _Waiting(prepared, predictor, Future())
                self._line.put(waiting)
                async with asyncio.timeout_at(deadline):
                    found, began, seconds = await asyncio.wrap_future(waiting.answer)
            return ImageResult(prepared.original_hw, found, 1e3 * (began - arrived), 1e3 * seconds)
        except ImageError as error:
            return error
        finally:
            self.waiting -= 1

    async def _header(self, encoded: bytes) -> ImageHeader:
        loop, max_pixels = asyncio.get_running_loop(), self._limits.pixels
        header = await loop.run_in_executor(self._decoders, lambda: read_header(encoded, max_pixels=max_pixels))
        if header.format == "JPEG 2000":
            raise ImageError(f"image: {header.format} takes too long to decode for a server; send JPEG or PNG")
        return header

    async def _with_pixels(
        self,
        encoded: bytes,
        header: ImageHeader,
        bits: int,
        work: Callable[[np.ndarray], T],
        deadline: float,
        *,
        drawing: bool = False,
    ) -> T:
        """Work on a decoded image in a thread, once there is room for its pixels."""
        loop, max_pixels = asyncio.get_running_loop(), self._limits.pixels
        pixels = int(header.decoding_bytes / BYTES_OF_A_PIXEL + drawing * DRAWING_WEIGHT * header.height * header.width)
        slow = drawing or 2 * pixels > self._limits.decoded_pixels
        async with (self._slow_budget if slow else self._budget).taken(pixels, deadline):
            return await loop.run_in_executor(
                self._slow_threads if slow else self._decoders,
                lambda: work(decode_image(encoded, max_pixels=max_pixels, bits=bits)),
            )

    async def _results(self, works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """The results of works that go on when their client goes away or has waited too long."""

        def finished(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # or asyncio would log the errors of those whose clients are gone

        tasks = [asyncio.create_task(work) for work in works]
        self._tasks.update(tasks)  # the event loop itself would not keep them
        for task in tasks:
            task.add_done_callback(finished)
        await asyncio.wait(tasks, timeout=self._limits.answer_seconds)
        try:
            return [task.result() for task in tasks]
        except (TimeoutError, asyncio.InvalidStateError) as error:  # the latter: it is not done
            raise busy(f"no answer within {self._limits.answer_seconds:g} seconds") from error

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._limits.answer_seconds

    def _run_network(self) -> None:
        """Answer what is in the line, a batch at a time, until None comes and all is answered."""
        waiting: deque[_Waiting] = deque()
        ended = False
        while waiting or not ended:
            arrived = [] if waiting else [self._line.get()]
            give_up = time.monotonic() + GATHER_SECONDS
            while self._decoding and time.monotonic() < give_up:
                tiles = sum(len(one.image.pixels) - one.taken for one in (*waiting, *arrived) if one is not None)
                if tiles + self._line.qsize() >= self._batch_size:
                    break
                time.sleep(GATHER_SECONDS / 10)
            arrived += [self._line.get() for _ in range(self._line.qsize())]
            ended = ended or None in arrived
            waiting.extend(one for one in arrived if one is not None)
            if batch := self._next_batch(waiting):
                self._answer(batch)

    def _next_batch(self, waiting: deque[_Waiting]) -> list[_Waiting]:
        """The images of the next batch, all for the network of the first; each stands in it once for each tile."""
        batch: list[_Waiting] = []
        of_others: list[_Waiting] = []
        while waiting and len(batch) < self._batch_size:
            one = waiting.popleft()
            if one.answer.done():  # nobody waits for it any more, or a tile of it failed
                continue
            if batch and one.predictor is not batch[0].predictor:
                of_others.append(one)
                continue
            batch.append(one)
            one.taken += 1
            if one.taken < len(one.image.pixels):
                waiting.append(one)
        waiting.extendleft(reversed(of_others))  # they are the first of the next
        return batch

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        """Run the network on the next tile of each image. Whatever it raises, the thread goes on."""
        began = self._batch_began = time.monotonic()
        next_tile = Counter[int]()
        tiles = []
        for one in batch:
            tiles.append(one.image.pixels[len(one.found) + next_tile[id(one)]])
            next_tile[id(one)] += 1
        try:
            found = batch[0].predictor.detect_resized(tiles)
        except Exception as error:
            self._batch_began = None
            if len(batch) == 1:
                _fail(batch[0], MemoryError(str(error)) if out_of_memory(error) else error)
            else:
                for one in batch:  # one of them is to blame: the others get their answers
                    if not one.answer.done():
                        self._answer([one])
            return
        self._batch_began, seconds = None, time.monotonic() - began
        self._on_batch(len(batch), seconds)
        for one, detections in zip(batch, found, strict=True):
            one.began = one.began or began
            one.found.append(detections)
        for one in {id(one): one for one in batch}.values():
            one.seconds += seconds
            if len(one.found) == len(one.image.pixels):
                self._finish(one)

    def _finish(self, one: _Waiting) -> None:
        """Answer with the detections of all tiles."""
        try:
            found = one.predictor.of_image(one.image, one.found)
        except Exception as error:
            _fail(one, error)
            return
        if one.answer.set_running_or_notify_cancel():
            one.answer.set_result((found, one.began, one.seconds))


def _fail(one: _Waiting, error: Exception) -> None:
    """Answer with an error; tiles that are left are not looked at."""
    if one.answer.set_running_or_notify_cancel():
        one.answer.set_exception(error)


def _give_way() -> None:
    """Let this thread have what others leave of the processor; Linux alone counts by threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, get_native_id(), SLOW_THREADS_NICE)


class PixelBudget:
    """Number of pixels that may be decoded at a time, which bounds the memory of decoding. First come, first served.

    They are pixels of an ordinary JPEG; others count by the memory that their decoding takes. Tiles that wait are
    counted by another such budget.
    """

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def taken(self, pixels: int, deadline: float) -> AsyncIterator[None]:
        """Wait for room, and hold it inside of `with`. More than the whole budget counts as the whole.

        No room by the deadline, a time of the event loop, is a `TimeoutError`.
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
