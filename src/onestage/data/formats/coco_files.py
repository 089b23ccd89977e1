"""Which JSON files of a folder are COCO's, by the lists in them; test sets are published without annotations."""

from __future__ import annotations

import re
from typing import NamedTuple

from onestage.data.folder import DataFolder, stem_of
from onestage.errors import UserError
from onestage.texts import decode_text

LISTS = ("images", "annotations", "categories")
MAX_JSON_BYTES = 4 << 30
# beside COCO's instances there are files of other annotations of the same images
OTHER_TASKS = re.compile(r"(captions|person_keypoints|stuff|panoptic)_\w+", re.IGNORECASE)
# tool -> keys of its own JSON, which is not read
OTHER_TOOLS = {
    "Datumaro": ("categories", "items"),
    "V7 Darwin": ("item", "slots", "annotations"),
    "Dataloop": ("filename", "annotations", "coordinates"),
}


class CocoFiles(NamedTuple):
    """JSON files that hold images and categories."""

    annotated: list[str]
    not_annotated: list[str]


def coco_files(folder: DataFolder) -> CocoFiles:
    """The files of COCO's kind in a folder; a UserError if there is none, but those of a tool with another JSON."""
    files = folder.annotations(".json")
    named = [file for file in files if stem_of(file).lower().startswith("instances")]
    others = [file for file in files if file not in named and not (named and OTHER_TASKS.fullmatch(stem_of(file)))]
    looked_at = {file: _lists_of(folder, file) for file in named + [one for one in others if is_coco(folder.head(one))]}
    found = [file for file, lists in looked_at.items() if file in named or {"images", "categories"} <= lists]
    plain = [file for file in found if looked_at[file] == {"images", "categories"}]
    annotated = [file for file in found if file not in plain]
    if not found:
        annotated = [file for file, lists in looked_at.items() if {"images", "annotations"} <= lists]  # to be named
    if not annotated:
        _refuse_other_tools(folder, files)
    return CocoFiles(sorted(annotated or plain), sorted(plain if annotated else ()))


def is_coco(head: str) -> bool:
    """True for the beginning of a file with one of COCO's lists."""
    lists = re.search(r'"(images|annotations|categories)"\s*:\s*\[', head)
    words = re.search(r'"(file_name|image_id|category_id|supercategory|licenses|categories|annotations)"', head)
    return head.lstrip().startswith("{") and bool(lists and words)


def _lists_of(folder: DataFolder, file: str) -> set[str]:
    """Which of COCO's lists a file has, wherever in it; none for panoptic segments, which are no boxes."""
    data = folder.read(file, MAX_JSON_BYTES)
    if b"\0" in data[:4]:  # UTF-16
        data = decode_text(data).encode()
    if b'"segments_info"' in data:
        return set()
    return {name for name in LISTS if re.search(rb'"%s"\s*:\s*\[' % name.encode(), data)}


def _refuse_other_tools(folder: DataFolder, files: list[str]) -> None:
    for file in files[:5]:
        head = folder.head(file)
        for tool, keys in OTHER_TOOLS.items():
            if head.lstrip().startswith("{") and all(re.search(rf'"{key}"\s*:', head) for key in keys):
                raise UserError(f"{folder.root / file}: {tool}'s own JSON, which is not read; export as COCO")
