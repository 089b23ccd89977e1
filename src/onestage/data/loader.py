"""From a table to batches, in an order and with choices that depend on (seed, epoch, index) alone.

Neither the number of workers nor where a run was resumed changes a batch: the order of an epoch is drawn from (seed,
epoch), the augmentation of a sample from (seed, epoch, sample). Samples are read, augmented and stacked by worker
processes, or with `workers=0` by one thread behind the training loop (OpenCV runs outside Python's lock).

The pictures of a batch lie in memory with their channels last, as they were decoded; the batch is a (B, 3, H, W) view.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from onestage.data.augment import Augmentation, augment, resize_only
from onestage.data.table import Table
from onestage.errors import UserError
from onestage.input_size import PADDING, Resize
from onestage.runtime.decode import decode_image
from onestage.structures import Batch, Sample, Targets

BATCHES_AHEAD = 3  # that wait for the training loop, per worker


def epoch_order(num_images: int, repeat: int, seed: int, epoch: int) -> Int64[np.ndarray, " M"]:
    """The samples of an epoch in order: a permutation of 0..num_images*repeat-1.

    Sample s shows picture s % num_images; all pictures are shown once before one is shown again.
    """
    rng = np.random.default_rng((seed, epoch))
    return np.concatenate([turn * num_images + rng.permutation(num_images) for turn in range(repeat)])


def batches_per_epoch(num_images: int, repeat: int, batch_size: int) -> int:
    """Full batches in an epoch (the rest, which differs from epoch to epoch, is left out), at least one."""
    return max(1, num_images * repeat // batch_size)


def read_sample(table: Table, index: int) -> Sample:
    """One picture, decoded, with its objects, in its own pixels."""
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
        epoch, sample_index = key
        sample = read_sample(self.table, sample_index % len(self.table))
        if self.augmentation is None:
            return resize_only(sample, self.resize)
        rng = np.random.default_rng((self.seed, epoch, sample_index))
        return augment(sample, self.resize, rng, self.augmentation)


@dataclass(frozen=True)
class EvaluationSet:
    """Samples by the row of their picture, only resized."""

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
) -> Generator[Batch, None, None]:
    """Batches without end, from batch `start[1]` of epoch `start[0]` on. `close()` ends the readers.

    Args:
        table: the pictures.
        resize: how pictures are brought to the network's input.
        augmentation: how pictures are varied; None only resizes them.
        batch_size: pictures a batch; a set smaller than that gives batches of the whole set.
        seed: of the order and of the augmentation, not negative.
        workers: processes that read pictures; 0 is one thread of this process.
        start: (epoch, batch) of the first batch. Earlier pictures are not read.
        repeat: how often an epoch shows each picture.
        pin_memory: put the pictures where a GPU can fetch them by itself.

    Raises:
        UserError: the table is empty; later, a picture can't be read.
    """
    if not len(table):
        raise UserError(f"{table.root}, {table.split}: no pictures to train on; choose another split")
    keys = _training_keys(len(table), repeat, batch_size, seed, start)
    return _batches(TrainingSet(table, augmentation, resize, seed), keys, workers, pin_memory)


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
    table: Table, *, resize: Resize, batch_size: int, workers: int = 0, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """Every picture once, in the table's order, only resized. Arguments as for `training_loader`."""
    rows = range(len(table))
    keys = (list(rows[first : first + batch_size]) for first in range(0, len(table), batch_size))
    return _batches(EvaluationSet(table, resize), keys, workers, pin_memory)


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
        """Called by `DataLoader(pin_memory=True)`. Only the pictures: the rest is a few kilobytes."""
        return replace(self, images=self.images.pin_memory())

    def unpack(self) -> Batch:
        """The batch as the training loop takes it."""
        counts = self.num_objects.tolist()
        fields = (torch.from_numpy(a).split(counts) for a in (self.boxes_xyxy, self.labels, self.ignored))
        targets = [Targets(*objects) for objects in zip(*fields, strict=True)]
        return Batch(self.images, targets, torch.from_numpy(self.image_indices))


