"""How players show a video's frames: turned and mirrored, with which colours, and with pixels of which shape."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8

PIXEL_ASPECTS = (Fraction(1, 100), Fraction(100))  # outside, a header's number is taken for a mistake
# swscale's matrix by the number of a video's (ITU-T H.273, table 4); 2 is "unspecified"
SWSCALE_MATRICES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020"}
BT709, BT601, UNSPECIFIED = 1, 6, 2
HD_HEIGHT = 720  # players take BT.709 for an unspecified matrix from this height on, below BT.601


@dataclass(frozen=True)
class Colours:
    """How a video's numbers stand for colours, as in ITU-T H.273; 2 is "unspecified"."""

    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def known(self, height: int) -> "Colours":
        """The same with a matrix that can be computed with: where there is none, the one that players take."""
        matrix = self.matrix if self.matrix in SWSCALE_MATRICES else BT709 if height >= HD_HEIGHT else BT601
        return Colours(matrix, self.primaries, self.transfer)

    @property
    def swscale_name(self) -> str:
        """What swscale calls the matrix, which is a known one."""
        return SWSCALE_MATRICES[self.matrix]


def pixel_aspect(stream: Any) -> Fraction:
    """Width / height of a pixel of PyAV's stream when it is shown, before it is turned."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return aspect if PIXEL_ASPECTS[0] <= aspect <= PIXEL_ASPECTS[1] else Fraction(1)


def display_matrix(decoded: Any) -> tuple[int, int, int, int]:
    """The numbers a, b, c, d by which a player turns and mirrors PyAV's frame (see `as_shown`)."""
    try:
        side_data = decoded.side_data.get("DISPLAYMATRIX")
    except ValueError:  # beside it there is a kind of data that PyAV does not know
        side_data = None
    if side_data is None or len(bytes(side_data)) < 36:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(side_data), dtype=np.int32).tolist()
    return a, b, c, d


def as_shown(
    pixels: UInt8[np.ndarray, "H W 3"], matrix: tuple[int, int, int, int]
) -> tuple[UInt8[np.ndarray, "H2 W2 3"], bool]:
    """The image as a player shows it, and whether its rows became columns.

    A pixel at x, y is shown at a x + c y, b x + d y (ISO 14496-12, 6.2.2). Of angles in between, the nearest is taken.
    """
    a, b, c, d = matrix
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    right, down = (c, b) if turned else (a, d)
    shown = pixels.swapaxes(0, 1) if turned else pixels
    return shown[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1], turned
