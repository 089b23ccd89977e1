"""Pre-processing and post-processing inside an exported graph, before and after the network.

Before: images of any size -> the network's input, by the rules of `resize_image`. Images are resized by two matrix
products, one for each side. The graph makes the matrices from the image's size.

After: every anchor's box and scores -> the detections of each image. It follows `postprocess.select`, for a whole batch
at once. The candidates of the batch are one table with a row for each (image, class), best first. An index into the
flattened table gives image, class and candidate.
"""

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir import DataType

from onestage.input_size import PADDING, Resize, Stretch
from onestage.postprocess import LevelCut
from onestage.runtime.exported_file import BEFORE_RESIZING, RESIZED
from onestage.selection import Selection

Op = Any  # onnxscript's OpBuilder: each attribute is an ONNX operator
Value = Any  # a value of the graph


def to_network_input(op: Op, images_rgb: Value, resize: Resize) -> tuple[Value, Value, Value]:
    """Resize uint8 images (B, H, W, 3) of one size, and pad them where `resize` says so.

    Returns:
        images (B, 3, h, w), float32 with whole numbers 0..255; the height and width of an image in them without
        padding (2,), and before resizing (2,), float32.
    """
    original_hw = op.Slice(op.Shape(images_rgb), [1], [3])
    image_hw = _image_hw(op, original_hw, resize)
    planes = op.Cast(op.Transpose(images_rgb, perm=[0, 3, 1, 2]), to=DataType.FLOAT)
    # Bilinear interpolation would skip pixels where a side shrinks to less than half; no side may grow.
    skips = _any_of(op, op.Greater(original_hw, op.Mul(image_hw, 2)))
    use_means = op.And(skips, op.Not(_any_of(op, op.Less(original_hw, image_hw))))
    rows, columns = (_weights(op, op.Gather(original_hw, i), op.Gather(image_hw, i), use_means) for i in (0, 1))
    exact = op.MatMul(op.MatMul(rows, planes), op.Transpose(columns, perm=[1, 0]))
    # as OpenCV rounds means and bilinear values
    resized = op.Where(use_means, op.Round(exact), op.Floor(op.Add(exact, 0.5)))
    planes.name, resized.name = BEFORE_RESIZING, RESIZED
    if isinstance(resize, Stretch):
        images = op.Reshape(resized, [-1, 3, resize.side, resize.side])  # so that the nodes that follow know the size
    else:
        images = _padded(op, resized, image_hw, resize.multiple)
    return images, op.Cast(image_hw, to=DataType.FLOAT), op.Cast(original_hw, to=DataType.FLOAT)


def _image_hw(op: Op, original_hw: Value, resize: Resize) -> Value:
    """`Resize.image_hw` as int64 (2,), computed in float64 as Python does."""
    if isinstance(resize, Stretch):
        return op.Identity([resize.side, resize.side])
    sides = op.Cast(original_hw, to=DataType.DOUBLE)
    bounds = op.Concat(op.ReduceMin(sides, keepdims=1), op.ReduceMax(sides, keepdims=1), axis=0)
    # One division for both sides: OpenVINO 2026 turns two divisions, each of one constant, upside down.
    factor = op.ReduceMin(op.Div([float(resize.shortest), float(resize.longest)], bounds), keepdims=1)
    return op.Cast(op.Max(op.Round(op.Mul(sides, factor)), 1.0), to=DataType.INT64)


