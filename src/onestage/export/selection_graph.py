"""The last part of an exported graph: every anchor's box and scores -> the detections of each image.

It follows `postprocess.select`, for a whole batch at once. The candidates of the batch are one table with a row
for each (image, class), best first. An index into the flattened table gives image, class and candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir import DataType

from onestage.export.input_graph import Op, Value
from onestage.postprocess import LevelCut
from onestage.selection import Selection


@dataclass(frozen=True)
class Candidates:
    """The k best scores of each class of each image, with their boxes."""

    scores: Value  # (B * K, k), descending
    boxes_xyxy: Value  # (B * K, k, 4)
    per_class: Value  # k, (1,): Selection.candidates_per_class, or the number of anchors if that is less
    num_classes: int


def choose_candidates(op: Op, boxes_xyxy: Value, scores: Value, num_classes: int, selection: Selection) -> Candidates:
    """The best of the boxes (B, A, 4) by their scores (B, A, K)."""
    by_class = op.Transpose(scores, perm=[0, 2, 1])  # (B, K, A)
    anchors = op.Slice(op.Shape(by_class), [2], [3])
    per_class = op.Min(anchors, [selection.candidates_per_class])
    best, rows = op.TopK(by_class, per_class, axis=-1, _outputs=["candidate_scores", "candidate_rows"])  # (B, K, k)
    flat_rows = op.Unsqueeze(op.Reshape(rows, [0, -1]), [2])  # (B, K * k, 1)
    boxes = op.GatherND(boxes_xyxy, flat_rows, batch_dims=1)  # (B, K * k, 4)
    return Candidates(
        scores=op.Reshape(best, op.Concat([-1], per_class, axis=0)),
        boxes_xyxy=op.Reshape(boxes, op.Concat([-1], per_class, [4], axis=0)),
        per_class=per_class,
        num_classes=num_classes,
    )


def suppress(op: Op, candidates: Candidates, score_threshold: Value, selection: Selection) -> tuple[Value, Value]:
    """Non-maximum suppression within each class of each image, or within each image.

    Returns:
        scores (N,) of the detections of all images, in any order; their indices (N,) int64 in the flattened table.
    """
    scores, boxes_xyxy = candidates.scores, candidates.boxes_xyxy
    width = candidates.per_class
    if selection.class_agnostic:  # one row for an image: (B, K * k)
        width = op.Mul(width, candidates.num_classes)
        scores = op.Reshape(scores, op.Concat([-1], width, axis=0))
        boxes_xyxy = op.Reshape(boxes_xyxy, op.Concat([-1], width, [4], axis=0))
    if selection.nms == "hard":
        kept = op.NonMaxSuppression(
            boxes_xyxy, op.Unsqueeze(scores, [1]), width, [selection.iou_threshold], score_threshold
        )  # (N, 3): row, 0, column
        row, column = op.Gather(kept, 0, axis=1), op.Gather(kept, 2, axis=1)
    else:
        scores = _soft_nms(op, boxes_xyxy, scores, width, score_threshold, selection)
        kept = op.NonZero(op.Greater(scores, score_threshold))  # (2, N)
        row, column = op.Gather(kept, 0, axis=0), op.Gather(kept, 1, axis=0)
    indices = op.Add(op.Mul(row, width), column)
    return op.Gather(op.Reshape(scores, [-1]), indices), indices


def _soft_nms(
    op: Op, boxes_xyxy: Value, scores: Value, width: Value, score_threshold: Value, selection: Selection
) -> Value:
    """`postprocess.soft_nms`: scores (G, n), each decayed by the better boxes of its row. All rows step together."""
    columns = op.Unsqueeze(op.Range(0, op.Squeeze(width, [0]), 1), [0])  # (1, n)
    size = _sizes(op, boxes_xyxy)  # (G, n, 2)

    def step(op: Op, _turn: Value, _go_on: Value, table: Value, is_open: Value) -> tuple[Value, ...]:
        op.builder.push_module("step")  # names must differ from those of the outer graph
        waiting = op.Where(is_open, table, -1.0)
        best_score, best = op.ReduceMax(waiting, [1], keepdims=1), op.ArgMax(waiting, axis=1, keepdims=1)  # (G, 1)
        is_open = op.And(is_open, op.Not(op.Equal(columns, best)))
        best_xyxy = op.GatherND(boxes_xyxy, op.Unsqueeze(best, [2]), batch_dims=1)  # (G, 1, 4)
        iou = _iou(op, boxes_xyxy, size, best_xyxy)
        if selection.nms == "soft-linear":
            weight = op.Where(op.Greater(iou, selection.iou_threshold), op.Sub(1.0, iou), 1.0)
        else:
            weight = op.Exp(op.Div(op.Neg(op.Mul(iou, iou)), selection.sigma))
        table = op.Where(is_open, op.Mul(table, weight), table)
        go_on = op.Cast(
            op.ReduceMax(op.Cast(op.GreaterOrEqual(best_score, score_threshold), to=DataType.INT32), keepdims=0),
            to=DataType.BOOL,
        )
        return go_on, table, is_open

    body = op.builder.subgraph(
        step,
        inputs=[
            ir.val("turn", dtype=DataType.INT64, shape=[]),
            ir.val("go_on", dtype=DataType.BOOL, shape=[]),
            ir.val("table", dtype=DataType.FLOAT, shape=["rows", "width"]),
            ir.val("is_open", dtype=DataType.BOOL, shape=["rows", "width"]),
        ],
        outputs=[ir.val(name) for name in ("go_on_next", "table_next", "is_open_next")],
        name="soft_nms_step",
    )
    all_open = op.GreaterOrEqual(scores, 0.0)
    decayed, _ = op.Loop(width, True, scores, all_open, body=body, _outputs=["decayed_scores", "still_open"])
    return decayed


def _sizes(op: Op, boxes_xyxy: Value) -> Value:
    """Width and height (G, n, 2) of boxes (G, n, 4)."""
    return op.Sub(op.Slice(boxes_xyxy, [2], [4], [2]), op.Slice(boxes_xyxy, [0], [2], [2]))


def _iou(op: Op, boxes_xyxy: Value, size: Value, one_xyxy: Value) -> Value:
    """IoU (G, n) of each row's boxes (G, n, 4) with one box (G, 1, 4) of that row; 0 where both have no area."""
    lower_right = op.Min(op.Slice(boxes_xyxy, [2], [4], [2]), op.Slice(one_xyxy, [2], [4], [2]))
    upper_left = op.Max(op.Slice(boxes_xyxy, [0], [2], [2]), op.Slice(one_xyxy, [0], [2], [2]))
    overlap = op.ReduceProd(op.Relu(op.Sub(lower_right, upper_left)), [2], keepdims=0)
    areas = op.Add(op.ReduceProd(size, [2], keepdims=0), op.ReduceProd(_sizes(op, one_xyxy), [2], keepdims=0))
    union = op.Sub(areas, overlap)
    return op.Where(op.Greater(union, 0.0), op.Div(overlap, union), 0.0)


