"""What all HTML pages share: their style, and images that are in the page itself."""

from __future__ import annotations

import base64
from importlib.resources import files

import cv2
from jaxtyping import UInt8
from jinja2 import DictLoader, Template
from numpy import ndarray

from onestage.html import templates


def page_template(package: str, name: str = "report.html") -> Template:
    """A page of a package, which may include `style.css`; as `templates`."""
    sources = {
        name: files(package).joinpath(name).read_text("utf-8"),
        "style.css": files("onestage.evaluation").joinpath("style.css").read_text("utf-8"),
    }
    return templates(DictLoader(sources)).get_template(name)


def jpeg_url(image_rgb: UInt8[ndarray, "H W 3"], quality: int = 88) -> str:
    """An image as the data URL of a JPEG, in which thin lines keep their colour (4:4:4)."""
    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    encoded = cv2.imencode(".jpg", image_rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