def pack(samples: Sequence[Sample], resize: Resize) -> PackedBatch:
    """Put samples side by side; smaller ones lie in the upper left corner of their place, on padding."""
    images = torch.from_numpy(stack_images([sample.image for sample in samples], resize))
    return PackedBatch(
        images=images.permute(0, 3, 1, 2),  # (B, H, W, 3) -> (B, 3, H, W), a view
        boxes_xyxy=np.concatenate([sample.boxes_xyxy for sample in samples]),
        labels=np.concatenate([sample.labels for sample in samples]),
        ignored=np.concatenate([sample.ignored for sample in samples]),
        num_objects=np.array([len(sample.labels) for sample in samples], dtype=np.int64),
        image_indices=np.array([sample.image_index for sample in samples], dtype=np.int64),
    )


def stack_images(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], resize: Resize) -> UInt8[np.ndarray, "B H W 3"]:
    """Resized pictures as one array of the size that their detector takes."""
    sizes_hw = [(image.shape[0], image.shape[1]) for image in images]
    input_hw = resize.input_hw(sizes_hw)
    if all(size_hw == input_hw for size_hw in sizes_hw):
        return np.stack(images)
    stacked = np.empty((len(images), *input_hw, 3), dtype=np.uint8)
    stacked[:] = PADDING
    for place, image, (height, width) in zip(stacked, images, sizes_hw, strict=True):
        place[:height, :width] = image
    return stacked


@dataclass(frozen=True)
class _BatchReader:
    """Batches by the keys of their samples. A picture that can't be read comes back as its error, to be raised where
    the batch is used: an error raised in a worker process would arrive as a page of traceback."""

    samples: TrainingSet | EvaluationSet

    def __getitem__(self, keys: Sequence[Any]) -> PackedBatch | UserError:
        try:
            return pack([self.samples[key] for key in keys], self.samples.resize)
        except UserError as error:
            return error


PackedBatches: TypeAlias = Generator[PackedBatch | UserError, None, None]


def _batches(
    samples: TrainingSet | EvaluationSet, keys: Iterable[Sequence[Any]], workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    reader = _BatchReader(samples)
    packed = _by_processes(reader, keys, workers, pin_memory) if workers else _by_thread(reader, keys, pin_memory)
    with closing(packed):
        for item in packed:
            if isinstance(item, UserError):
                raise item
            yield item.unpack()


def _by_processes(reader: _BatchReader, keys: Iterable[Sequence[Any]], workers: int, pin_memory: bool) -> PackedBatches:
    yield from DataLoader(
        cast(Dataset, reader),
        batch_size=None,  # the reader's items are batches
        sampler=keys,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        prefetch_factor=BATCHES_AHEAD,
        pin_memory=pin_memory,
    )


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _by_thread(reader: _BatchReader, keys: Iterable[Sequence[Any]], pin_memory: bool) -> PackedBatches:
    """Read ahead in one thread. It ends with the generator."""
    ready: queue.Queue[PackedBatch | BaseException | None] = queue.Queue()
    free = threading.Semaphore(BATCHES_AHEAD)
    stopped = threading.Event()

    def read_ahead() -> None:
        try:
            for batch_keys in keys:
                free.acquire()
                if stopped.is_set():
                    return
                item = reader[batch_keys]
                ready.put(item.pin_memory() if pin_memory and isinstance(item, PackedBatch) else item)
            ready.put(None)
        except BaseException as error:  # raised again where the batches are used
            ready.put(error)

    thread = threading.Thread(target=read_ahead, name="onestage-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            free.release()
            if isinstance(item, BaseException) and not isinstance(item, UserError):
                raise item
            yield item
    finally:
        stopped.set()
        free.release()
        thread.join()
