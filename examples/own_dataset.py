"""Labels in a format of your own: a reader, and one line in the table of formats.

    python examples/own_dataset.py MY-DATA --steps 500

MY-DATA holds images and the files train.jsonl and test.jsonl, with one image a line:

    {"file": "images/a.jpg", "things": [["ball", 10, 20, 60, 70], ["wall", 0, 5, 90, 40]]}

What can't be read is reported with its line; checks, splits, `doctor` and everything else work as for other formats.
(Tables of more than 2,000 files are remembered in ~/.cache/onestage: delete that when you change a reader.)
"""

import argparse
import json
from collections.abc import Iterator

import onestage
from onestage.data.folder import DataFolder
from onestage.data.formats import FORMATS, Format
from onestage.data.reading import AnnotatedImage, AnnotatedObject, Faults, FilesSource


class JsonLines(FilesSource):
    """The files of a folder; words in their names (train, val, test) are the splits."""

    tool = "lines of JSON"

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        for file in self.of_split(split):
            for number, line in enumerate(self.folder.lines(file), start=1):
                place = f"{file}, line {number}"  # for messages
                try:
                    record = json.loads(line)
                    objects = [object_of(index, *thing) for index, thing in enumerate(record["things"], start=1)]
                    path = faults.find_image(record["file"], file)  # in the folder, never outside
                except (ValueError, TypeError, KeyError) as error:
                    faults.report(place, "annotation", f"{error!r}; write file and things")
                    continue
                if path is not None:
                    yield AnnotatedImage(place, path, objects)


def object_of(number: int, name: str, x0: float, y0: float, x1: float, y1: float) -> AnnotatedObject:
    """One object: its number in the line, for messages; its class; its corners in pixels, which are checked later."""
    return AnnotatedObject(number, str(name), (float(x0), float(y0), float(x1), float(y1)), f"the box of {name}")


def find_json_lines(folder: DataFolder) -> JsonLines | None:
    """The reader of a folder; None if it holds something else."""
    files = folder.annotations_like(lambda head: '"things"' in head, ".jsonl")
    return JsonLines(folder, files) if files else None


FORMATS["json-lines"] = Format(find_json_lines, "a .jsonl file with one image a line")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--detector")
    parser.add_argument("--backbone-weights", default="imagenet")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", default="runs/own-dataset")
    asked = parser.parse_args()
    onestage.info(asked.data)
    beginning = {"detector": asked.detector, "backbone_weights": asked.backbone_weights}
    onestage.train(asked.data, steps=asked.steps, out=asked.out, **beginning)


if __name__ == "__main__":
    main()
