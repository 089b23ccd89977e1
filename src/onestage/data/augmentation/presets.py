"""Augmentations by name: those of the papers, and those of the recipe made for data."""

from typing import Literal, TypeAlias

from onestage.data.augmentation import Augmentation, Colour, Expand, Flip, Interpolate
from onestage.data.augmentation.crop import Crop
from onestage.errors import UserError

Preset: TypeAlias = Literal["paper", "mild", "texture", "none"]
"""What `--augmentation` takes.

- "paper": that of the detector's paper.
- "mild": small changes of place, size and colour, and left-right flips.
- "texture": the same with up-down flips and quarter turns, for images that have no up, as of surfaces or from above.
- "none": every image as it is.
"""

CAFFE_MEAN = (123, 117, 104)  # RGB; Simonyan's VGG-16 was trained with it

# Of the authors' release (github.com/weiliu89/caffe, branch ssd): examples/ssd/ssd_pascal.py, util/sampler.cpp,
# util/im_transforms.cpp. It moves OpenCV's hue, of which a circle has 180, by up to 18.
SSD_PAPER = Augmentation(
    (
        Expand(),
        Crop(sides="scale", redraw="met", hold_centre=False, without_objects=False),
        Flip(),
        Colour(hue=36.0),
        Interpolate(),
    ),
    fill=CAFFE_MEAN,
)

# Of M2Det's release (github.com/qijiezhao/M2Det, data/data_augment.py; p = 0.6 in its configurations): it crops first.
M2DET_RELEASE = Augmentation(
    (
        Expand(probability=0.6, max_ratio=2.0),
        Crop(sides="fitting", overlap="all", redraw="all", without_objects=False),
        Flip(),
        Colour(hue=36.0, contrast_last=0.0),
        Interpolate(),
    ),
    fill=CAFFE_MEAN,
    order=("crop",),
)

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

# For images without an up.
TEXTURE = MILD.changed({"flip": {"vertical_probability": 0.5, "quarter_turn_probability": 0.5}}, "texture")

NONE = Augmentation(transforms=())

_OF_PAPERS = {"SSD": SSD_PAPER, "M2Det": M2DET_RELEASE, "RetinaNet": FLIP_ONLY, "GFL": FLIP_ONLY}


def augmentation_named(preset: str, family: str) -> Augmentation:
    """The augmentation of that name (a `Preset`), for detectors of this family (`DetectorConfig.FAMILY`).

    Raises:
        UserError: no such name, or a family whose paper's augmentation is not known.
    """
    named = {"mild": MILD, "texture": TEXTURE, "none": NONE}
    if family in _OF_PAPERS:
        named = {"paper": _OF_PAPERS[family], **named}
    if preset not in named:
        raise UserError(f"augmentation {preset!r}: expected {', '.join(named)}")
    return named[preset]
