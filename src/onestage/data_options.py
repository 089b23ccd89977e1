"""How a data set is read, as every command that reads one takes it."""

from dataclasses import dataclass

from onestage.errors import UserError
from onestage.settings import setting


@dataclass(frozen=True)
class DataOptions:
    """How a data set is read; the default finds out everything."""

    format: str | None = setting(None, "Format of the data where several fit: voc, coco, yolo, labelme or another")
    rescale_boxes: bool = setting(False, "Scale the boxes of images that were resized after they were annotated")
    test_fraction: float = setting(0.2, "Part of the images to hold out where no split tests (default: 0.2)")
    max_pixels: int | None = setting(
        None, "Largest width x height of an image to decode (default: 89 million, of a JPEG or TIFF 358 million)"
    )
    skip_bad_data: bool = setting(False, "Leave out images and objects that are broken, and say how many")

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise UserError(f"--test-fraction {self.test_fraction:g}: expected more than 0 and less than 1")


AS_IT_IS = DataOptions()
