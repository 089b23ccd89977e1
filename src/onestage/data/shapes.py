"""The upright boxes of shapes that labelling tools draw: corners, ellipses, turned boxes."""

from __future__ import annotations

from math import cos, hypot, isfinite, nan, radians, sin

from onestage.data.reading import Box, box_around, numbers_of


class UnreadShapeError(ValueError):
    """An object of a shape that is not read: an image in which it would be background can't train."""


def box_around_corners(corners: object) -> Box | None:
    """The smallest upright box around corners [x, y]; not finite if one is not; None for fewer than two corners."""
    if not isinstance(corners, list | tuple) or not all(isinstance(one, list | tuple) for one in corners):
        return None
    sides = numbers_of(side for one in corners for side in one)
    if sides is None or any(len(one) != 2 for one in corners):
        return None
    return box_around(sides) if all(map(isfinite, sides)) else (nan, nan, nan, nan)


def box_of_ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> Box:
    """The upright box of an ellipse that is turned around its centre."""
    if degrees:
        turn = radians(degrees) if isfinite(degrees) else nan
        rx, ry = hypot(rx * cos(turn), ry * sin(turn)), hypot(rx * sin(turn), ry * cos(turn))
    return cx - rx, cy - ry, cx + rx, cy + ry


def turned_box(box_xyxy: Box, degrees: float, around_xy: tuple[float, float]) -> Box:
    """The upright box of a box that is turned, clockwise on the screen, around a point."""
    if not degrees:
        return box_xyxy
    turn = radians(degrees) if isfinite(degrees) else nan
    (x0, y0, x1, y1), (px, py) = box_xyxy, around_xy
    offsets = [(x - px, y - py) for x in (x0, x1) for y in (y0, y1)]
    corners = [(px + x * cos(turn) - y * sin(turn), py + x * sin(turn) + y * cos(turn)) for x, y in offsets]
    return box_around_corners(corners) or box_xyxy


def turned_by(box_xyxy: Box, degrees: object) -> Box:
    """The upright box of a box that CVAT says is turned, clockwise on the screen, around its own centre.

    What is no number of degrees turns nothing.
    """
    (x0, y0, x1, y1), turn = box_xyxy, numbers_of((degrees,))
    return turned_box(box_xyxy, turn[0], ((x0 + x1) / 2, (y0 + y1) / 2)) if turn else box_xyxy
