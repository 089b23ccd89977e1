"""Whether the images that train are shrunk first: where most of the time would go into decoding them."""

import math

import numpy as np

from onestage.data.table import Table
from onestage.input_size import Resize, typical_input_hw

# A smaller image is decoded in less than a tenth of the time that training on it takes (docs/ledger.md).
LARGE = 2_000_000  # pixels
ROOM_FOR_CROPS = 2.0  # an image's shorter side over the input's: a crop of half of it has all the input's pixels
LEAST_FACTOR = 1.25  # of the shorter sides before and after


def shrinking_for(table: Table, resize: Resize) -> tuple[int | None, list[str]]:
    """The shorter side that large images are shrunk to, pixels, and why; None where images are small as they are."""
    if not len(table):
        return None, []
    pixels = float(np.median(table.image_sizes_hw.prod(axis=1, dtype=np.int64)))
    side = math.ceil(ROOM_FOR_CROPS * min(typical_input_hw(resize)))
    if pixels < LARGE or float(np.median(table.image_sizes_hw.min(axis=1))) < LEAST_FACTOR * side:
        return None, []
    factor = np.minimum(1.0, side / table.image_sizes_hw.min(axis=1))
    size = 3 * float((table.image_sizes_hw.prod(axis=1, dtype=np.int64) * factor**2).sum())
    shrunk = f"images of {pixels / 1e6:.1f} megapixels are shrunk once, to a shorter side of {side} px"
    return side, [f"{shrunk}, and kept while they train: {size / 1e9:.2g} GB (--cache-tiles is the most)"]
