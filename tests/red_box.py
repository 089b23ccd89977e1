"""A detector that needs no training: what comes before and after a network can be judged by itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onestage.detectors import Detector
from onestage.input_size import Stretch
from onestage.postprocess import Selection
from onestage.structures import Categories, Detections, Losses, Predictions

CATEGORIES = Categories.from_names(["blue", "red"])


class RedBoxDetector(Detector):
    """Finds the one red rectangle of an image exactly: what the predictor adds can then be judged by itself."""

    name = "red-box"
    num_classes = 2
    resize = Stretch(100)
    evaluation_selection = Selection()

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)  # it has none of the parts of a network
        self.batch_sizes: list[int] = []

    def forward(self, images: Tensor) -> Predictions:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 100, 100)
        self.batch_sizes.append(len(images))
        red = (images[:, 0].int() - images[:, 1].int()) > 128  # (B, H, W)
        boxes_xyxy = torch.zeros(len(images), 1, 4)
        for image, mask in enumerate(red):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            if len(rows):
                edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                boxes_xyxy[image, 0] = torch.stack(edges).float()
        return Predictions(torch.zeros(len(images), 1, 3), boxes_xyxy)

    def losses(self, predictions: Predictions, targets: object, input_hw: tuple[int, int]) -> Losses:
        raise AssertionError("a predictor does not train")

    def detect(self, predictions: Predictions, selection: Selection, input_hw: tuple[int, int]) -> list[Detections]:
        found = [boxes[(boxes[:, 2] > 0)] for boxes in predictions.box_deltas]
        return [Detections(b, torch.full((len(b),), 0.9), torch.ones(len(b), dtype=torch.int64)) for b in found]


def red_box(width: int, height: int, box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    """A black image with a red rectangle."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box_xyxy
    image[y0:y1, x0:x1] = (255, 0, 0)
    return image
