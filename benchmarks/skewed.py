"""Small and skewed data sets, made of a VOC folder with NEU-DET's classes by leaving images or objects out.

    python benchmarks/skewed.py neu-det FOLDER

writes FOLDER/few (30 images with scratches), FOLDER/empty (100 of them among 1,000, whose other objects are taken out)
and FOLDER/rare (all classes, of one of them 12 images), to train on; docs/ledger.md, "The made recipe", has results.
"""

import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

OBJECT = re.compile(r"\s*<object>.*?</object>", re.DOTALL)
NAME = re.compile(r"<name>(.*?)</name>")
COMMON, RARE = "scratches", "pitted_surface"


class Source:
    """A VOC folder and the classes of its images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.splits = {name: (root / f"ImageSets/Main/{name}.txt").read_text().split() for name in ("trainval", "test")}
        images = [image for split in self.splits.values() for image in split]
        self.xml = {image: (root / f"Annotations/{image}.xml").read_text() for image in images}

    def has(self, image: str, name: str) -> bool:
        return f"<name>{name}</name>" in self.xml[image]

    def write(self, folder: Path, trainval: list[str], test: list[str], keep: Callable[[str], bool]) -> None:
        """Write the images as links, and their annotations with the objects whose class is kept."""

        def kept(match: re.Match[str]) -> str:
            name = NAME.search(match[0])
            return match[0] if name is not None and keep(name[1]) else ""

        for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (folder / part).mkdir(parents=True)
        for image in trainval + test:
            (folder / f"Annotations/{image}.xml").write_text(OBJECT.sub(kept, self.xml[image]))
            (folder / f"JPEGImages/{image}.jpg").symlink_to((self.root / f"JPEGImages/{image}.jpg").resolve())
        for name, split in (("trainval", trainval), ("test", test)):
            (folder / f"ImageSets/Main/{name}.txt").write_text("".join(f"{image}\n" for image in split))


def main() -> None:
    source, out = Source(Path(sys.argv[1])), Path(sys.argv[2])
    test, shuffled = source.splits["test"], sorted(source.splits["trainval"])
    random.Random(0).shuffle(shuffled)
    common = [image for image in shuffled if source.has(image, COMMON)]
    without = [image for image in shuffled if not source.has(image, COMMON)]
    rare = [image for image in shuffled if source.has(image, RARE)]
    others = [image for image in shuffled if not source.has(image, RARE)]
    with_common = [image for image in test if source.has(image, COMMON)]
    source.write(out / "few", common[:30], with_common, lambda name: name == COMMON)
    source.write(out / "empty", common[:100] + without[:900], test, lambda name: name == COMMON)
    source.write(out / "rare", others + rare[:12], test, lambda name: True)


if __name__ == "__main__":
    main()
