"""From a table to batches, in an order and with choices that depend on (seed, epoch, index) alone.

Neither the number of workers nor where a run was resumed changes a batch: the order of an epoch is drawn from (seed,
epoch), the augmentation of a sample from (seed, epoch, sample). Samples are read, augmented and stacked by worker
processes, or with `workers=0` by one thread behind the training loop (OpenCV runs outside Python's lock);
`loader_workers.py` is about those.

Several training processes share the batches out (`shard`): each takes its samples of every batch in training, and its
batches of all in evaluation. What a sample or an evaluated batch looks like does not depend on their number.

The images of a batch lie in memory with their channels last, as they were decoded; the batch is a (B, 3, H, W) view.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from onestage.augmentation import Augmentation
from onestage.data.augment import augment, resize_only, sample_geometry
from onestage.data.loader_workers import StartMethod, by_processes, by_thread, readable_worker_errors
from onestage.data.table import Table
from onestage.errors import UserError
from onestage.input_size import PADDING, Resize, SizeHW, Stretch
from onestage.runtime.decode import decode_image
from onestage.structures import Batch, Sample, Targets


def epoch_order(num_images: int, repeat: int, seed: int, epoch: int) -> Int64[np.ndarray, " M"]:
    """The samples of an epoch in order: a permutation of 0..num_images*repeat-1.

    Sample s shows image s % num_images; all images are shown once before one is shown again.
    """
    rng = np.random.default_rng((seed, epoch))
    return np.concatenate([turn * num_images + rng.permutation(num_images) for turn in range(repeat)])


def batches_per_epoch(num_images: int, repeat: int, batch_size: int) -> int:
    """Full batches in an epoch (the rest, which differs from epoch to epoch, is left out), at least one."""
    return max(1, num_images * repeat // batch_size)


def read_sample(table: Table, index: int) -> Sample:
    """One image, decoded, with its objects, in its own pixels."""
    objects = table.objects(index)
    image = decode_image(table.image_path(index))
    return Sample(image, objects.boxes_xyxy, objects.labels, objects.ignored, index)


@dataclass(frozen=True)
class TrainingSet:
    """Augmented samples by (epoch, sample); see `epoch_order` for the samples of an epoch."""

    table: Table
    augmentation: Augmentation | None  # None: only resized
    resize: Resize
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        sample = read_sample(self.table, key[1] % len(self.table))
        if self.augmentation is None:
            return resize_only(sample, self.resize)
        return augment(sample, self.resize, self._rng(key), self.augmentation)

    def image_hw(self, key: tuple[int, int]) -> SizeHW:
        """The size that this sample's image has, by the table: nothing is read."""
        index = key[1] % len(self.table)
        height, width = self.table.image_sizes_hw[index].tolist()
        if self.augmentation is None:
            return self.resize.image_hw((height, width))
        objects = self.table.objects(index)
        geometry = sample_geometry(
            (height, width), objects.boxes_xyxy, objects.ignored, self.resize, self._rng(key), self.augmentation
        )
        return geometry.input_hw

    def _rng(self, key: tuple[int, int]) -> np.random.Generator:
        return np.random.default_rng((self.seed, *key))


@dataclass(frozen=True)
class EvaluationSet:
    """Samples by the row of their image, only resized."""

    table: Table
    resize: Resize

    def __getitem__(self, index: int) -> Sample:
        return resize_only(read_sample(self.table, index), self.resize)


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
    """Batches without end, from batch `start[1]` of epoch `start[0]` on. `close()` ends the readers.

    Args:
        table: the images.
        resize: how images are brought to the network's input.
        augmentation: how images are varied; None only resizes them.
        batch_size: images a batch, of all training processes together; a set smaller than that gives batches of the
            whole set.
        seed: of the order and of the augmentation, not negative.
        workers: processes that read images; 0 is one thread of this process.
        start: (epoch, batch) of the first batch. Earlier images are not read.
        repeat: how often an epoch shows each image.
        pin_memory: put the images where a GPU can fetch them by itself.
        shard: (rank, ranks): of every batch this loader gives the samples rank, rank + ranks, ...; all ranks together
            give the batch of a single process, and each pads its part as that would.
        start_method: how workers are started; None is PyTorch's choice for the platform.
        warn: told in one line of workers that give nothing for `loader_workers.WARN_AFTER_SECONDS`.

    Raises:
        UserError: the table is empty, or a batch has fewer images than there are ranks; later, an image can't be
            read or a worker process died (outside of this loader's code: see `readable_worker_errors`).
    """
    if not len(table):
        raise UserError(f"{table.root}, {table.split}: no images to train on; choose another split")
    ranks = shard[1]
    images = min(batch_size, len(table) * repeat)
    if images < ranks:
        raise UserError(
            f"batches of {images} images can't be shared by {ranks} processes; use a larger --batch-size, more "
            f"images, or at most {images} processes"
        )
    keys = _training_keys(len(table), repeat, batch_size, seed, start)
    reader = _BatchReader(TrainingSet(table, augmentation, resize, seed), shard, pin_memory and not workers)
    return _batches(reader, keys, workers, pin_memory, start_method, warn)


