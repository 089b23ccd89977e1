"""Images that look alike: copies of one image, and neighbouring frames of one video.

A fingerprint is a difference hash (Krawetz 2013): the image in 16 rows of 17 gray levels, and for each two neighbours
whether it gets brighter, 256 bits. Copies differ in a few bits when they were compressed again or scaled; other images
differ in about half of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from onestage.data.seen_images import SeenImages
from onestage.data.table import Table
from onestage.runtime.decode import ImageError

SIDE = 16  # rows, and bits a row
COPY_BITS = 10  # copies differ in at most so many bits; images that share none of 16 bands differ in more
FRAME_BITS = 64  # neighbouring frames of a video too
MAX_COMPARED = 64  # images that share a band are compared with so many neighbours


def fingerprints(table: Table) -> UInt8[np.ndarray, "I 32"]:
    """The fingerprint of every image; one that can't be read has zeros, and is like no other."""
    rows = {name: index for index, name in enumerate(table.image_names())}
    seen = SeenImages(table.root, "fingerprints")
    found = seen.ask_all(list(rows), lambda name: _fingerprint(table, rows[name]), "looking for copies")
    return np.frombuffer(bytes.fromhex("".join(found)), dtype=np.uint8).reshape(-1, SIDE * SIDE // 8)


def _fingerprint(table: Table, index: int) -> str:
    try:
        image = table.pixels(index, min_side=2 * SIDE)
    except ImageError:
        return "00" * (SIDE * SIDE // 8)
    gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes().hex()


def copies(prints: UInt8[np.ndarray, "I 32"]) -> list[tuple[int, int]]:
    """Pairs of images that are copies of one another, each (earlier, later); not all pairs of many copies."""
    found: set[tuple[int, int]] = set()
    informative = np.bitwise_count(prints).sum(axis=1) > COPY_BITS  # a blank image is like every other
    for band in prints.view(np.uint16).T:
        order = np.argsort(band, kind="stable")
        order = order[informative[order]]
        for step in range(1, MAX_COMPARED):
            first, second = order[:-step], order[step:]
            alike = band[first] == band[second]
            if not alike.any():
                break
            first, second = first[alike], second[alike]
            near = _bits_apart(prints[first], prints[second]) <= COPY_BITS
            found |= set(zip(first[near].tolist(), second[near].tolist(), strict=True))
    return sorted(found)


def groups_of_similar(table: Table) -> Int64[np.ndarray, " I"]:
    """The number of the group of each image: copies, and frames of a video, are in one group.

    Groups of more than a third of the images say nothing of a data set, so each of their images is its own.
    """
    prints = fingerprints(table)
    group = list(range(len(table)))

    def top(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    for first, second in [*copies(prints), *_frames(table, prints)]:
        a, b = sorted((top(first), top(second)))
        group[b] = a
    tops = np.array([top(index) for index in range(len(table))], dtype=np.int64)
    sizes = np.bincount(tops, minlength=len(table))
    return np.where(sizes[tops] > max(2, len(table) // 3), np.arange(len(table)), tops)


def _frames(table: Table, prints: UInt8[np.ndarray, "I 32"]) -> Iterator[tuple[int, int]]:
    """Neighbours among images whose names differ in their last number only, if they look alike."""
    of_video: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index in range(len(table)):
        name = table.image_name(index)
        if numbered := re.match(r"(.*?)([0-9]{1,12})([^0-9]*)$", name):
            of_video[f"{numbered[1]}*{numbered[3]}"].append((int(numbered[2]), index))
    for frames in of_video.values():
        indices = [index for _, index in sorted(frames)]
        apart = _bits_apart(prints[indices[:-1]], prints[indices[1:]])
        yield from ((indices[at], indices[at + 1]) for at in np.flatnonzero(apart <= FRAME_BITS).tolist())


def _bits_apart(one: UInt8[np.ndarray, "N 32"], other: UInt8[np.ndarray, "N 32"]) -> Int64[np.ndarray, " N"]:
    return np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)