def by_image(
    op: Op, candidates: Candidates, scores: Value, indices: Value, images: Value, limit: int
) -> tuple[Value, Value, Value, Value]:
    """The detections that `suppress` gives, by image, best first, at most `limit` of each; unused rows are zeros.

    Args:
        images: the number of images B, (1,).

    Returns:
        boxes (B, limit, 4), scores (B, limit), labels (B, limit) int64, counts (B,) int64.
    """
    scores, order = op.TopK(scores, op.Shape(scores), axis=0, _outputs=["kept_scores", "kept_order"])
    indices = op.Gather(indices, order)
    boxes_xyxy = op.Gather(op.Reshape(candidates.boxes_xyxy, [-1, 4]), indices)
    labels = op.Mod(op.Div(indices, candidates.per_class), candidates.num_classes)
    image = op.Div(indices, op.Mul(candidates.per_class, candidates.num_classes))

    of_image = op.Cast(  # (N, B): 1 where the detection is of the image
        op.Equal(op.Unsqueeze(image, [1]), op.Unsqueeze(op.Range(0, op.Squeeze(images, [0]), 1), [0])),
        to=DataType.INT64,
    )
    before = op.CumSum(of_image, 0, exclusive=1)
    position = op.ReduceSum(op.Mul(before, of_image), [1], keepdims=0)
    within = op.Less(position, limit)
    cell = op.Compress(op.Concat(op.Unsqueeze(image, [1]), op.Unsqueeze(position, [1]), axis=1), within, axis=0)

    def by_position(values: Value, shape: list[int], zero: int | float) -> Value:
        empty = op.Expand(zero, op.Concat(images, shape, axis=0))
        return op.ScatterND(empty, cell, op.Compress(values, within, axis=0))

    counts = op.Min(op.ReduceSum(of_image, [0], keepdims=0), limit)
    return (
        by_position(boxes_xyxy, [limit, 4], 0.0),
        by_position(scores, [limit], 0.0),
        by_position(labels, [limit], 0),
        counts,
    )


def to_original(op: Op, boxes_xyxy: Value, image_hw: Value, original_hw: Value) -> Value:
    """`postprocess.to_original`: boxes in pixels of the input -> in pixels of the image, clipped to it."""
    scale_hw = op.Div(original_hw, image_hw)
    wh = [1, 0, 1, 0]  # x by the width, y by the height
    scaled = op.Mul(boxes_xyxy, op.Gather(scale_hw, wh))
    return op.Max(op.Min(scaled, op.Gather(original_hw, wh)), 0.0)


def best_of_each_level(op: Op, scores: Value, input_hw: Value, levels: LevelCut) -> Value:
    """`postprocess.LevelCut` of scores (B, A, K), for an input of any size `input_hw` (2,)."""
    kept, start = [], op.Identity([0])
    for stride in levels.strides:
        cells_hw = op.Div(op.Add(input_hw, stride - 1), stride)  # int64 (2,)
        end = op.Add(start, op.Mul(op.ReduceProd(cells_hw, keepdims=1), levels.anchors_per_cell))
        level = op.Slice(scores, start, end, [1])
        flat = op.Reshape(level, [0, -1])
        count = op.Min(op.Slice(op.Shape(flat), [1], [2]), [levels.candidates])
        best, _ = op.TopK(flat, count, axis=1, _outputs=[f"level_{stride}_scores", f"level_{stride}_rows"])
        least = op.Unsqueeze(op.Slice(best, op.Sub(count, 1), count, [1]), [2])  # (B, 1, 1)
        kept.append(op.Where(op.GreaterOrEqual(level, least), level, 0.0))
        start = end
    return op.Concat(*kept, axis=1)