def _training_keys(
    num_images: int, repeat: int, batch_size: int, seed: int, start: tuple[int, int]
) -> Iterator[list[tuple[int, int]]]:
    epoch, first_batch = start
    while True:
        order = epoch_order(num_images, repeat, seed, epoch).tolist()
        for batch in range(first_batch, batches_per_epoch(num_images, repeat, batch_size)):
            yield [(epoch, sample) for sample in order[batch * batch_size : (batch + 1) * batch_size]]
        epoch, first_batch = epoch + 1, 0


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
    """Every image once, in the table's order, only resized. Arguments as for `training_loader`, but for `shard`.

    Whole batches are dealt out: rank r of n gets batches r, r + n, ... of a single process's, which may be none.
    """
    rank, ranks = shard
    rows = range(len(table))
    batches = (list(rows[first : first + batch_size]) for first in range(0, len(table), batch_size))
    reader = _BatchReader(EvaluationSet(table, resize), (0, 1), pin_memory and not workers)
    return _batches(reader, islice(batches, rank, None, ranks), workers, pin_memory, start_method, warn)


@dataclass(frozen=True)
class PackedBatch:
    """A batch on its way between processes: one array a field, since each tensor sent costs a file descriptor."""

    images: UInt8[Tensor, "B 3 H W"]
    boxes_xyxy: Float32[np.ndarray, "N 4"]
    labels: Int64[np.ndarray, " N"]
    ignored: Bool[np.ndarray, " N"]
    num_objects: Int64[np.ndarray, " B"]
    image_indices: Int64[np.ndarray, " B"]

    def pin_memory(self) -> PackedBatch:
        """Called by `DataLoader(pin_memory=True)`. Only the images: the rest is a few kilobytes."""
        return replace(self, images=self.images.pin_memory())

    def unpack(self) -> Batch:
        """The batch as the training loop takes it."""
        counts = self.num_objects.tolist()
        fields = (torch.from_numpy(a).split(counts) for a in (self.boxes_xyxy, self.labels, self.ignored))
        targets = [Targets(*objects) for objects in zip(*fields, strict=True)]
        return Batch(self.images, targets, torch.from_numpy(self.image_indices))


def pack(samples: Sequence[Sample], resize: Resize, beside_hw: Sequence[SizeHW] = ()) -> PackedBatch:
    """Put samples side by side; smaller ones lie in the upper left corner of their place, on padding.

    `beside_hw`: the sizes of the batch's images that another process has.
    """
    images = torch.from_numpy(stack_images([sample.image for sample in samples], resize, beside_hw))
    return PackedBatch(
        images=images.permute(0, 3, 1, 2),  # (B, H, W, 3) -> (B, 3, H, W), a view
        boxes_xyxy=np.concatenate([sample.boxes_xyxy for sample in samples]),
        labels=np.concatenate([sample.labels for sample in samples]),
        ignored=np.concatenate([sample.ignored for sample in samples]),
        num_objects=np.array([len(sample.labels) for sample in samples], dtype=np.int64),
        image_indices=np.array([sample.image_index for sample in samples], dtype=np.int64),
    )


def stack_images(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], resize: Resize, beside_hw: Sequence[SizeHW] = ()
) -> UInt8[np.ndarray, "B H W 3"]:
    """Resized images as one array of the size that their detector takes (for `beside_hw`, see `pack`)."""
    sizes_hw = [(image.shape[0], image.shape[1]) for image in images]
    input_hw = resize.input_hw([*sizes_hw, *beside_hw])
    if all(size_hw == input_hw for size_hw in sizes_hw):
        return np.stack(images)
    stacked = np.empty((len(images), *input_hw, 3), dtype=np.uint8)
    stacked[:] = PADDING
    for place, image, (height, width) in zip(stacked, images, sizes_hw, strict=True):
        place[:height, :width] = image
    return stacked


@dataclass(frozen=True)
class _BatchReader:
    """Batches by the keys of their samples. An image that can't be read comes back as its error, to be raised where
    the batch is used: an error raised in a worker process would arrive as a page of traceback."""

    samples: TrainingSet | EvaluationSet
    shard: tuple[int, int]  # of each batch; see `training_loader`
    pin_memory: bool  # already here; a worker process has no GPU, there the DataLoader does it

    def __getitem__(self, keys: Sequence[Any]) -> PackedBatch | UserError:
        rank, ranks = self.shard
        try:
            samples = [self.samples[key] for key in keys[rank::ranks]]
            batch = pack(samples, self.samples.resize, self._beside_hw(keys))
        except UserError as error:
            return error
        return batch.pin_memory() if self.pin_memory else batch

    def _beside_hw(self, keys: Sequence[Any]) -> list[SizeHW]:
        """The sizes of the images that other ranks have of this batch."""
        if not isinstance(self.samples, TrainingSet) or isinstance(self.samples.resize, Stretch):
            return []
        rank, ranks = self.shard
        return [self.samples.image_hw(key) for place, key in enumerate(keys) if place % ranks != rank]


def _batches(
    reader: _BatchReader,
    keys: Iterable[Sequence[Any]],
    workers: int,
    pin_memory: bool,
    start_method: StartMethod | None,
    warn: Callable[[str], None] | None,
) -> Generator[Batch, None, None]:
    if workers:
        packed = by_processes(reader, keys, workers, pin_memory=pin_memory, start_method=start_method, warn=warn)
    else:
        packed = by_thread(reader, keys, warn=warn)
    with readable_worker_errors(), closing(packed):
        for item in packed:
            if isinstance(item, UserError):
                raise item
            yield item.unpack()
