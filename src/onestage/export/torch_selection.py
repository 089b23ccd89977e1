"""The last part of an exported program: every anchor's box and scores to the detections of each picture.

The rules, and most of the code, are those of `postprocess.select`, for a batch at once: the groups of NMS are a picture
and a class. How many candidates there are is a symbol while torch.export traces, so nothing here asks for a value.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from onestage.export.torch_input import int_of
from onestage.postprocess import (
    Selection,
    best_of_each_class,
    best_open,
    decay_by,
    in_table,
    rank_within_group,
)


def select_in_batch(
    boxes_xyxy: Float[Tensor, "B A 4"],
    scores: Float[Tensor, "B A K"],
    score_threshold: Float[Tensor, " 1"],
    input_hw: tuple[int, int],
    selection: Selection,
    limit: int,
) -> tuple[Float[Tensor, "B M 4"], Float[Tensor, "B M"], Int64[Tensor, "B M"], Int64[Tensor, " B"]]:
    """The detections of each picture, best first, cut at a limit M and filled with zeros.

    Args:
        boxes_xyxy: in pixels of the input and clipped to it.
        selection: without its score threshold, which comes apart.

    Returns:
        Boxes, scores, labels, and how many there are.
    """
    batch, _, classes = scores.shape
    pictures, anchors, labels, best = best_of_each_class(
        scores > score_threshold, scores, selection.candidates_per_class
    )
    boxes_xyxy = boxes_xyxy[pictures, anchors]
    groups = pictures if selection.class_agnostic else pictures * classes + labels
    if selection.nms == "hard":
        kept = _nms(boxes_xyxy, best, groups, input_hw, selection.iou_threshold)
    else:
        group_count = batch if selection.class_agnostic else batch * classes
        best = _soft_nms(boxes_xyxy, best, groups, group_count, score_threshold, selection)
        kept = best > score_threshold
        boxes_xyxy, pictures, labels, best = boxes_xyxy[kept], pictures[kept], labels[kept], best[kept]
        kept = best.argsort(descending=True, stable=True)
    return _by_picture(boxes_xyxy[kept], best[kept], labels[kept], pictures[kept], batch, limit)


def _nms(
    boxes_xyxy: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    groups: Int64[Tensor, " N"],
    input_hw: tuple[int, int],
    iou_threshold: float,
) -> Int64[Tensor, " M"]:
    """The kept rows in their own order, which is that of falling scores.

    As `postprocess.nms_by_group`: each group has a place of its own, in float64. torchvision promises torch that two
    boxes or more are kept, and the program would hold it to that, so two that meet no other go in, as the last ones.
    """
    apart = boxes_xyxy.double() + (groups * (sum(input_hw) + 1))[:, None]
    two = torch.arange(-8.0, 0.0, dtype=torch.float64, device=apart.device).reshape(2, 4)
    scores = torch.cat([scores.double(), scores.new_full((2,), -1.0).double()])
    return torch.ops.torchvision.nms(torch.cat([apart, two]), scores, iou_threshold).sort().values[:-2]


def _soft_nms(
    boxes_xyxy: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    groups: Int64[Tensor, " N"],
    group_count: int,
    score_threshold: Float[Tensor, " 1"],
    selection: Selection,
) -> Float[Tensor, " N"]:
    """`postprocess.soft_nms`; its loop is one of the program's."""
    decay = "linear" if selection.nms == "soft-linear" else "gaussian"
    column = rank_within_group(groups)
    width = int_of(torch.cat([column, column.new_zeros(1)]).max()) + 1
    torch._check(width >= 1)
    table = in_table(scores, groups, column, group_count, width)
    is_open = in_table(torch.ones_like(scores, dtype=torch.bool), groups, column, group_count, width)
    boxes_xyxy = in_table(boxes_xyxy, groups, column, group_count, width)

    # The tables travel through the loop as one row: of two sides that are symbols, torch can't tell that they stay.
    def goes_on(table: Tensor, is_open: Tensor) -> Tensor:
        return (is_open & (table >= score_threshold)).any()

    def step(table: Tensor, is_open: Tensor) -> tuple[Tensor, Tensor]:
        table, is_open = (flat.view(boxes_xyxy.shape[:2]) for flat in (table, is_open))
        _, best = best_open(table, is_open)
        table, is_open = decay_by(best, table, is_open, boxes_xyxy, decay, selection.iou_threshold, selection.sigma)
        return table.reshape(-1), is_open.reshape(-1)

    decayed, _ = torch.while_loop(goes_on, step, (table.reshape(-1), is_open.reshape(-1)))
    return decayed.view(group_count, width)[groups, column]


def _by_picture(
    boxes_xyxy: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    labels: Int64[Tensor, " N"],
    pictures: Int64[Tensor, " N"],
    batch: int,
    limit: int,
) -> tuple[Float[Tensor, "B M 4"], Float[Tensor, "B M"], Int64[Tensor, "B M"], Int64[Tensor, " B"]]:
    """Detections of all pictures, best first, as a row a picture."""
    rank = rank_within_group(pictures)
    within = rank < limit
    place = torch.where(within, pictures * limit + rank, batch * limit)  # what is too much goes behind the last row

    def rows(values: Tensor) -> Tensor:
        table = values.new_zeros((batch * limit + 1, *values.shape[1:])).index_put((place,), values)
        return table[:-1].reshape(batch, limit, *values.shape[1:])

    counts = pictures.new_zeros(batch).index_add(0, pictures, within.long())
    return rows(boxes_xyxy), rows(scores), rows(labels), counts
