"""`batches.png`: the first training images of a run as the network sees them, so that a person sees what is wrong."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.drawing import draw_objects
from onestage.structures import Batch, Targets
from onestage.whole_file import write_whole

ROWS = COLUMNS = 4
CELL = 400  # pixels of each image's longer side in the file
GAP = 4


class ShownBatches:
    """Collects images until there are enough; the file is written anew with each batch, so it is never missing."""

    def __init__(self, path: Path | None, names: Sequence[str]) -> None:
        """`path` None, or of a file that is there already: nothing is written."""
        self._path, self._names = path if path is not None and not path.exists() else None, names
        self._cells: list[UInt8[np.ndarray, "S S 3"]] = []

    def add(self, batch: Batch) -> None:
        """Take in the images of a batch that is in main memory."""
        missing = ROWS * COLUMNS - len(self._cells)
        if self._path is None or missing == 0:
            return
        images = batch.images[:missing].permute(0, 2, 3, 1).numpy()
        self._cells += [_cell(image, of_it, self._names) for image, of_it in zip(images, batch.targets, strict=False)]
        rows = [self._row(first) for first in range(0, len(self._cells), COLUMNS)]
        _, png = cv2.imencode(".png", np.concatenate(rows)[..., ::-1])
        write_whole(self._path, png.tobytes())

    def _row(self, first: int) -> UInt8[np.ndarray, "S W 3"]:
        cells = self._cells[first : first + COLUMNS]
        blank = np.full_like(cells[0], 255)
        return np.concatenate([*cells, *[blank] * (COLUMNS - len(cells))], axis=1)


def _cell(image: UInt8[np.ndarray, "H W 3"], objects: Targets, names: Sequence[str]) -> UInt8[np.ndarray, "S S 3"]:
    """The image with its objects in the upper left corner of a white square."""
    height, width = image.shape[:2]
    scale = CELL / max(height, width)
    size_wh = max(1, round(scale * width)), max(1, round(scale * height))
    image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    boxes_xyxy = scale * objects.boxes_xyxy.numpy()
    cell = np.full((CELL + GAP, CELL + GAP, 3), 255, dtype=np.uint8)
    drawn = draw_objects(image, boxes_xyxy, objects.labels.numpy(), objects.ignored.numpy(), names)
    cell[: size_wh[1], : size_wh[0]] = drawn
    return cell
