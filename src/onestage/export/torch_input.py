"""The first part of an exported program: pictures of any size to the network's input, by the rules of `resize_image`.

The same two matrix products as in `input_graph`, in torch's operators. Sizes are symbols while torch.export traces, so
nothing here asks for a value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from torch import Tensor

from onestage.input_size import PADDING, KeepRatio, Resize, Stretch


@dataclass(frozen=True)
class Prepared:
    """Pictures brought to the network's input."""

    images: Float32[Tensor, "B 3 h w"]  # whole numbers 0..255
    picture_hw: Float64[Tensor, " 2"]  # the part of the input that the picture takes
    original_hw: Float64[Tensor, " 2"]


def prepare(images_rgb: UInt8[Tensor, "B H W 3"], resize: Resize) -> Prepared:
    """Bring pictures of one size to the input."""
    original_hw = torch.stack([_number(side, images_rgb) for side in images_rgb.shape[1:3]])
    picture_hw = _picture_hw(original_hw, resize)
    input_hw = _input_hw(picture_hw, resize)
    by_means = (original_hw > 2 * picture_hw).any() & ~(original_hw < picture_hw).any()  # bilinear would skip pixels
    rows, columns = (
        _matrix(images_rgb.shape[1 + side], original_hw[side], input_hw[side], picture_hw[side], by_means)
        for side in (0, 1)
    )
    planes = images_rgb.permute(0, 3, 1, 2).float().contiguous()
    resized = torch.matmul(torch.matmul(rows, planes), columns.t())
    resized = torch.where(by_means, resized.round(), (resized + 0.5).floor())  # as OpenCV rounds either
    if isinstance(resize, KeepRatio):
        colour = torch.stack([_number(value, images_rgb) for value in PADDING]).float()
        inside = _before(input_hw[0], picture_hw[0])[:, None] & _before(input_hw[1], picture_hw[1])
        resized = torch.where(inside, resized, colour[:, None, None])
    return Prepared(resized, picture_hw, original_hw)


def _number(value: int, beside: Tensor) -> Float64[Tensor, ""]:
    return torch.scalar_tensor(value, dtype=torch.float64, device=beside.device)


def _picture_hw(original_hw: Float64[Tensor, " 2"], resize: Resize) -> Float64[Tensor, " 2"]:
    """`Resize.picture_hw`, in float64 as Python has it."""
    if isinstance(resize, Stretch):
        return torch.full_like(original_hw, resize.side)
    factor = torch.minimum(resize.shortest / original_hw.min(), resize.longest / original_hw.max())
    return (original_hw * factor).round().clamp(min=1)


def _input_hw(picture_hw: Float64[Tensor, " 2"], resize: Resize) -> tuple[int, int]:
    """`Resize.input_hw`. Of a size that is known only when pictures come, torch traces a symbol: the multiple, so that
    the sizes of the maps are whole multiples of it too."""
    if isinstance(resize, Stretch):
        return resize.side, resize.side
    multiples = torch.ceil(picture_hw / resize.multiple).to(torch.int64)
    rows, columns = int_of(multiples[0]), int_of(multiples[1])
    most = -(-resize.longest // resize.multiple)
    for count in (rows, columns):
        torch._check(count >= 1)
        torch._check(count <= most)
    return rows * resize.multiple, columns * resize.multiple


def int_of(number: Int64[Tensor, ""]) -> int:
    """A number, or its symbol while torch.export traces."""
    return number.item()  # pyright: ignore[reportReturnType]


def _matrix(
    old: int,
    old_size: Float64[Tensor, ""],
    count: int,
    new_size: Float64[Tensor, ""],
    by_means: Bool[Tensor, ""],
) -> Float32[Tensor, "count old"]:
    """What each old row gives to each new one, by means of those covered or bilinear; rows behind the last are zeros.

    In float64, as OpenCV: a pixel of exactly one half must come out as one half to be rounded the same way.
    """
    factor = old_size / new_size
    i = torch.arange(count, dtype=torch.float64, device=factor.device)[:, None]
    j = torch.arange(old, dtype=torch.float64, device=factor.device)

    place = torch.minimum((i + 0.5) * factor - 0.5, old_size - 1).clamp(min=0)
    bilinear = (1 - (place - j).abs()).clamp(min=0)
    bilinear = (bilinear * 256).round() / 256  # OpenCV's exact kernel counts in 256ths

    first, end = i * factor, (i + 1) * factor
    means = (torch.minimum(j + 1, end) - torch.maximum(j, first)).clamp(min=0) / factor
    return torch.where(i < new_size, torch.where(by_means, means, bilinear), 0.0).float()


def _before(count: int, end: Float64[Tensor, ""]) -> Bool[Tensor, " count"]:
    return torch.arange(count, dtype=torch.float64, device=end.device) < end


def in_original(boxes_xyxy: Float[Tensor, "*B 4"], prepared: Prepared) -> Float[Tensor, "*B 4"]:
    """Boxes in pixels of the input as boxes in pixels of the picture, clipped to it (the input may be padded)."""
    scale_hw = (prepared.original_hw / prepared.picture_hw).to(boxes_xyxy.dtype)
    border_hw = prepared.original_hw.to(boxes_xyxy.dtype)
    scale, border = (hw.flip(0).repeat(2) for hw in (scale_hw, border_hw))  # x by the width, y by the height
    return torch.minimum(boxes_xyxy * scale, border).clamp(min=0)
