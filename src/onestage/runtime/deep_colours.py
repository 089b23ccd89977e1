"""Colours of 16 bits, of which Pillow keeps the high byte: told to swap the two bytes, it keeps the low one."""

from __future__ import annotations

import re
import sys
from typing import Any

from PIL.ImageFile import ImageFile

_RAW_MODE = re.compile(r"(RGB[AX]?;16)([BLN])")  # how the pixels of a PNG or a TIFF are stored; the order of bytes
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def has_deep_colours(image: ImageFile) -> bool:
    """True for an image of 16-bit colours that is not loaded yet."""
    return bool(image.tile) and all(_RAW_MODE.fullmatch(_raw_mode(tile.args)) for tile in image.tile)


def keep_low_bytes(image: ImageFile) -> ImageFile:
    """Make an image of 16-bit colours keep their low bytes when it is loaded; it is given back."""
    image.tile = [tile._replace(args=_other_order(tile.args)) for tile in image.tile]
    return image


def _raw_mode(args: Any) -> str:
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _other_order(args: Any) -> Any:
    swapped = _RAW_MODE.sub(lambda found: found[1] + _OTHER_ORDER[found[2]], _raw_mode(args))
    return swapped if isinstance(args, str) else (swapped, *args[1:])
