"""Runs an exported detector with ONNX Runtime, without PyTorch. Shipped alone too, as `onestage-runtime`.

    import onestage_runtime

    predictor = onestage_runtime.load("detector.onnx")
    found = predictor("image.jpg")  # or a list of images
    found.boxes_xyxy, found.scores, found.labels, found.names

Files here import only each other, relatively, so that they work under both names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decode import ImageError, decode_image
    from .detections import DetectionArrays
    from .errors import UserError
    from .session import OnnxPredictor, load

__version__ = "0.1.0"

__all__ = ["DetectionArrays", "ImageError", "OnnxPredictor", "UserError", "decode_image", "load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is first used: `onestage` itself often needs little of this package."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = {"DetectionArrays": ".detections", "ImageError": ".decode", "UserError": ".errors"}.get(name, ".session")
    return getattr(importlib.import_module(home, __name__), name)


def __dir__() -> list[str]:
    return __all__
