"""What int8 is made by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onestage.structures import Detections


@dataclass(frozen=True)
class Calibration:
    """Images that show what passes through a network, and what a network is worth on them.

    Attributes:
        images: files like those to come.
        map_area: of what was found in some of them, given their places; None: what int8 costs is not looked at.
    """

    images: Sequence[Path]
    map_area: Callable[[Sequence[int], Sequence[Detections]], float] | None = None
