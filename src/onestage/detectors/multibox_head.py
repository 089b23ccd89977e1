"""The head that SSD and M2Det share (Liu 2016, 2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onestage.detectors.base import by_anchor
from onestage.structures import Predictions


class MultiBoxHead(nn.Module):
    """Two 3x3 convolutions a map: class logits and box deltas of each anchor of each cell (Liu 2016, 2.1).

    Output channels are ordered (anchor, class) and (anchor, coordinate).
    """

    def __init__(
        self,
        channels: Sequence[int],
        anchors_per_cell: Sequence[int],
        num_classes: int,
        background_prior: float | None,
        scale: float | None,
    ) -> None:
        super().__init__()
        self.num_logits = num_classes + 1
        levels = list(zip(channels, anchors_per_cell, strict=True))
        class_convs = [nn.Conv2d(c, a * self.num_logits, 3, padding=1) for c, a in levels]
        box_convs = [nn.Conv2d(c, a * 4, 3, padding=1) for c, a in levels]
        for conv in (*class_convs, *box_convs):
            nn.init.zeros_(conv.get_parameter("bias"))
            if scale is None:
                nn.init.xavier_uniform_(conv.weight)  # Liu 2016, 3
            else:
                nn.init.normal_(conv.weight, std=scale / conv.weight[0].numel() ** 0.5)
        if background_prior is not None:
            # softmax = prior: exp(bias) / (exp(bias) + K) = prior
            bias = math.log(background_prior / (1 - background_prior) * num_classes)
            for conv in class_convs:
                nn.init.constant_(conv.get_parameter("bias")[:: self.num_logits], bias)
        self.class_convs, self.box_convs = nn.ModuleList(class_convs), nn.ModuleList(box_convs)

    def forward(self, maps: Sequence[Tensor]) -> Predictions:
        """Maps (B, channels, H, W), one a level, to the outputs of all anchors in the order of `ssd_anchors`."""
        logits = [by_anchor(conv(x), self.num_logits) for conv, x in zip(self.class_convs, maps, strict=True)]
        deltas = [by_anchor(conv(x), 4) for conv, x in zip(self.box_convs, maps, strict=True)]
        return Predictions(torch.cat(logits, dim=1), torch.cat(deltas, dim=1))
