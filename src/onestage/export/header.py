"""What every exported file says about itself, in JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.postprocess import Selection
from onestage.runtime.exported_file import FORMAT
from onestage.structures import Categories


def export_header(
    detector: Detector, categories: Categories, selection: Selection, origin: dict[str, Any]
) -> dict[str, Any]:
    """All but the SHA-256 of what the file runs."""
    return {
        "format": FORMAT,
        "detector": detector.name,
        "categories": {"names": categories.names, "source_ids": categories.source_ids},
        "resize": asdict(detector.resize),
        "selection": asdict(selection),
        "evaluation_score_threshold": detector.evaluation_selection.score_threshold,
        "origin": origin,
    }


def room_for(selection: Selection) -> int:
    """How many detections a file has room for.

    Raises:
        UserError: a selection without a limit.
    """
    if selection.max_detections is None:
        raise UserError("max_detections is None; an exported file has room for a fixed number, so give one")
    return selection.max_detections
