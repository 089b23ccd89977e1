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

from onestage.data.augmentation.canvas import Canvas, Image, Layer
from onestage.data.augmentation.crop import Crop, drawn_ratio
from onestage.data.table import Objects, Table
from onestage.errors import UserError
from onestage.input_size import Resize
from onestage.settings import check_ranges, fitted, plain, read, setting, settings_of
from onestage.structures import Sample

Transform: TypeAlias = Callable[[Canvas, np.random.Generator, Callable[[], Layer]], Canvas]

KERNELS = {  # by which OpenCV resizes
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
    "cubic": cv2.INTER_CUBIC,
    "lanczos4": cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True)
class Expand:
    """Put the view somewhere on a larger canvas: small objects."""

    probability: float = setting(0.5, "Chance of the expansion")
    max: float = setting(4.0, "Largest side of the canvas, in sides of the image")
    max_ratio: float = setting(
        1.0, "Largest width / height of the canvas, of the image's; the smallest is its inverse (M2Det's release: 2)"
    )

    def __post_init__(self) -> None:
        check_ranges(self, {"probability": (0, 1), "max": (1, math.inf), "max_ratio": (1, math.inf)})

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        if rng.random() >= self.probability:
            return canvas
        canvas = canvas.cut_to_view()
        x0, y0, x1, y1 = canvas.view_xyxy
        width, height = x1 - x0, y1 - y0
        size, right_shift, down_shift = rng.random(3).tolist()
        across = down = 1.0 + (self.max - 1.0) * size
        if self.max_ratio > 1.0:  # the area stays
            root = math.sqrt(drawn_ratio(rng.random(1), self.max_ratio, np.array([across**-2.0]), cut=False).item())
            across, down = max(1.0, across * root), max(1.0, down / root)
        left, top = x0 - right_shift * (across - 1.0) * width, y0 - down_shift * (down - 1.0) * height
        return replace(canvas, view_xyxy=(left, top, left + across * width, top + down * height))


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
    contrast_last: float = setting(0.5, "Chance that contrast changes after saturation and hue, not before")

    def __post_init__(self) -> None:
        changes = ("brightness", "contrast", "saturation", "hue")
        chances = ("probability", "contrast_last")
        check_ranges(self, {**dict.fromkeys(chances, (0, 1)), **dict.fromkeys(changes, (0, math.inf))})

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        chances, amounts = rng.random(5), rng.random(4).tolist()
        brightness, contrast, saturation, hue = (chances[:4] < self.probability).tolist()
        change = partial(
            change_colours,
            brightness=self.brightness * (2.0 * amounts[0] - 1.0) if brightness else 0.0,
            contrast=_between(self.contrast, amounts[1]) if contrast else 1.0,
            contrast_last=bool(chances[4] < self.contrast_last),
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


@dataclass(frozen=True)
class Interpolate:
    """Resize by one of several kernels, so that the network does not learn to rely on one's smoothness."""

    kernels: tuple[Literal["linear", "area", "nearest", "cubic", "lanczos4"], ...] = setting(
        ("linear", "area", "nearest", "cubic", "lanczos4"), "Kernels of which one is drawn to resize the image"
    )

    def __post_init__(self) -> None:
        if not self.kernels:
            raise UserError(f"interpolate: kernels is (); expected one or more of {', '.join(KERNELS)}")

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        kernel = KERNELS[self.kernels[int(rng.integers(len(self.kernels)))]]
        return replace(canvas, layers=tuple(replace(layer, kernel=kernel) for layer in canvas.layers))


# In the order in which they draw, unless `Augmentation.order` says otherwise.
TRANSFORMS: dict[str, type[Any]] = {
    "expand": Expand,
    "crop": Crop,
    "flip": Flip,
    "colour": Colour,
    "interpolate": Interpolate,
}


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; the defaults are those of SSD."""

    # at most one of a class, in the order of `order` and `TRANSFORMS`; those that these lack come last
    transforms: tuple[Transform, ...] = (Expand(), Crop(), Flip(), Colour())
    fill: tuple[int, int, int] = setting((124, 117, 104), "RGB where no image lies")  # ImageNet's mean
    order: tuple[str, ...] = setting(
        (), f"Transforms that draw first, in this order; the others follow in the usual one, {', '.join(TRANSFORMS)}"
    )

    def __post_init__(self) -> None:
        classes = [type(transform) for transform in self.transforms]
        if len(set(classes)) < len(classes):
            raise UserError(f"augmentation: {', '.join(c.__name__ for c in classes)}; expected one of each class")
        if not all(0 <= level <= 255 for level in self.fill):
            raise UserError(f"augmentation: fill is {self.fill}; expected three levels from 0 to 255")
        if len(set(self.order)) < len(self.order) or not set(self.order) <= set(TRANSFORMS):
            raise UserError(
                f"augmentation: order is {', '.join(self.order)}; expected each once, of {', '.join(TRANSFORMS)}"
            )
        order = [*(TRANSFORMS[name] for name in self.order), *TRANSFORMS.values(), *classes]
        in_order = tuple(sorted(self.transforms, key=lambda transform: order.index(type(transform))))
        object.__setattr__(self, "transforms", in_order)

    def draw(self, layer: Layer, rng: np.random.Generator, table: Table | None) -> Canvas:
        """A varied image, as numbers. Transforms of several images take the others from `table`."""
        other, canvas = partial(_another, table, rng), Canvas.of(layer)
        for transform in self.transforms:
            canvas = transform(canvas, rng, other)
        return canvas

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: its own settings, and those of each transform by its name; `from_dict` reads it back."""
        own = {name: plain(getattr(self, name)) for name in OWN_SETTINGS}
        return own | {name: plain(one) for name, one in self._by_name().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Augmentation:
        """The transforms that `values` names, with their settings, else their defaults; raises as `changed` does."""
        return cls(transforms=()).changed(values, where)

    def changed(self, changes: Mapping[str, Any], where: str) -> Augmentation:
        """With some settings replaced, as {"expand": {"max": 2.0}}; a transform that is missing is added.

        Raises:
            UserError: an unknown transform or setting, or a value that does not fit; with `where` and the key.
        """
        transforms, own = self._by_name(), dict[str, Any]()
        for name, values in changes.items():
            if name in OWN_SETTINGS:
                own[name] = fitted(OWN_SETTINGS[name], values, f"{where}: {name}")
            elif name in TRANSFORMS:
                transforms[name] = read(TRANSFORMS[name], values, f"{where}: {name}", transforms.get(name))
            else:
                expected = ", ".join([*OWN_SETTINGS, *TRANSFORMS])
                raise UserError(f"{where}: unknown transform {name!r}; expected {expected}")
        return replace(self, transforms=tuple(transforms.values()), **own)

    def _by_name(self) -> dict[str, Transform]:
        names = {kind: name for name, kind in TRANSFORMS.items()}
        if nameless := [type(transform).__name__ for transform in self.transforms if type(transform) not in names]:
            raise UserError(f"augmentation: {nameless[0]} has no name; add it to TRANSFORMS")
        return {names[type(transform)]: transform for transform in self.transforms}


def _another(table: Table | None, rng: np.random.Generator) -> Layer:
    """Any image of the data set."""
    if table is None:
        raise ValueError("this augmentation takes other images: give the table that has them")
    return Layer.of(table, int(rng.integers(len(table))))


OWN_SETTINGS = {one.name: one.type for one in settings_of(Augmentation) if one.name != "transforms"}


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
