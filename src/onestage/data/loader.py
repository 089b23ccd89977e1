"""Batches from a table, in an order and with choices that depend on (seed, epoch, index) alone.

The order of an epoch is drawn from (seed, epoch), the augmentation of a sample from (seed, epoch, sample); where images
keep their ratio, those of like shape are dealt out to the same batches (`epoch_batches`). So neither the number of
workers nor the point where a run was resumed changes a batch. Worker processes read, augment and stack samples, or with
`workers=0` one thread behind the training loop (OpenCV releases Python's lock); see `loader_workers.py`.

Several ranks share the batches (`shard`): in training each takes its samples of every batch, in evaluation whole
batches in turn. Their number changes neither a sample nor a batch that is evaluated.

The images of a batch lie in memory with their channels last, as they were decoded; the batch is a (B, 3, H, W) view.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from onestage.data.augmentation import Augmentation, augment
from onestage.data.augmentation.canvas import Layer
from onestage.data.loader_workers import (
    StartMethod,
    by_processes,
    by_thread,
    closing_quietly,
    readable_worker_errors,
)
from onestage.data.table import Objects, Table
from onestage.errors import UserError
from onestage.input_size import PADDING, Resize, SizeHW, Stretch, resize_image
from onestage.structures import Batch, Sample, Targets

LIKE_SHAPED_BATCHES = 32  # so many batches of an epoch are dealt out by shape together


def epoch_order(table: Table, repeat: int, seed: int, epoch: int) -> Int64[np.ndarray, " M"]:
    """The samples of an epoch in order: a permutation of 0..len(table)*repeat-1, without spare rows that it leaves out.

    Sample s shows row s % len(table); all rows are shown once before one is shown again.
    """
    rng = np.random.default_rng((seed, epoch))
    rows: int | np.ndarray = len(table)
    parts = []
    for turn in range(repeat):
        if table.spare_shown < table.spare:
            first_spare = len(table) - table.spare
            shown = first_spare + rng.choice(table.spare, table.spare_shown, replace=False)
            rows = np.concatenate([np.arange(first_spare), shown])
        parts.append(turn * len(table) + rng.permutation(rows))
    return np.concatenate(parts)


def batches_per_epoch(table: Table, repeat: int, batch_size: int) -> int:
    """Full batches in an epoch, at least one. The rest, which differs from epoch to epoch, is left out."""
    return max(1, table.rows_per_epoch * repeat // batch_size)


def epoch_batches(
    reader: "BatchReader", order: Sequence[int], epoch: int, batch_size: int, first_batch: int
) -> Iterator[list[int]]:
    """The samples of each full batch of an epoch, from the first one that is asked for."""
    window = LIKE_SHAPED_BATCHES * batch_size
    first_window, first_batch = divmod(first_batch, LIKE_SHAPED_BATCHES)
    end = len(order) // batch_size * batch_size
    for start in range(first_window * window, end, window):
        samples = order[start : min(start + window, end)]
        shapes = [reader.shape((epoch, sample)) for sample in samples]
        yield from like_shaped(samples, batch_size, shapes)[first_batch:]
        first_batch = 0


def like_shaped(samples: Sequence[int], batch_size: int, shapes: Sequence[float]) -> list[list[int]]:
    """Batches of samples whose shapes (height over width) are close, so that little of a batch is padding.

    Batches come in the order of their first samples among all, and so do the samples of a batch: where all images have
    one shape, nothing changes.
    """
    by_shape = np.argsort(np.asarray(shapes), kind="stable").tolist()
    batches = [sorted(by_shape[start : start + batch_size]) for start in range(0, len(by_shape), batch_size)]
    return [[samples[place] for place in batch] for batch in sorted(batches)]


def resize_only(sample: Sample, resize: Resize) -> Sample:
    """The sample resized for the network; every object stays."""
    height, width = sample.image.shape[:2]
    new_height, new_width = resize.image_hw((height, width))
    scale = np.array([new_width / width, new_height / height] * 2, dtype=np.float32)
    image = resize_image(sample.image, (new_height, new_width))
    return replace(sample, image=image, boxes_xyxy=sample.boxes_xyxy * scale)


def training_loader(
    table: Table,
    *,
    resize: Resize,
    augmentation: Augmentation | None,
    batch_size: int,
    seed: int,
    workers: int = 0,
    start: tuple[int, int] = (0, 0),
    repeat: int = 1,
    pin_memory: bool = False,
    shard: tuple[int, int] = (0, 1),
    start_method: StartMethod | None = None,
    warn: Callable[[str], None] | None = None,
) -> Generator[Batch, None, None]:
    """Endless batches; `close()` ends the readers. Without an augmentation, images are only resized.

    Args:
        batch_size: images of a batch, of all ranks together; a smaller data set gives batches of all its images.
        workers: processes that read images; 0 is one thread of this process.
        start: (epoch, batch) of the first batch. Earlier images are not read.
        pin_memory: put the images where a GPU can fetch them by itself.
        shard: (rank, world_size): this loader gives the samples rank, rank + world_size, ... of every batch. All ranks
            together give the batch of a single process, and each pads its images as that would.
        warn: takes a line about readers that have given nothing for `loader_workers.WARN_AFTER_SECONDS`.

    Raises:
        UserError: the table is empty, or a batch has fewer images than there are ranks; later, an image can't be
            read or a worker died (also outside of this loader's code: see `readable_worker_errors`).
    """
    if not len(table):
        raise UserError(f"{table.root}, {table.split}: no images to train on; choose another split")
    images = min(batch_size, table.rows_per_epoch * repeat)
    if images < shard[1]:
        raise UserError(
            f"batches of {images} images can't be shared by {shard[1]} processes; use a larger --batch-size, more "
            f"images, or at most {images} processes"
        )

    reader = BatchReader(table, augmentation, resize, seed, shard, pin_memory and not workers)

    def keys() -> Iterator[list[tuple[int, int]]]:
        epoch, first_batch = start
        while True:
            order = epoch_order(table, repeat, seed, epoch)
            for samples in epoch_batches(reader, order.tolist(), epoch, images, first_batch):
                yield [(epoch, sample) for sample in samples]
            epoch, first_batch = epoch + 1, 0

    return _batches(reader, keys(), workers, pin_memory=pin_memory, start_method=start_method, warn=warn)


def evaluation_loader(
    table: Table,
    *,
    resize: Resize,
    batch_size: int,
    workers: int = 0,
    pin_memory: bool = False,
    shard: tuple[int, int] = (0, 1),
    start_method: StartMethod | None = None,
    warn: Callable[[str], None] | None = None,
) -> Generator[Batch, None, None]:
    """Every image once, only resized, images of like shape together. Arguments as for `training_loader`, but `shard`.

    Ranks take whole batches in turn: rank r of n gets batches r, r + n, ... of a single process's, perhaps none.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: give 1 or more")
    rank, world_size = shard
    reader = BatchReader(table, None, resize, pin_memory=pin_memory and not workers)
    batches = like_shaped(range(len(table)), batch_size, [reader.shape((0, row)) for row in range(len(table))])
    keys = ([(0, row) for row in batch] for batch in batches[rank::world_size])
    return _batches(reader, keys, workers, pin_memory=pin_memory, start_method=start_method, warn=warn)


class PackedBatch(NamedTuple):
    """A batch on its way between processes; one tensor in it, since each that is sent costs a file descriptor."""

    images: UInt8[Tensor, "B 3 H W"]
    objects: list[Objects]  # of each image
    image_indices: list[int]


@dataclass(frozen=True)
class BatchReader(Dataset[PackedBatch | UserError]):
    """Batches by the (epoch, sample) of their samples; see `epoch_order`. Evaluation calls every image a sample.

    The error of an image that can't be read is returned, and raised where the batch is used: raised in a worker, it
    would arrive with a page of traceback.
    """

    table: Table
    augmentation: Augmentation | None  # None: only resized
    resize: Resize
    seed: int = 0
    shard: tuple[int, int] = (0, 1)  # of each batch; see `training_loader`
    pin_memory: bool = False  # here already; a worker has no GPU, so there the DataLoader does it

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> PackedBatch | UserError:
        rank, world_size = self.shard
        others = [key for place, key in enumerate(keys) if place % world_size != rank]
        if isinstance(self.resize, Stretch):  # all images have one size
            others = []
        try:
            samples = [self.sample(key) for key in keys[rank::world_size]]
            others_hw = [self.image_hw(key) for key in others]
        except UserError as error:
            return error
        images = torch.from_numpy(stack_images([sample.image for sample in samples], self.resize, others_hw))
        images = images.permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W), a view
        return PackedBatch(
            images.pin_memory() if self.pin_memory else images,
            [Objects(sample.boxes_xyxy, sample.labels, sample.ignored) for sample in samples],
            [sample.image_index for sample in samples],
        )

    def sample(self, key: tuple[int, int]) -> Sample:
        """One image with its objects, as the network takes them."""
        index = key[1] % len(self.table)
        sample = Sample(self.table.pixels(index), *self.table.objects(index), index)
        if self.augmentation is None:
            return resize_only(sample, self.resize)
        return augment(sample, self.resize, self._rng(key), self.augmentation, self.table)

    def image_hw(self, key: tuple[int, int]) -> SizeHW:
        """The size of a sample's image, from the table alone: nothing is read."""
        layer = Layer.of(self.table, key[1] % len(self.table))
        if self.augmentation is None:
            return self.resize.image_hw(layer.size_hw)
        return self.augmentation.draw(layer, self._rng(key), self.table).input_hw(self.resize)

    def shape(self, key: tuple[int, int]) -> float:
        """Height over width of a sample's image; nothing is read."""
        if isinstance(self.resize, Stretch):
            return 1.0
        height, width = self.image_hw(key)
        return height / width

    def _rng(self, key: tuple[int, int]) -> np.random.Generator:
        return np.random.default_rng((self.seed, *key))


