"""Cases `coco-odd`, `yaml-bombs`, `xml-bombs` and `nasty-names`: spoilt annotations, read and printed as by a command.

python benchmarks/reliability/fuzzed_data.py --files 2000

Each file must end in a table or in one line, also on a terminal that takes ASCII only. What could be read of `names` is
written as VOC, COCO and YOLO, and must be the same when it is read again.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro
from rich.console import Console

from onestage.data.table import Table
from onestage.data.writing import WRITERS
from onestage.data_options import DataOptions
from onestage.errors import UserError
from onestage.jobs.dataset import open_dataset
from onestage.terminal import Display

ODD: list[Any] = [
    *(
        "",
        " ",
        "0",
        "--5",
        "²",
        "01",
        "9" * 5000,
        "\ud800",
        "a\nb",
        "\x1b[31m",
        "../../x",
        "/etc/passwd",
        "\0",
        "a" * 9999,
    ),
    *(-1, 0, 1.5, 1e400, -1e400, float("nan"), 10**300, True, None, "[/x]", "2020-13-45"),
    *([], {}, [[1, 2], [3]], {"a": None}),
]
PIECES = [
    *("&a [", "*a", "]", "{", "}", ": ", "- ", "\n", "\t", "!!int x", "!!python/name:os.system", "<<: *a", "? ", "| "),
    *("2020-13-45", '"\\ud800"', '"\\0"', "\0", "\ufeff", "'", '"', "#", "%YAML 9.9\n", "---\n", "...\n", "names:"),
    *("nc: 99999", "~", "[" * 300, "<!DOCTYPE x>", '<!ENTITY a "b">', "&a;", "&#0;", "&#x1b;", "<![CDATA[", "]]>"),
    *("<object>", "</object>", "<name/>", "<xmin>nan</xmin>", "<bndbox>", "</annotation>", "<a>" * 40, "\x1b[0m"),
    "<?xml version='1.0' encoding='x'?>",
]
LETTERS = [
    *"abcdefgh [/]:<&>\"'\\ \n\r\t\0\x1b\x85.-=%{}é漢🦊",
    *("\u202e", "\u2028", "\ufeff", "\ud83d", "[/x]", ":car:", "\ufffe"),
]
YAML = "path: .\ntrain: images\nval: images/train\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
VOC = (
    "<annotation><filename>a.png</filename><size><width>32</width><height>24</height><depth>3</depth></size><object>"
    "<name>cat</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    "</object></annotation>"
)
CVAT = (
    '<annotations><meta><task><labels><label><name>cat</name></label></labels></task></meta><image id="0" name="a.png" '
    'width="32" height="24"><box label="cat" xtl="3" ytl="4" xbr="20" ybr="20" rotation="30"/><polygon label="cat" '
    'points="1,2;9,9;3,9"/></image></annotations>'
)


@dataclass(frozen=True)
class Options:
    """How many of each kind, and which."""

    files: int = 2000
    seed: int = 0
    only: str | None = None


def spoilt_bytes(data: bytes, rng: random.Random) -> bytes:
    """With some bytes changed, put in, or cut off."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place, kind = rng.randrange(len(spoilt) + 1), rng.random()
        if kind < 0.6:
            spoilt[place:place] = rng.choice(PIECES).encode("utf-8", "surrogatepass")
        elif kind < 0.9:
            spoilt[place : place + 1] = bytes([rng.randrange(256)])
        else:
            del spoilt[place:]
    return bytes(spoilt)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in ((value, key), *places_in(value[key]))]


def coco_file(folder: Path, rng: random.Random) -> None:
    images = [{"id": number, "file_name": "a.png", "width": 32, "height": 24} for number in (1, 2)]
    images[1]["file_name"] = "b.png"
    content: dict[str, Any] = {
        "images": images,
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 9, 9], "area": 81, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 2, "segmentation": [[1, 2, 9, 9, 3, 9]], "bbox": []},
            {
                "id": 3,
                "image_id": 2,
                "category_id": 2,
                "segmentation": {"size": [24, 32], "counts": "07P1"},
                "bbox": [],
            },
        ],
        "categories": [{"id": 1, "name": "cat", "supercategory": "x"}, {"id": 2, "name": "dog", "supercategory": "x"}],
    }
    for _ in range(rng.randint(0, 3)):
        holder, key = rng.choice(places_in(content))
        if rng.random() < 0.2:
            del holder[key]
        elif rng.random() < 0.1 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = rng.choice(ODD)
    data = json.dumps(content).encode()
    (folder / "instances_train.json").write_bytes(spoilt_bytes(data, rng) if rng.random() < 0.3 else data)


