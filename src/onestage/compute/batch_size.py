"""A search for the batch size that fits in memory and is fast, by taking real steps.

On a GPU a batch that is too large is an error that is caught. On a CPU the kernel would kill the process, so a careful
search tries no size that the sizes before it do not promise to fit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile

from onestage.compute.memory import Memory, out_of_memory

GAIN = 1.1  # in images a second, that doubling the batch must bring; timings differ by a twentieth or so
TIMED_STEPS, TIMED_SECONDS = 3, 3.0  # the fastest of so many steps counts, or of those that fit in so many seconds


@dataclass(frozen=True)
class Trial:
    """Steps of one batch size, which fits."""

    size: int  # images a step
    bytes: int  # most memory that the steps took
    seconds: float  # time of the fastest step

    @property
    def pace(self) -> float:
        """Images a second."""
        return self.size / max(self.seconds, 1e-9)


def try_steps(size: int, prepare: Callable[[int], Callable[[], None]], memory: Memory) -> Trial | None:
    """Take a few steps of one batch size; None if memory runs out. `prepare` makes a batch and gives a step with it."""
    with memory.watch() as peak:
        try:
            step = prepare(size)
            step()  # the first one also chooses and compiles kernels
            seconds: list[float] = []
            while len(seconds) < TIMED_STEPS and sum(seconds) < TIMED_SECONDS:
                started = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - started)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None
        return Trial(size, peak(), min(seconds))


@dataclass
class Search:
    """Looks for a batch size and remembers the trials."""

    trial: Callable[[int], Trial | None]  # tries one size; None if memory runs out
    room: int  # bytes that a step may take
    least: int  # fewest images that a step can have
    careful: bool = field(kw_only=True)  # try only sizes that are predicted to fit
    tried: dict[int, Trial] = field(default_factory=dict, init=False)  # by size, where it fits
    too_large: int | None = field(default=None, init=False)  # the latest size that does not fit, or is predicted not to

    def largest_that_fits(self, start: int) -> int | None:
        """`start`, or the largest of its halves that fits; None if not even the least does."""
        halves = [start >> power for power in range(start.bit_length()) if start >> power > self.least]
        sizes = [*halves, self.least]  # falling
        if self.careful:
            return max(takewhile(self.fits, reversed(sizes)), default=None)
        return next(filter(self.fits, sizes), None)

    def faster(self, size: int, most: int, longest_s: float) -> int:
        """`size`, doubled while that fits and is faster, up to `most` images and `longest_s` seconds a step."""
        while 2 * size <= most and self.fits(2 * size):
            one, two = self.tried[size], self.tried[2 * size]
            if two.pace < GAIN * one.pace or two.seconds > longest_s:
                break
            size *= 2
        return size

    def fits(self, size: int) -> bool:
        """True if steps of this size fit; a careful search only predicts it where they may not."""
        may_be_tried = not self.careful or self.predicted(size) <= self.room
        trial = self.trial(size) if may_be_tried else None
        if trial is None or trial.bytes > self.room:
            self.too_large = size
            return False
        self.tried[size] = trial
        return True

    def predicted(self, size: int) -> float:
        """Bytes for a size above those tried, on a line through the two largest; 0 before the first trial."""
        known = [self.tried[one] for one in sorted(self.tried)[-2:]]
        if not known:
            return 0.0
        if len(known) == 1:
            return known[0].bytes * size / known[0].size  # at most: a part of them does not grow
        small, large = known
        per_image = max(0.0, (large.bytes - small.bytes) / (large.size - small.size))
        return large.bytes + per_image * (size - large.size)

    def compared(self, size: int) -> str:
        """The pace of a size, and those of half and twice as many images or that they do not fit, for people."""
        others = [f"{one.size}: {one.pace:.3g}" for one in self.tried.values() if one.size in (size // 2, 2 * size)]
        if self.too_large is not None:
            others.append(f"{self.too_large} do not fit")
        return f"{self.tried[size].pace:.3g} images/s" + (f" ({', '.join(others)})" if others else "")
