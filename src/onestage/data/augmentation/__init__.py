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

Whatever is random comes from `rng`, which depends on (seed, epoch, sample) alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onestage.data.augmentation.canvas import Canvas, Image, Layer
from onestage.data.augmentation.transforms import Colour, Crop, Expand, Flip, Transform
from onestage.data.table import Objects, Table
from onestage.errors import UserError
from onestage.input_size import Resize
from onestage.runtime.decode import decode_image
from onestage.settings import fitted, plain, read, setting
from onestage.structures import Sample

# In the order in which they draw.
TRANSFORMS: dict[str, type[Any]] = {"expand": Expand, "crop": Crop, "flip": Flip, "colour": Colour}


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied. The defaults are those of SSD (Liu et al., ECCV 2016, 2.2 and 3.6).

    Attributes:
        transforms: at most one of a class, in the order of `TRANSFORMS`; those that it lacks come last.
        fill: RGB where no image lies.
    """

    transforms: tuple[Transform, ...] = (Expand(), Crop(), Flip(), Colour())
    fill: tuple[int, int, int] = setting((124, 117, 104), "RGB where no image lies")  # ImageNet's mean

    def __post_init__(self) -> None:
        classes = [type(transform) for transform in self.transforms]
        if len(set(classes)) < len(classes):
            raise UserError(f"augmentation: {', '.join(c.__name__ for c in classes)}; expected one of each class")
        if not all(0 <= level <= 255 for level in self.fill):
            raise UserError(f"augmentation: fill is {self.fill}; expected three levels from 0 to 255")
        order = [*TRANSFORMS.values(), *classes]
        in_order = sorted(self.transforms, key=lambda transform: order.index(type(transform)))
        object.__setattr__(self, "transforms", tuple(in_order))

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
        """The transforms that `values` names, with their settings; those that are left out take their defaults.

        Raises:
            UserError: an unknown transform or setting, or a value that does not fit; with `where` and the key.
        """
        return cls(transforms=()).changed(values, where)

    def changed(self, changes: Mapping[str, Any], where: str) -> Augmentation:
        """With some settings replaced, as {"expand": {"max": 2.0}}; a transform that is missing is added.

        Raises:
            UserError: as for `from_dict`.
        """
        for name in changes:
            if name not in ("fill", *TRANSFORMS):
                raise UserError(f"{where}: unknown transform {name!r}; expected fill, {', '.join(TRANSFORMS)}")
        transforms = self._by_name()
        for name in [name for name in TRANSFORMS if name in changes]:
            transforms[name] = read(TRANSFORMS[name], changes[name], f"{where}: {name}", transforms.get(name))
        fill = fitted(tuple[int, int, int], changes.get("fill", self.fill), f"{where}: fill")
        return replace(self, transforms=tuple(transforms.values()), fill=fill)

    def _by_name(self) -> dict[str, Transform]:
        names = {kind: name for name, kind in TRANSFORMS.items()}
        for transform in self.transforms:
            if type(transform) not in names:
                raise UserError(f"augmentation: {type(transform).__name__} has no name; add it to TRANSFORMS")
        return {names[type(transform)]: transform for transform in self.transforms}


def augment(
    sample: Sample,
    resize: Resize,
    rng: np.random.Generator,
    augmentation: Augmentation,
    table: Table | None = None,
) -> Sample:
    """A varied sample, resized, with boxes in its pixels. `table`: see `Augmentation.draw`.

    Raises:
        UserError: another image of the table can't be read.
    """

    def read(index: int) -> Image:
        if table is None or index == sample.image_index:
            return sample.image
        image = decode_image(table.image_path(index))
        (height, width), (annotated_height, annotated_width) = image.shape[:2], table.image_sizes_hw[index].tolist()
        if (height, width) != (annotated_height, annotated_width):
            raise UserError(
                f"{table.image_path(index)}: the image is {width}x{height}, its annotation says "
                f"{annotated_width}x{annotated_height}; correct it"
            )
        return image

    objects = Objects(sample.boxes_xyxy, sample.labels, sample.ignored)
    height, width = sample.image.shape[:2]
    canvas = augmentation.draw(Layer(sample.image_index, (height, width), objects), rng, table)
    image, objects = canvas.paint(resize, augmentation.fill, read)
    return Sample(image, *objects, sample.image_index)


SSD_PAPER = Augmentation()

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