def yaml_file(folder: Path, rng: random.Random) -> None:
    (folder / "a.txt").write_bytes(spoilt_bytes(b"0 .5 .5 .4 .4\n", rng) if rng.random() < 0.3 else b"0 .5 .5 .4 .4\n")
    (folder / "data.yaml").write_bytes(spoilt_bytes(YAML.replace("images", ".").encode(), rng))


def xml_file(folder: Path, rng: random.Random) -> None:
    text = rng.choice((VOC, CVAT))
    for _ in range(rng.randint(0, 2)):
        word = rng.choice(("cat", "a.png", "32", "3", "20", "1,2", "0"))
        text = text.replace(word, str(rng.choice(ODD)), 1)
    data = text.encode("utf-8", "surrogatepass")
    (folder / "a.xml").write_bytes(spoilt_bytes(data, rng) if rng.random() < 0.6 else data)
    if rng.random() < 0.3:
        (folder / "train.txt").write_bytes(spoilt_bytes(b"a\n../a.png\na -1\n", rng))


def names_file(folder: Path, rng: random.Random) -> None:
    def word(letters: list[str]) -> str:
        return "".join(rng.choices(letters, k=rng.randint(1, 12)))

    on_disk = [letter for letter in LETTERS if not set("/\0\ud83d") & set(letter)] + [os.fsdecode(b"\xe9")]
    file = f"{word(on_disk)}.png"
    os.rename(folder / "a.png", folder / file)
    names = [word(LETTERS) for _ in range(rng.randint(1, 3))]
    objects = [{"image_id": 1, "category_id": n, "bbox": [3 + n, 4, 9, 9], "area": 81} for n in range(len(names))]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    images = [{"id": 1, "file_name": file}]
    (folder / "all.json").write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))


KINDS: dict[str, tuple[Callable[[Path, random.Random], None], str]] = {  # what writes, and the split that is read
    "coco": (coco_file, "train"),
    "yaml": (yaml_file, "train"),
    "xml": (xml_file, "all"),
    "names": (names_file, "all"),
}


def read(data: Path, split: str) -> tuple[Table | None, str]:
    """The table of a folder, or None; and what was printed, on a terminal that takes ASCII only."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    display = Display(Console(file=file, soft_wrap=True))
    table = None
    try:
        table = open_dataset(str(data), split, display=display, options=DataOptions(skip_bad_data=True))
    except UserError as error:  # anything else ends the run with its traceback
        if len(error.args) != 1:
            raise SystemExit(f"more than a line: {error}") from error
        display.say(str(error))
    file.seek(0)
    return table, file.read()


def written_again(table: Table, out: Path) -> None:
    """Write it in each format and read that; SystemExit where it is not the same."""
    for kind, write in WRITERS.items():
        try:
            write({"train": table}, out / kind)
        except UserError:
            continue  # a class whose name no list can hold
        again = read(out / kind, "train")[0]
        if again is None or len(again.labels) != len(table.labels) or len(again) != len(table):
            raise SystemExit(f"{kind} is another: {table.categories.names!r}, {table.image_names()!r}")


def main(options: Options) -> None:
    image = cv2.imencode(".png", np.zeros((24, 32, 3), dtype=np.uint8))[1].tobytes()
    for kind, (write, split) in KINDS.items():
        if options.only not in (None, kind):
            continue
        ended, slowest = Counter[str](), 0.0
        for number in range(options.files):
            rng = random.Random(f"{options.seed} {kind} {number}")
            folder = Path(tempfile.mkdtemp())
            try:
                for name in ("a.png", "b.png"):
                    (folder / name).write_bytes(image)
                write(folder, rng)
                started = time.perf_counter()
                table, printed = read(folder, split)
                slowest = max(slowest, time.perf_counter() - started)
                if "\x1b" in printed:
                    raise SystemExit(f"{kind} {number}: an escape was printed: {printed!r}")
                ended["read" if table is not None else "refused"] += 1
                if table is None and os.environ.get("SHOW"):
                    print(ascii(printed.splitlines()[-1])[:230])
                if table is not None and kind == "names":
                    written_again(table, folder / "out")
            except BaseException:
                print(f"{kind}, number {number} of seed {options.seed}")
                raise
            finally:
                shutil.rmtree(folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        counts = f"{ended['read']:,} read, {ended['refused']:,} refused in one line"
        print(f"{kind}: {options.files:,} files, {counts}; the slowest {slowest:.2f} s; peak memory {peak:,} MB")


if __name__ == "__main__":
    main(tyro.cli(Options))
