"""Draw a data set of a thousand classes: signs with three letters, one below the other.

    python benchmarks/many_classes.py FOLDER [train images] [test images]

writes a VOC folder of images with four signs each. The ten letters are their own mirror images, so that a flip changes
no class; colours tell nothing. docs/ledger.md, "The made recipe", has results.
"""

import sys
from itertools import product

import cv2
import numpy as np

from onestage.data.generated import Drawing, background, write_drawn_voc

LETTERS = "AHIMOTUVXY"
NAMES = ["".join(letters) for letters in product(LETTERS, repeat=3)]
SIDE, SIGNS = 320, 4  # pixels of an image, and its signs, each in a quarter of its own
LEAST_CONTRAST = 80  # of a sign and its letters, of 255


def draw(rng: np.random.Generator) -> Drawing:
    """One image with its signs."""
    image = background(rng, SIDE, SIDE)
    names = rng.choice(NAMES, SIGNS)
    boxes = []
    for number, name in enumerate(names):
        width = int(rng.integers(30, 46))
        height = 3 * width
        across, down = number % 2 * SIDE // 2, number // 2 * SIDE // 2
        x, y = across + int(rng.integers(SIDE // 2 - width)), down + int(rng.integers(SIDE // 2 - height))
        image[y : y + height, x : x + width] = sign(rng, str(name), width)
        boxes.append((x, y, x + width, y + height))
    return Drawing(image, np.array(boxes, np.float32), tuple(map(str, names)), np.zeros(SIGNS, bool))


def sign(rng: np.random.Generator, name: str, width: int) -> np.ndarray:
    """A sign of three squares, a letter in each."""
    below, above = rng.integers(0, 256, (2, 3))
    while abs(below.mean() - above.mean()) < LEAST_CONTRAST:
        below, above = rng.integers(0, 256, (2, 3))
    large = np.tile(below.astype(np.uint8), (300, 100, 1))
    for row, letter in enumerate(name):
        (wide, high), _ = cv2.getTextSize(letter, cv2.FONT_HERSHEY_SIMPLEX, 2.8, 9)
        place = (50 - wide // 2, 100 * row + 50 + high // 2)
        cv2.putText(large, letter, place, cv2.FONT_HERSHEY_SIMPLEX, 2.8, above.tolist(), 9, cv2.LINE_AA)
    return cv2.resize(large, (width, 3 * width), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    train, test = map(int, (*sys.argv[2:4], *("3000", "500")[len(sys.argv) - 2 :]))
    write_drawn_voc(sys.argv[1], draw, NAMES, seed=0, train=train, test=test)
