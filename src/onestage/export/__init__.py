"""Models as files for other engines: the table of formats, and the check of a file against its model."""

from __future__ import annotations

import os
from pathlib import Path

from onestage.export.base import ExportFormat
from onestage.export.onnx import ONNX
from onestage.export.openvino import OPENVINO

FORMATS: dict[str, ExportFormat] = {"onnx": ONNX, "openvino": OPENVINO}


def format_of(path: str | os.PathLike[str]) -> ExportFormat | None:
    """The format of an exported file, by its suffix; None for any other file."""
    return next((one for one in FORMATS.values() if one.suffix == Path(path).suffix), None)
