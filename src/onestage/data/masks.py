"""Folders of masks, thumbnails and drawings, whose images are called as those that they are of."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

CALLED_SO = re.compile(
    r"masks?|segmentation(class|object)\w*|thumb(nail)?s?|overlays?|predict(ion)?s?\d*", re.IGNORECASE
)


def folders_of_masks(images: Iterable[str]) -> frozenset[str]:
    """The folders that are called so and hold an image with the name of one outside: `mask` may be a class of faces."""
    stems: dict[str, set[str]] = defaultdict(set)
    for image in images:
        folder, _, name = image.rpartition("/")
        stems[outermost(folder)].add(os.path.splitext(name)[0].lower())
    return frozenset(folder for folder in stems if folder and stems[folder] & stems[""])


@lru_cache(maxsize=1 << 12)
def outermost(folder: str) -> str:
    """The outermost of a path's folders that is called so; "" if none is."""
    parts = folder.split("/")
    return next(("/".join(parts[: at + 1]) for at, part in enumerate(parts) if CALLED_SO.fullmatch(part)), "")
