"""The last part of an exported graph: every anchor's box and scores to the detections of each image.

The same rules as `postprocess.select`, for a batch at once. All candidates of a batch lie in one table, (image,
class) by rank; a place in it, counted through, says image, class and candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir import DataType

from onestage.export.input_graph import Op, Value
from onestage.postprocess import LevelCut, Selection


@dataclass(frozen=True)
class Candidates:
    """The best scores of each class of each image (Selection.candidates_per_class, k)."""

    scores: Value  # (B * K, k), falling
    boxes_xyxy: Value  # (B * K, k, 4)
    per_class: Value  # k, (1,)
    num_classes: int


@dataclass(frozen=True)
class Selected:
    """The detections of all images, in any order."""

    scores: Value  # (N,)
    places: Value  # (N,) int64, in the table of candidates


def choose_candidates(op: Op, boxes_xyxy: Value, scores: Value, num_classes: int, selection: Selection) -> Candidates:
    """Nodes from boxes (B, A, 4) and scores (B, A, K)."""
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


def suppress(op: Op, candidates: Candidates, score_threshold: Value, selection: Selection) -> Selected:
    """Non-maximum suppression within each class of each image, or within each image."""
    scores, boxes_xyxy = candidates.scores, candidates.boxes_xyxy
    width = candidates.per_class
    if selection.class_agnostic:  # a row an image: (B, K * k)
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
    places = op.Add(op.Mul(row, width), column)
    return Selected(op.Gather(op.Reshape(scores, [-1]), places), places)


def _soft_nms(
    op: Op, boxes_xyxy: Value, scores: Value, width: Value, score_threshold: Value, selection: Selection
) -> Value:
    """`postprocess.soft_nms`: scores (G, n) decayed by better boxes of their row. All rows take a step at a time."""
    columns = op.Unsqueeze(op.Range(0, op.Squeeze(width, [0]), 1), [0])  # (1, n)
    size = _sizes(op, boxes_xyxy)  # (G, n, 2)

    def step(op: Op, _turn: Value, _go_on: Value, table: Value, is_open: Value) -> tuple[Value, ...]:
        op.builder.push_module("step")  # names of its own: an inner graph sees the outer one's
        waiting = op.Where(is_open, table, -1.0)
        best_score, best = op.ReduceMax(waiting, [1], keepdims=1), op.ArgMax(waiting, axis=1, keepdims=1)  # (G, 1)
        is_open = op.And(is_open, op.Not(op.Equal(columns, best)))
        one = op.GatherND(boxes_xyxy, op.Unsqueeze(best, [2]), batch_dims=1)  # (G, 1, 4)
        iou = _iou(op, boxes_xyxy, size, one)
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
    everything = op.GreaterOrEqual(scores, 0.0)
    decayed, _ = op.Loop(width, True, scores, everything, body=body, _outputs=["decayed_scores", "still_open"])
    return decayed


def _sizes(op: Op, boxes_xyxy: Value) -> Value:
    """Width and height of boxes (G, n, 4): (G, n, 2)."""
    return op.Sub(op.Slice(boxes_xyxy, [2], [4], [2]), op.Slice(boxes_xyxy, [0], [2], [2]))


def _iou(op: Op, boxes_xyxy: Value, size: Value, one: Value) -> Value:
    """IoU of each row's boxes (G, n, 4) with its one box (G, 1, 4); 0 where both have no area: (G, n)."""
    lower_right = op.Min(op.Slice(boxes_xyxy, [2], [4], [2]), op.Slice(one, [2], [4], [2]))
    upper_left = op.Max(op.Slice(boxes_xyxy, [0], [2], [2]), op.Slice(one, [0], [2], [2]))
    overlap = op.ReduceProd(op.Relu(op.Sub(lower_right, upper_left)), [2], keepdims=0)
    areas = op.Add(op.ReduceProd(size, [2], keepdims=0), op.ReduceProd(_sizes(op, one), [2], keepdims=0))
    union = op.Sub(areas, overlap)
    return op.Where(op.Greater(union, 0.0), op.Div(overlap, union), 0.0)


def by_image(
    op: Op, candidates: Candidates, selected: Selected, images: Value, limit: int
) -> tuple[Value, Value, Value, Value]:
    """The selected, best first, a row an image, cut at a limit and filled with zeros.

    Args:
        images: their number B, (1,).

    Returns:
        boxes (B, limit, 4), scores (B, limit), labels (B, limit) int64, counts (B,) int64.
    """
    scores, order = op.TopK(selected.scores, op.Shape(selected.scores), axis=0, _outputs=["kept_scores", "kept_order"])
    places = op.Gather(selected.places, order)
    boxes_xyxy = op.Gather(op.Reshape(candidates.boxes_xyxy, [-1, 4]), places)
    labels = op.Mod(op.Div(places, candidates.per_class), candidates.num_classes)
    image = op.Div(places, op.Mul(candidates.per_class, candidates.num_classes))

    is_of = op.Cast(  # (N, B)
        op.Equal(op.Unsqueeze(image, [1]), op.Unsqueeze(op.Range(0, op.Squeeze(images, [0]), 1), [0])),
        to=DataType.INT64,
    )
    before = op.CumSum(is_of, 0, exclusive=1)
    rank = op.ReduceSum(op.Mul(before, is_of), [1], keepdims=0)
    within = op.Less(rank, limit)
    cell = op.Compress(op.Concat(op.Unsqueeze(image, [1]), op.Unsqueeze(rank, [1]), axis=1), within, axis=0)

    def table(values: Value, shape: list[int], zero: int | float) -> Value:
        empty = op.Expand(zero, op.Concat(images, shape, axis=0))
        return op.ScatterND(empty, cell, op.Compress(values, within, axis=0))

    counts = op.Min(op.ReduceSum(is_of, [0], keepdims=0), limit)
    return (
        table(boxes_xyxy, [limit, 4], 0.0),
        table(scores, [limit], 0.0),
        table(labels, [limit], 0),
        counts,
    )


def in_original(op: Op, boxes_xyxy: Value, image_hw: Value, original_hw: Value) -> Value:
    """Boxes in pixels of the input in those of the original, clipped to it (the input may be padded)."""
    scale_hw = op.Div(original_hw, image_hw)
    wh = [1, 0, 1, 0]  # x by the width, y by the height
    scaled = op.Mul(boxes_xyxy, op.Gather(scale_hw, wh))
    return op.Max(op.Min(scaled, op.Gather(original_hw, wh)), 0.0)


def best_of_each_level(op: Op, scores: Value, input_hw: Value, levels: LevelCut) -> Value:
    """`LevelCut` of scores (B, A, K), for an input (2,) of any size."""
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
