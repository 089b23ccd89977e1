"""The first part of an exported graph: images of any size -> the network's input, by the rules of `resize_image`.

Images are resized by two matrix products, one for each side. The graph makes the matrices from the image's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx_ir import DataType

from onestage.input_size import PADDING, Resize, Stretch
from onestage.runtime.exported_file import BEFORE_RESIZING, RESIZED

Op = Any  # onnxscript's OpBuilder: each attribute is an ONNX operator
Value = Any  # a value of the graph


@dataclass(frozen=True)
class NetworkInput:
    """Images as the network takes them, and the sizes that map its boxes back."""

    images: Value  # (B, 3, h, w), float32 with whole numbers 0..255
    image_hw: Value  # (2,) float32: the size of an image in the input, without padding
    original_hw: Value  # (2,) float32


def to_network_input(op: Op, images_rgb: Value, resize: Resize) -> NetworkInput:
    """Resize uint8 images (B, H, W, 3) of one size, and pad them where `resize` says so."""
    original = op.Slice(op.Shape(images_rgb), [1], [3])  # (H, W)
    image = _image_hw(op, original, resize)
    planes = op.Cast(op.Transpose(images_rgb, perm=[0, 3, 1, 2]), to=DataType.FLOAT)
    use_means = _shrinks_much(op, original, image)
    rows, columns = (_matrix(op, op.Gather(original, side), op.Gather(image, side), use_means) for side in (0, 1))
    exact = op.MatMul(op.MatMul(rows, planes), op.Transpose(columns, perm=[1, 0]))
    rounded = op.Round(exact), op.Floor(op.Add(exact, 0.5))  # as OpenCV rounds means and bilinear values
    resized = op.Where(use_means, *rounded)
    planes.name, resized.name = BEFORE_RESIZING, RESIZED
    if isinstance(resize, Stretch):
        images = op.Reshape(resized, [-1, 3, resize.side, resize.side])  # so that the nodes that follow know the size
    else:
        images = _padded(op, resized, image, resize.multiple)
    to_float = DataType.FLOAT
    return NetworkInput(images, op.Cast(image, to=to_float), op.Cast(original, to=to_float))


def _image_hw(op: Op, original: Value, resize: Resize) -> Value:
    """`Resize.image_hw` as int64 (2,), computed in float64 as Python does."""
    if isinstance(resize, Stretch):
        return op.Identity([resize.side, resize.side])
    sides = op.Cast(original, to=DataType.DOUBLE)
    bounds = op.Concat(op.ReduceMin(sides, keepdims=1), op.ReduceMax(sides, keepdims=1), axis=0)
    # One division for both sides: OpenVINO 2026 turns two divisions, each of one constant, upside down.
    factor = op.ReduceMin(op.Div([float(resize.shortest), float(resize.longest)], bounds), keepdims=1)
    return op.Cast(op.Max(op.Round(op.Mul(sides, factor)), 1.0), to=DataType.INT64)


def _shrinks_much(op: Op, original: Value, image: Value) -> Value:
    """True where bilinear interpolation would skip pixels: a side shrinks to less than half, and none grows."""

    def any_side(sides: Value) -> Value:
        return op.Cast(op.ReduceMax(op.Cast(sides, to=DataType.INT32), keepdims=0), to=DataType.BOOL)

    return op.And(any_side(op.Greater(original, op.Mul(image, 2))), op.Not(any_side(op.Less(original, image))))


def _matrix(op: Op, old: Value, new: Value, use_means: Value) -> Value:
    """The weights (new, old) of the old rows in each new row: means of the covered rows, or bilinear.

    Computed in float64 as OpenCV does: a value of exactly one half must stay one half to be rounded the same way.
    """
    to_double = DataType.DOUBLE
    old_size = op.Cast(old, to=to_double)
    factor = op.Div(old_size, op.Cast(new, to=to_double))
    i = op.Unsqueeze(op.Cast(op.Range(0, new, 1), to=to_double), [1])
    j = op.Unsqueeze(op.Cast(op.Range(0, old, 1), to=to_double), [0])

    position = op.Sub(op.Mul(op.Add(i, 0.5), factor), 0.5)
    position = op.Max(op.Min(position, op.Sub(old_size, 1.0)), 0.0)
    bilinear = op.Relu(op.Sub(1.0, op.Abs(op.Sub(position, j))))
    bilinear = op.Div(op.Round(op.Mul(bilinear, 256.0)), 256.0)  # OpenCV's exact kernel has weights in 256ths

    first, end = op.Mul(i, factor), op.Mul(op.Add(i, 1.0), factor)
    means = op.Div(op.Relu(op.Sub(op.Min(op.Add(j, 1.0), end), op.Max(j, first))), factor)
    return op.Cast(op.Where(use_means, means, bilinear), to=DataType.FLOAT)


def _padded(op: Op, images: Value, image: Value, multiple: int) -> Value:
    """Pad as `stack_images` does: the image in the upper left corner, ImageNet's mean colour around it."""
    whole = op.Mul(op.Div(op.Add(image, multiple - 1), multiple), multiple)
    pads = op.Concat([0, 0, 0, 0, 0, 0], op.Sub(whole, image), axis=0)
    colour = op.Reshape([float(value) for value in PADDING], [1, 3, 1, 1])
    return op.Add(op.Pad(op.Sub(images, colour), pads, 0.0), colour)