def _weights(op: Op, old: Value, new: Value, use_means: Value) -> Value:
    """The weights (new, old) of the old rows in each new row: means of the covered rows, or bilinear.

    Computed in float64 as OpenCV does: a value of exactly one half must stay one half to be rounded the same way.
    """
    double = DataType.DOUBLE
    old_size = op.Cast(old, to=double)
    factor = op.Div(old_size, op.Cast(new, to=double))
    i = op.Unsqueeze(op.Cast(op.Range(0, new, 1), to=double), [1])
    j = op.Unsqueeze(op.Cast(op.Range(0, old, 1), to=double), [0])

    position = op.Sub(op.Mul(op.Add(i, 0.5), factor), 0.5)
    position = op.Max(op.Min(position, op.Sub(old_size, 1.0)), 0.0)
    bilinear = op.Relu(op.Sub(1.0, op.Abs(op.Sub(position, j))))
    bilinear = op.Div(op.Round(op.Mul(bilinear, 256.0)), 256.0)  # OpenCV's exact kernel has weights in 256ths

    first, end = op.Mul(i, factor), op.Mul(op.Add(i, 1.0), factor)
    means = op.Div(op.Relu(op.Sub(op.Min(op.Add(j, 1.0), end), op.Max(j, first))), factor)
    return op.Cast(op.Where(use_means, means, bilinear), to=DataType.FLOAT)


def _padded(op: Op, images: Value, image_hw: Value, multiple: int) -> Value:
    """Pad as `stack_images` does: the image in the upper left corner, ImageNet's mean colour around it."""
    padded_hw = op.Mul(op.Div(op.Add(image_hw, multiple - 1), multiple), multiple)
    pads = op.Concat([0, 0, 0, 0, 0, 0], op.Sub(padded_hw, image_hw), axis=0)
    colour = op.Reshape([float(value) for value in PADDING], [1, 3, 1, 1])
    return op.Add(op.Pad(op.Sub(images, colour), pads, 0.0), colour)


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
        lowest_kept = op.Unsqueeze(op.Slice(best, op.Sub(count, 1), count, [1]), [2])  # (B, 1, 1)
        kept.append(op.Where(op.GreaterOrEqual(level, lowest_kept), level, 0.0))
        start = end
    return op.Concat(*kept, axis=1)


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
    """Non-maximum suppression within each class of each image, or within each image if it is class-agnostic.

    Gives the scores (N,) of the detections of all images, in any order, and their indices in the flattened table (N,).
    """
    scores, boxes_xyxy = candidates.scores, candidates.boxes_xyxy
    row_length = candidates.per_class
    if selection.class_agnostic:  # one row for an image: (B, K * k)
        row_length = op.Mul(row_length, candidates.num_classes)
        scores = op.Reshape(scores, op.Concat([-1], row_length, axis=0))
        boxes_xyxy = op.Reshape(boxes_xyxy, op.Concat([-1], row_length, [4], axis=0))
    if selection.nms == "hard":
        kept = op.NonMaxSuppression(
            boxes_xyxy, op.Unsqueeze(scores, [1]), row_length, [selection.iou_threshold], score_threshold
        )  # (N, 3): row, 0, column
        row, column = op.Gather(kept, 0, axis=1), op.Gather(kept, 2, axis=1)
    else:
        scores = _soft_nms(op, boxes_xyxy, scores, row_length, score_threshold, selection)
        kept = op.NonZero(op.Greater(scores, score_threshold))  # (2, N)
        row, column = op.Gather(kept, 0, axis=0), op.Gather(kept, 1, axis=0)
    indices = op.Add(op.Mul(row, row_length), column)
    return op.Gather(op.Reshape(scores, [-1]), indices), indices


def _soft_nms(
    op: Op, boxes_xyxy: Value, scores: Value, row_length: Value, score_threshold: Value, selection: Selection
) -> Value:
    """`postprocess.soft_nms`: scores (G, n), each decayed by the better boxes of its row. All rows step together."""
    columns = op.Unsqueeze(op.Range(0, op.Squeeze(row_length, [0]), 1), [0])  # (1, n)
    sizes_wh = _sizes_wh(op, boxes_xyxy)  # (G, n, 2)

    def step(op: Op, _turn: Value, _go_on: Value, table: Value, is_open: Value) -> tuple[Value, ...]:
        op.builder.push_module("step")  # names must differ from those of the outer graph
        waiting = op.Where(is_open, table, -1.0)
        best_score, best = op.ReduceMax(waiting, [1], keepdims=1), op.ArgMax(waiting, axis=1, keepdims=1)  # (G, 1)
        is_open = op.And(is_open, op.Not(op.Equal(columns, best)))
        best_xyxy = op.GatherND(boxes_xyxy, op.Unsqueeze(best, [2]), batch_dims=1)  # (G, 1, 4)
        iou = _iou(op, boxes_xyxy, sizes_wh, best_xyxy)
        if selection.nms == "soft-linear":
            decay = op.Where(op.Greater(iou, selection.iou_threshold), op.Sub(1.0, iou), 1.0)
        else:
            decay = op.Exp(op.Div(op.Neg(op.Mul(iou, iou)), selection.sigma))
        table = op.Where(is_open, op.Mul(table, decay), table)
        return _any_of(op, op.GreaterOrEqual(best_score, score_threshold)), table, is_open

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
    decayed, _ = op.Loop(row_length, True, scores, all_open, body=body, _outputs=["decayed_scores", "still_open"])
    return decayed