def stack_images(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], resize: Resize, others_hw: Sequence[SizeHW] = ()
) -> UInt8[np.ndarray, "B H W 3"]:
    """Resized images as one array; smaller ones lie in the upper left corner, on padding.

    `others_hw`: the sizes of the batch's images that other ranks have.
    """
    sizes_hw = [(image.shape[0], image.shape[1]) for image in images]
    input_hw = resize.input_hw([*sizes_hw, *others_hw])
    if all(size_hw == input_hw for size_hw in sizes_hw):
        return np.stack(images)
    stacked = np.full((len(images), *input_hw, 3), PADDING, dtype=np.uint8)
    for place, image, (height, width) in zip(stacked, images, sizes_hw, strict=True):
        place[:height, :width] = image
    return stacked


def _batches(
    reader: BatchReader,
    keys: Iterable[Sequence[tuple[int, int]]],
    workers: int,
    *,
    pin_memory: bool,
    start_method: StartMethod | None,
    warn: Callable[[str], None] | None,
) -> Generator[Batch, None, None]:
    if workers:
        packed = by_processes(reader, keys, workers, pin_memory=pin_memory, start_method=start_method, warn=warn)
    else:
        packed = by_thread(reader, keys, warn=warn)
    with readable_worker_errors(), closing_quietly(packed):
        for item in packed:
            if isinstance(item, UserError):
                raise item
            targets = [Targets(*map(torch.from_numpy, objects)) for objects in item.objects]
            yield Batch(item.images, targets, torch.tensor(item.image_indices))
