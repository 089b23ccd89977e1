"""Augmentation: a short list of transforms that vary each training image.

A transform draws its choices as numbers and notes them on a `Canvas`, which touches the pixels once, at the end. A new
one is a frozen dataclass whose fields are settings, and a line in `TRANSFORMS` (from outside of the package:
`TRANSFORMS["rotate"] = Rotate`):

    @dataclass(frozen=True)
    class Rotate:
        degrees: float = setting(10.0, "Largest turn, degrees")

        def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas: ...

It may

- move or flip the view (`Expand`, `Crop`, `Flip`);
- add a function of the warped pixels, `Layer.pixel_changes` (`Colour`; noise, blur);
- lay more images on the canvas, which `other` draws from the data set (mosaic, mixup, copy-paste);
- give the layers any affine `Layer.matrix` (rotation, shear); their boxes become the smallest upright ones around them.

Whatever is random comes from `rng`, which depends on (seed, epoch, sample) alone. The transforms here are those of SSD
(Liu et al., ECCV 2016, 2.2 and 3.6) as in the authors' release; their defaults are the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from onestage.data.augmentation.canvas import Canvas, Image, Layer
from onestage.data.table import Objects, Table
from onestage.errors import UserError
from onestage.input_size import Resize
from onestage.settings import check_ranges, fitted, plain, read, setting
from onestage.structures import Sample

Transform: TypeAlias = Callable[[Canvas, np.random.Generator, Callable[[], Layer]], Canvas]

CROP_TRIALS = 50  # as in the authors' release
MOST_DRAWS = 50  # of an IoU, or of the whole image


@dataclass(frozen=True)
class Expand:
    """Put the image somewhere on a larger canvas: small objects."""

    probability: float = setting(0.5, "Chance of the expansion")
    max: float = setting(4.0, "Largest side of the canvas, in sides of the image")

    def __post_init__(self) -> None:
        check_ranges(self, {"probability": (0, 1), "max": (1, math.inf)})

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        if rng.random() >= self.probability:
            return canvas
        x0, y0, x1, y1 = canvas.view_xyxy
        width, height = x1 - x0, y1 - y0
        size, right_shift, down_shift = rng.random(3).tolist()
        factor = 1.0 + (self.max - 1.0) * size
        left, top = x0 - right_shift * (factor - 1.0) * width, y0 - down_shift * (factor - 1.0) * height
        return replace(canvas, view_xyxy=(left, top, left + factor * width, top + factor * height))


@dataclass(frozen=True)
class Crop:
    """Show a part of the view that holds the centre of an object and overlaps an object enough; else all of it.

    Images without objects take any part. Where no trial meets the IoU that was drawn, ssd.pytorch and lufficc/SSD draw
    again, the whole image included ("all"): images of small objects, with which only an IoU of 0 can be met, stay whole
    half of the time. "crops" goes on with the other IoUs, so that they stay whole once in seven.
    """

    probability: float = setting(6 / 7, "Chance of a crop")  # the paper takes the whole image once in seven
    ious: tuple[float, ...] = setting(
        (0.0, 0.1, 0.3, 0.5, 0.7, 0.9), "IoUs of which one is drawn: an object overlaps the crop by so much at least"
    )
    min_side: float = setting(0.3, "Smallest side of a crop, as a part of the view's")
    max_ratio: float = setting(2.0, "Largest width / height of a crop; the smallest is its inverse")
    redraw: Literal["all", "crops"] = setting("crops", "What is drawn where no trial meets the IoU")

    def __post_init__(self) -> None:
        check_ranges(self, {"probability": (0, 1), "ious": (0, 1), "min_side": (0, 1), "max_ratio": (1, math.inf)})

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        for _ in range(MOST_DRAWS):
            if rng.random() >= self.probability:
                break
            crops_xyxy, best_iou = self._trials(canvas, rng)
            ious = rng.permutation(self.ious)
            for least_iou in ious if self.redraw == "crops" else ious[:1]:
                chosen = np.flatnonzero(best_iou >= least_iou)
                if len(chosen):
                    return replace(canvas, view_xyxy=tuple(crops_xyxy[chosen[0]].tolist()))
            if self.redraw == "crops":
                break
        return canvas

    def _trials(
        self, canvas: Canvas, rng: np.random.Generator
    ) -> tuple[Float64[np.ndarray, "T 4"], Float64[np.ndarray, " T"]]:
        """Crops xyxy and the best IoU of each with an object: 1 where there are none, -1 of those that may not be."""
        x0, y0, x1, y1 = canvas.view_xyxy
        u = rng.random((CROP_TRIALS, 4))
        wh = (self.min_side + (1.0 - self.min_side) * u[:, :2]) * (x1 - x0, y1 - y0)
        start = (x0, y0) + u[:, 2:] * ((x1 - x0, y1 - y0) - wh)
        crops_xyxy = np.concatenate([start, start + wh], axis=1)
        good = np.abs(np.log(wh[:, 0] / wh[:, 1])) <= math.log(self.max_ratio)
        best_iou = np.ones(CROP_TRIALS)
        objects_xyxy = canvas.objects_xyxy()
        if len(objects_xyxy):
            centres = (objects_xyxy[:, :2] + objects_xyxy[:, 2:]) / 2
            # (trial, object): the object's centre lies in the crop
            inside = ((centres > crops_xyxy[:, None, :2]) & (centres < crops_xyxy[:, None, 2:])).all(-1)
            good &= inside.any(-1)
            best_iou = _iou(crops_xyxy, objects_xyxy).max(-1)
        return crops_xyxy, np.where(good, best_iou, -1.0)


def _iou(a_xyxy: Float64[np.ndarray, "M 4"], b_xyxy: Float32[np.ndarray, "N 4"]) -> Float64[np.ndarray, "M N"]:
    wh = np.minimum(a_xyxy[:, None, 2:], b_xyxy[:, 2:]) - np.maximum(a_xyxy[:, None, :2], b_xyxy[:, :2])
    overlap = np.clip(wh, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a_xyxy, b_xyxy)]
    return overlap / np.maximum(areas[0][:, None] + areas[1] - overlap, 1e-9)


@dataclass(frozen=True)
class Flip:
    """Flip the view; with quarter turns too, for images without an up."""

    probability: float = setting(0.5, "Chance of a left-right flip")
    vertical_probability: float = setting(0.0, "Chance of an up-down flip")
    quarter_turn_probability: float = setting(
        0.0, "Chance of swapping rows and columns, which with the flips gives turns by 90 degrees"
    )

    def __post_init__(self) -> None:
        chances = ("probability", "vertical_probability", "quarter_turn_probability")
        check_ranges(self, dict.fromkeys(chances, (0, 1)))

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        chances = (self.quarter_turn_probability, self.probability, self.vertical_probability)
        transpose, mirror, upside_down = (rng.random(3) < chances).tolist()
        return replace(canvas, transpose=transpose, mirror=mirror, upside_down=upside_down)


@dataclass(frozen=True)
class Colour:
    """Change brightness, contrast, saturation and hue of the images, not of the fill around them."""

    probability: float = setting(0.5, "Chance of each of the four changes")
    brightness: float = setting(32.0, "Largest change of brightness, of 255")
    contrast: tuple[float, float] = setting((0.5, 1.5), "Range of the factor of contrast")
    saturation: tuple[float, float] = setting((0.5, 1.5), "Range of the factor of saturation")
    hue: float = setting(18.0, "Largest change of hue, degrees")

    def __post_init__(self) -> None:
        changes = ("brightness", "contrast", "saturation", "hue")
        check_ranges(self, {"probability": (0, 1), **dict.fromkeys(changes, (0, math.inf))})

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        chances, amounts = rng.random(5), rng.random(4).tolist()
        brightness, contrast, saturation, hue = (chances[:4] < self.probability).tolist()
        change = partial(
            change_colours,
            brightness=self.brightness * (2.0 * amounts[0] - 1.0) if brightness else 0.0,
            contrast=_between(self.contrast, amounts[1]) if contrast else 1.0,
            contrast_last=bool(chances[4] < 0.5),
            saturation=_between(self.saturation, amounts[2]) if saturation else 1.0,
            hue=self.hue * (2.0 * amounts[3] - 1.0) if hue else 0.0,
        )
        layers = (replace(layer, pixel_changes=(*layer.pixel_changes, change)) for layer in canvas.layers)
        return replace(canvas, layers=tuple(layers))


def _between(span: tuple[float, float], part: float) -> float:
    return span[0] + (span[1] - span[0]) * part


def change_colours(
    image: Image, brightness: float, contrast: float, contrast_last: bool, saturation: float, hue: float
) -> Image:
    """Colours changed through lookup tables; RGB in and out.

    Brightness is added, then contrast, saturation and hue (degrees) follow; or contrast comes last (the paper's two
    orders).
    """
    levels = np.arange(256, dtype=np.float64)
    in_hsv = saturation != 1.0 or hue != 0.0
    value_factor = 1.0
    if in_hsv and contrast_last:
        # it multiplies all of RGB, which is HSV's V, so it costs no pass of its own
        contrast, value_factor = 1.0, contrast
    if brightness != 0.0 or contrast != 1.0:
        image = cv2.LUT(image, _to_uint8((levels + brightness) * contrast))
    if in_hsv:
        hues = np.round(levels + hue * 256 / 360) % 256  # a full circle is 256
        table = np.stack([hues, levels * saturation, levels * value_factor], axis=-1)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        image = cv2.cvtColor(cv2.LUT(hsv, _to_uint8(table)[None]), cv2.COLOR_HSV2RGB_FULL)
    return image


def _to_uint8(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)


# In the order in which they draw.
TRANSFORMS: dict[str, type[Any]] = {"expand": Expand, "crop": Crop, "flip": Flip, "colour": Colour}


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; the defaults are those of SSD."""

    # at most one of a class, in the order of `TRANSFORMS`; those that it lacks come last
    transforms: tuple[Transform, ...] = (Expand(), Crop(), Flip(), Colour())
    fill: tuple[int, int, int] = setting((124, 117, 104), "RGB where no image lies")  # ImageNet's mean

    def __post_init__(self) -> None:
        classes = [type(transform) for transform in self.transforms]
        if len(set(classes)) < len(classes):
            raise UserError(f"augmentation: {', '.join(c.__name__ for c in classes)}; expected one of each class")
        if not all(0 <= level <= 255 for level in self.fill):
            raise UserError(f"augmentation: fill is {self.fill}; expected three levels from 0 to 255")
        order = [*TRANSFORMS.values(), *classes]
        in_order = tuple(sorted(self.transforms, key=lambda transform: order.index(type(transform))))
        object.__setattr__(self, "transforms", in_order)

    def draw(self, layer: Layer, rng: np.random.Generator, table: Table | None) -> Canvas:
        """A varied image, as numbers. Transforms of several images take the others from `table`."""

        def other() -> Layer:
            if table is None:
                raise ValueError("this augmentation takes other images: give the table that has them")
            return Layer.of(table, int(rng.integers(len(table))))

        canvas = Canvas.of(layer)
        for transform in self.transforms:
            canvas = transform(canvas, rng, other)
        return canvas

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the fill, and the settings of each transform by its name; `from_dict` reads it back."""
        return {"fill": list(self.fill), **{name: plain(one) for name, one in self._by_name().items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Augmentation:
        """The transforms that `values` names, with their settings, else their defaults; raises as `changed` does."""
        return cls(transforms=()).changed(values, where)

    def changed(self, changes: Mapping[str, Any], where: str) -> Augmentation:
        """With some settings replaced, as {"expand": {"max": 2.0}}; a transform that is missing is added.

        Raises:
            UserError: an unknown transform or setting, or a value that does not fit; with `where` and the key.
        """
        transforms, fill = self._by_name(), self.fill
        for name, values in changes.items():
            if name == "fill":
                fill = fitted(tuple[int, int, int], values, f"{where}: fill")
            elif name in TRANSFORMS:
                transforms[name] = read(TRANSFORMS[name], values, f"{where}: {name}", transforms.get(name))
            else:
                raise UserError(f"{where}: unknown transform {name!r}; expected fill, {', '.join(TRANSFORMS)}")
        return replace(self, transforms=tuple(transforms.values()), fill=fill)

    def _by_name(self) -> dict[str, Transform]:
        names = {kind: name for name, kind in TRANSFORMS.items()}
        if nameless := [type(transform).__name__ for transform in self.transforms if type(transform) not in names]:
            raise UserError(f"augmentation: {nameless[0]} has no name; add it to TRANSFORMS")
        return {names[type(transform)]: transform for transform in self.transforms}


def augment(
    sample: Sample, resize: Resize, rng: np.random.Generator, augmentation: Augmentation, table: Table | None = None
) -> Sample:
    """A varied sample, resized, with boxes in its pixels. `table`: see `Augmentation.draw`.

    Raises:
        UserError: another image of the table can't be read, or has another size than its boxes are for.
    """

    def read(index: int) -> Image:
        if table is None or index == sample.image_index:
            return sample.image
        return table.pixels(index)

    objects = Objects(sample.boxes_xyxy, sample.labels, sample.ignored)
    height, width = sample.image.shape[:2]
    canvas = augmentation.draw(Layer(sample.image_index, (height, width), objects), rng, table)
    image, objects = canvas.paint(resize, augmentation.fill, read)
    return Sample(image, *objects, sample.image_index)


SSD_PAPER = Augmentation((Expand(), Crop(redraw="all"), Flip(), Colour()))

# RetinaNet's: "horizontal image flipping as the only form of data augmentation unless otherwise noted" (Lin 2017, 4.1).
FLIP_ONLY = Augmentation((Expand(probability=0.0), Crop(probability=0.0), Flip(), Colour(probability=0.0)))

# For short trainings from few images: every image still differs each time, but objects keep nearer to their size.
MILD = Augmentation(
    (
        Expand(probability=0.3, max=2.0),
        Crop(probability=0.6, min_side=0.5, ious=(0.3, 0.5, 0.7, 0.9)),
        Flip(),
        Colour(brightness=24.0, contrast=(0.7, 1.3), saturation=(0.7, 1.3)),
    )
)
