"""The data set of the demo, drawn from a seed: textured objects of six classes on cluttered backgrounds, in VOC format.

The classes differ in size and shape as real ones do: a star may be a tenth as long as a ladder, a wall is wide, a
ladder tall, a leaf lies at any angle. Objects hide parts of each other; a box surrounds the visible part of an object.
Objects that are mostly hidden or very small are `difficult`. Some images are empty. Colour alone identifies no class:
the blobs and lines of the background take any colour.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from onestage.compute.threads import in_threads
from onestage.data.formats.voc import voc_annotation

EMPTY_IMAGES = 0.05  # fraction of images without objects
MAX_OBJECTS = 5
MIN_VISIBLE = 0.25  # fraction of an object that others leave visible
DIFFICULT_VISIBLE = 0.5  # an object is difficult if less of it is visible,
DIFFICULT_SIDE = 0.055  # or if its shorter side is below this fraction of the nominal image side
PLACE_TRIALS = 6


class Plane(NamedTuple):
    """Image points in the frame of an object: its centre is (0, 0), its sides lie along u and v, in pixels."""

    u: Float32[np.ndarray, "h w"]
    v: Float32[np.ndarray, "h w"]
    width: float
    height: float


# At the points of a plane: pixels from the object's edge inwards, negative outside; 0 first colour, 1 second colour.
Surface = tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]


class Kind(NamedTuple):
    """A class of objects."""

    surface: Callable[[Plane], Surface]
    longer_side: tuple[float, float]  # range, as fractions of the nominal image side
    ratio: tuple[float, float]  # range of width / height
    max_turn: float  # degrees, both ways
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]  # RGB


def _ball(plane: Plane) -> Surface:
    radius = plane.width / 2
    stripes = 0.5 + 0.5 * np.sign(np.sin(plane.v * (2.5 * np.pi / radius) + 0.6))
    return radius - np.hypot(plane.u, plane.v), stripes


def _buoy(plane: Plane) -> Surface:
    radius, outer = plane.width / 2, np.hypot(plane.u, plane.v)
    segments = np.sin(4 * np.arctan2(plane.v, plane.u)) > 0
    return np.minimum(radius - outer, outer - 0.52 * radius), segments.astype(np.float32)


def _wall(plane: Plane) -> Surface:
    row_height = plane.height / 4
    row = np.floor((plane.v + plane.height / 2) / row_height)
    along = (plane.u + plane.width / 2) / (2.2 * row_height) + 0.5 * (row % 2)
    across = (plane.v + plane.height / 2) / row_height - row
    mortar = (across < 0.2) | (along - np.floor(along) < 0.1)
    return _within_rectangle(plane), mortar.astype(np.float32)


def _ladder(plane: Plane) -> Surface:
    rail, gap = 0.17 * plane.width, 0.5 * plane.width
    rails = np.abs(plane.u) - (plane.width / 2 - rail)
    rungs = 0.13 * plane.width - np.abs((plane.v + plane.height / 2) % gap - gap / 2)
    depth = np.minimum(_within_rectangle(plane), np.maximum(rails, rungs))
    return depth, ((rungs > 0) & (rails < 0)).astype(np.float32)


def _leaf(plane: Plane) -> Surface:
    # two circles that meet in the tips; half the length and half the width give their radius
    length, breadth = plane.width / 2, plane.height / 2
    radius = (length**2 + breadth**2) / (2 * breadth)
    depth = radius - np.hypot(plane.u, np.abs(plane.v) + radius - breadth)
    veins = np.sin((plane.u - 1.2 * np.abs(plane.v)) * (9 * np.pi / plane.width)) > 0.75
    return depth, (veins | (np.abs(plane.v) < 0.05 * plane.height)).astype(np.float32)


def _star(plane: Plane) -> Surface:
    radius, sector = plane.width / 2, 2 * np.pi / 5
    angle = np.abs((np.arctan2(plane.u, -plane.v) + sector / 2) % sector - sector / 2)
    distance = np.hypot(plane.u, plane.v)
    # the edge from a tip (angle 0, radius) to a notch (angle sector / 2, half the radius)
    tip, notch = np.array([radius, 0.0]), 0.5 * radius * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    normal = np.array([notch[1] - tip[1], tip[0] - notch[0]]) / np.linalg.norm(notch - tip)
    depth = (tip[0] - distance * np.cos(angle)) * normal[0] - distance * np.sin(angle) * normal[1]
    return depth, (distance < 0.3 * radius).astype(np.float32)


def _within_rectangle(plane: Plane) -> Float[np.ndarray, "h w"]:
    return np.minimum(plane.width / 2 - np.abs(plane.u), plane.height / 2 - np.abs(plane.v))


KINDS: dict[str, Kind] = {
    "ball": Kind(_ball, (0.12, 0.4), (1.0, 1.0), 180.0, ((225, 80, 40), (245, 240, 230))),
    "buoy": Kind(_buoy, (0.2, 0.6), (1.0, 1.0), 180.0, ((30, 80, 200), (240, 240, 240))),
    "ladder": Kind(_ladder, (0.4, 0.85), (0.2, 0.35), 6.0, ((150, 100, 50), (205, 160, 95))),
    "leaf": Kind(_leaf, (0.16, 0.55), (2.0, 2.8), 180.0, ((45, 140, 50), (150, 205, 95))),
    "star": Kind(_star, (0.08, 0.3), (1.0, 1.0), 36.0, ((245, 200, 40), (200, 90, 160))),
    "wall": Kind(_wall, (0.3, 0.75), (2.0, 4.0), 5.0, ((165, 70, 55), (205, 195, 180))),
}


class Drawing(NamedTuple):
    """An image with its objects."""

    image: UInt8[np.ndarray, "H W 3"]
    boxes_xyxy: Float32[np.ndarray, "N 4"]
    names: tuple[str, ...]
    difficult: Bool[np.ndarray, " N"]


def write_generated_voc(root: str | Path, *, seed: int = 0, train: int = 600, test: int = 150, size: int = 300) -> None:
    """Write a VOC folder with `train` images in the split trainval and `test` images in test.

    The same seed (not negative) gives the same files. Sides of images are 0.8 to 1.2 times `size` pixels.
    """
    write_drawn_voc(root, lambda rng: draw_image(rng, size), tuple(KINDS), seed=seed, train=train, test=test)


def write_drawn_voc(
    root: str | Path,
    draw: Callable[[np.random.Generator], Drawing],
    names: Sequence[str],
    *,
    seed: int,
    train: int,
    test: int,
) -> None:
    """Write drawings of these classes as a VOC folder: see `write_generated_voc`."""
    root = Path(root)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    stems = [f"{index:06d}" for index in range(train + test)]

    def write_image(index: int) -> None:
        drawing = draw(np.random.default_rng((seed, index)))
        size_hw = (drawing.image.shape[0], drawing.image.shape[1])
        text = voc_annotation(f"{stems[index]}.jpg", size_hw, drawing.boxes_xyxy, drawing.names, drawing.difficult)
        (root / "Annotations" / f"{stems[index]}.xml").write_text(text, encoding="utf-8")
        _, jpeg = cv2.imencode(".jpg", drawing.image[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 90))
        (root / "JPEGImages" / f"{stems[index]}.jpg").write_bytes(jpeg.tobytes())

    in_threads(write_image, range(len(stems)), "drawing images")  # numpy and OpenCV draw outside of Python's lock
    for split, part in (("trainval", stems[:train]), ("test", stems[train:])):
        lines = "".join(f"{stem}\n" for stem in part)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(lines, encoding="utf-8")


def draw_image(rng: np.random.Generator, size: int = 300) -> Drawing:
    """Draw one image with its objects."""
    height, width = (int(side) for side in rng.integers(round(0.8 * size), round(1.2 * size) + 1, 2))
    canvas = background(rng, height, width)
    owner = np.full((height, width), -1, dtype=np.int16)  # the object of each pixel; -1: background
    names: list[str] = []
    areas: list[int] = []  # pixels of each object before others hid some
    wanted = int(rng.integers(1, MAX_OBJECTS + 1)) if rng.random() >= EMPTY_IMAGES else 0
    for _ in range(wanted):
        name = str(rng.choice(list(KINDS)))
        kind = KINDS[name]
        for _ in range(PLACE_TRIALS):
            window, plane = _random_plane(kind, (height, width), size, rng)
            depth, pattern = kind.surface(plane)
            owner_now = owner.copy()
            owner_now[window][depth > 0] = len(names)
            *left, area = np.bincount(owner_now[owner_now >= 0], minlength=len(names) + 1).tolist()
            if area and all(pixels >= MIN_VISIBLE * whole for pixels, whole in zip(left, areas, strict=True)):
                canvas[window] = _painted(canvas[window], kind, plane, (depth, pattern), rng)
                owner = owner_now
                names.append(name)
                areas.append(area)
                break
    # the light and the noise of a camera
    light = rng.uniform(0.75, 1.15) * rng.uniform(0.94, 1.06, 3)
    noise = rng.uniform(1, 7) * rng.standard_normal(owner.shape, dtype=np.float32)
    image = np.clip(canvas * light.astype(np.float32) + noise[:, :, None], 0, 255).astype(np.uint8)
    boxes_xyxy = np.zeros((len(names), 4), dtype=np.float32)
    visible = np.zeros(len(names))
    for number, area in enumerate(areas):
        seen = owner == number
        xs, ys = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=-1))
        boxes_xyxy[number] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        visible[number] = seen.sum() / area
    shorter_sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).min(axis=-1, initial=np.inf)
    difficult = (visible < DIFFICULT_VISIBLE) | (shorter_sides < DIFFICULT_SIDE * size)
    return Drawing(image, boxes_xyxy, tuple(names), difficult)


def _random_plane(
    kind: Kind, image_hw: tuple[int, int], size: int, rng: np.random.Generator
) -> tuple[tuple[slice, slice], Plane]:
    """An object with random place, size and turn: its window of the image, and the points in it."""
    ratio = rng.uniform(*kind.ratio)
    longer = size * float(np.exp(rng.uniform(*np.log(kind.longer_side))))
    width, height = (longer, longer / ratio) if ratio >= 1 else (longer * ratio, longer)
    turn = np.radians(rng.uniform(-kind.max_turn, kind.max_turn))
    reach_x = (width * abs(np.cos(turn)) + height * abs(np.sin(turn))) / 2
    reach_y = (width * abs(np.sin(turn)) + height * abs(np.cos(turn))) / 2
    rows, columns = image_hw
    # up to a third of an object may lie outside the image
    centre_x, centre_y = (
        rng.uniform(min(reach / 3, length / 2), max(length - reach / 3, length / 2))
        for reach, length in ((reach_x, columns), (reach_y, rows))
    )
    x0, x1 = max(int(centre_x - reach_x) - 1, 0), min(int(centre_x + reach_x) + 2, columns)
    y0, y1 = max(int(centre_y - reach_y) - 1, 0), min(int(centre_y + reach_y) + 2, rows)
    x = np.arange(x0, x1, dtype=np.float32)[None] + np.float32(0.5 - centre_x)
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - centre_y)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    plane = Plane(cosine * x + sine * y, cosine * y - sine * x, width, height)
    return (slice(y0, y1), slice(x0, x1)), plane


def _painted(
    canvas: UInt8[np.ndarray, "h w 3"], kind: Kind, plane: Plane, surface: Surface, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """The canvas with an object on it: a soft edge, colours a little off those of its class, light from one side."""
    first, second = ((colour + rng.normal(0, 14, 3)).astype(np.float32) for colour in kind.colours)
    depth, pattern = (values[:, :, None] for values in surface)
    shade = 1 + rng.uniform(-0.35, 0.35) * plane.u / plane.width + rng.uniform(-0.35, 0.35) * plane.v / plane.height
    rim = np.where(depth < 1.5, 0.6, 1.0)  # a darker edge
    colour = (first * (1 - pattern) + second * pattern) * (shade[:, :, None] * rim)
    opacity = np.clip(depth + 0.5, 0, 1)
    return np.clip(canvas + (colour - canvas) * opacity, 0, 255).astype(np.uint8)


def background(rng: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    """Soft patches of colour, grain, and lines and blobs of any colour that are no objects."""
    gray = rng.uniform(50, 200) + rng.normal(0, 22, (4, 5, 1))
    patches = (gray + rng.normal(0, 14, 3) + rng.normal(0, 9, (4, 5, 3))).astype(np.float32)
    soft = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.uniform(4, 16) * rng.standard_normal((height // 3, width // 3), dtype=np.float32)
    soft += cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)[:, :, None]
    canvas = np.clip(soft, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(6, 20))):
        layer = canvas.copy()
        _scribble(layer, rng)
        strength = float(rng.uniform(0.2, 0.75))
        canvas = cv2.addWeighted(canvas, 1 - strength, layer, strength, 0)
    return canvas


def _scribble(canvas: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator) -> None:
    """Draw a line, an ellipse, a polygon or a bent line of any colour."""
    height, width = canvas.shape[:2]
    colour = tuple(rng.integers(0, 256, 3).tolist())
    points = (rng.uniform(-0.1, 1.1, (4, 2)) * (width, height)).astype(np.int32)
    figure = int(rng.integers(4))
    if figure == 0:
        cv2.line(canvas, points[0].tolist(), points[1].tolist(), colour, int(rng.integers(1, 9)), cv2.LINE_AA)
    elif figure == 1:
        axes = (rng.uniform(0.02, 0.2, 2) * width).astype(np.int32).tolist()
        cv2.ellipse(canvas, points[0].tolist(), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    elif figure == 2:
        corners = (points[0] + rng.normal(0, 0.1 * width, (int(rng.integers(3, 6)), 2))).astype(np.int32)
        cv2.fillPoly(canvas, [corners], colour, cv2.LINE_AA)
    else:
        cv2.polylines(canvas, [points], False, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
