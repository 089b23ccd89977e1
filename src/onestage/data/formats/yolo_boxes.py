"""What the numbers of YOLO's lines may be instead of a centre and a size: corners, or a box and key points."""

from __future__ import annotations

from collections.abc import Sequence

ROUNDED = 0.001  # of a side of the image
CLEARLY = 0.1  # of a side of the image: further out than rounding and careless drawing bring a box
FEW = 5  # boxes that may be outside by chance


class Corners:
    """Counts the boxes of a split that lie in their images as corners, but not as centres and sizes."""

    def __init__(self) -> None:
        self.count, self.outside, self.may_be_corners = 0, 0, True

    def add(self, sides: Sequence[float]) -> None:
        """Count the four numbers of one box."""
        x1, y1, x2, y2 = sides
        self.count += 1
        self.outside += not _is_inside(sides)
        self.may_be_corners &= -ROUNDED <= x1 < x2 <= 1 + ROUNDED and -ROUNDED <= y1 < y2 <= 1 + ROUNDED

    @property
    def fault(self) -> str | None:
        """What to say where they are corners; None where they aren't."""
        if not self.may_be_corners or self.outside < FEW or 3 * self.outside <= self.count:
            return None
        return (
            f"{self.outside:,} of {self.count:,} boxes reach outside of their images, and none would as x1 y1 x2 y2: "
            "they look like corners; write (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1"
        )


def key_points_in(sides: Sequence[float]) -> int:
    """How many key points, with 0, 1 or 2 for whether each is seen, follow a box; 0 where it is none of that kind."""
    count, rest = divmod(len(sides) - 4, 3)
    seen = set(sides[6::3])
    if rest or count < 2 or not seen <= {0, 1, 2} or not _is_inside(sides[:4]) or min(sides[2:4]) <= 0:
        return 0
    return count if count > 2 or 2 in seen else 0  # else it may be a polygon at the border


def _is_inside(sides: Sequence[float]) -> bool:
    """True for a centre and a size whose box lies in the image, or nearly."""
    cx, cy, w, h = sides
    return all(abs(centre - 0.5) + size / 2 <= 0.5 + CLEARLY for centre, size in ((cx, w), (cy, h)))