def _sizes_wh(op: Op, boxes_xyxy: Value) -> Value:
    """Width and height (G, n, 2) of boxes (G, n, 4)."""
    return op.Sub(op.Slice(boxes_xyxy, [2], [4], [2]), op.Slice(boxes_xyxy, [0], [2], [2]))


def _iou(op: Op, boxes_xyxy: Value, sizes_wh: Value, one_xyxy: Value) -> Value:
    """IoU (G, n) of each row's boxes (G, n, 4) with one box (G, 1, 4) of that row; 0 where both have no area."""
    lower_right = op.Min(op.Slice(boxes_xyxy, [2], [4], [2]), op.Slice(one_xyxy, [2], [4], [2]))
    upper_left = op.Max(op.Slice(boxes_xyxy, [0], [2], [2]), op.Slice(one_xyxy, [0], [2], [2]))
    overlap = op.ReduceProd(op.Relu(op.Sub(lower_right, upper_left)), [2], keepdims=0)
    areas = op.Add(op.ReduceProd(sizes_wh, [2], keepdims=0), op.ReduceProd(_sizes_wh(op, one_xyxy), [2], keepdims=0))
    union = op.Sub(areas, overlap)
    return op.Where(op.Greater(union, 0.0), op.Div(overlap, union), 0.0)


def by_image(
    op: Op, candidates: Candidates, scores: Value, indices: Value, num_images: Value, limit: int
) -> tuple[Value, Value, Value, Value]:
    """The detections that `suppress` gives, by image, best first, at most `limit` of each; unused rows are zeros.

    `num_images` (1,) is B.

    Returns:
        boxes (B, limit, 4), scores (B, limit), labels (B, limit) int64, counts (B,) int64.
    """
    scores, order = op.TopK(scores, op.Shape(scores), axis=0, _outputs=["kept_scores", "kept_order"])
    indices = op.Gather(indices, order)
    boxes_xyxy = op.Gather(op.Reshape(candidates.boxes_xyxy, [-1, 4]), indices)
    labels = op.Mod(op.Div(indices, candidates.per_class), candidates.num_classes)
    image_index = op.Div(indices, op.Mul(candidates.per_class, candidates.num_classes))

    of_image = op.Cast(  # (N, B): 1 where the detection is of the image
        op.Equal(op.Unsqueeze(image_index, [1]), op.Unsqueeze(op.Range(0, op.Squeeze(num_images, [0]), 1), [0])),
        to=DataType.INT64,
    )
    before = op.CumSum(of_image, 0, exclusive=1)
    position = op.ReduceSum(op.Mul(before, of_image), [1], keepdims=0)
    kept = op.Less(position, limit)
    slots = op.Compress(op.Concat(op.Unsqueeze(image_index, [1]), op.Unsqueeze(position, [1]), axis=1), kept, axis=0)

    def by_position(values: Value, shape: list[int], zero: int | float) -> Value:
        empty = op.Expand(zero, op.Concat(num_images, shape, axis=0))
        return op.ScatterND(empty, slots, op.Compress(values, kept, axis=0))

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


def _any_of(op: Op, flags: Value) -> Value:
    """True where one of the flags is."""
    return op.Cast(op.ReduceMax(op.Cast(flags, to=DataType.INT32), keepdims=0), to=DataType.BOOL)
