"""Open Images: `SPLIT-annotations-bbox.csv` with boxes in fractions, and `class-descriptions*.csv` with the classes.

FiftyOne calls them `detections.csv` and `classes.csv`. Classes are codes, `/m/01yrx`; the descriptions name them, and a
code without a description is its own name. Only the classes that occur count. A box around a group of objects
(IsGroupOf) is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

from onestage.data.folder import DataFolder, folder_of
from onestage.data.formats.csv_tables import Row, columns_of, images_of_rows, read_rows
from onestage.data.reading import AnnotatedImage, AnnotatedObject, Faults, FilesSource, numbers_of, objects_of
from onestage.errors import UserError

SIDES = ("xmin", "ymin", "xmax", "ymax")


def find_open_images(folder: DataFolder) -> OpenImagesSource | None:
    """The tables of boxes of Open Images."""
    files = folder.annotations_like(is_open_images, ".csv")
    return OpenImagesSource(folder, files) if files else None


def is_open_images(head: str) -> bool:
    """True for the beginning of a table with the columns of Open Images' boxes."""
    return {"imageid", "labelname", *SIDES} <= set(columns_of(head))


class OpenImagesSource(FilesSource):
    """Tables of boxes, one a split."""

    tool = "Open Images"

    @cached_property
    def _class_names(self) -> dict[str, str]:
        """Code -> name."""
        called = re.compile(r"(class-descriptions[^/]*|(^|/)classes)\.csv$", re.IGNORECASE)
        files = filter(called.search, self.folder.files)
        lines = (line.partition(",") for file in files for line in self.folder.read_lines(file))
        return {code.strip(): name.strip('" ') for code, _, name in lines if name.strip('" ')}

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        missing, codes = 0, set[str]()
        for file in self.of_split(split):
            for image_id, rows in images_of_rows(read_rows(self.folder, file), "imageid", file, faults).items():
                codes |= {row.get("labelname", "") for _, row in rows}
                try:
                    path = self.folder.find_image(image_id, folder_of(file), split)
                except UserError:
                    missing += 1
                    continue
                objects = [one for number, row in rows for one in self._objects(file, number, row, faults)]
                yield AnnotatedImage(file, path, objects, fractions=True)
        if missing:
            message = f"{missing:,} images of the table are not here; few people download all of Open Images"
            faults.report(split, "not-downloaded", message, "notice")
        if codes and codes.isdisjoint(self._class_names) and all(re.match("/[mg]/", code) for code in codes):
            listed = ", ".join(sorted(codes)[:3])
            message = (
                f"no class has a name ({listed}); put Open Images' class-descriptions-boxable.csv beside the table"
            )
            faults.report(split, "code-as-class", message, "notice")

    def _objects(self, file: str, number: int, row: Row, faults: Faults) -> list[AnnotatedObject]:
        code, texts = row.get("labelname", ""), [row.get(side, "") for side in SIDES]
        sides = numbers_of(texts)
        box = None if sides is None else (sides[0], sides[1], sides[2], sides[3])
        written = f"XMin, YMin, XMax, YMax {', '.join(text[:20] or 'nothing' for text in texts)}"
        group = row.get("isgroupof") == "1"
        return objects_of(faults, file, number, self._class_names.get(code, code), box, written, group)
