"""Which JSON files of a folder are COCO's, by the lists in them; test sets are published without annotations."""

from __future__ import annotations

import re

from onestage.data.folder import DataFolder, stem_of
from onestage.errors import UserError
from onestage.texts import decode_text

LISTS = ("images", "annotations", "categories")
MAX_JSON_BYTES = 4 << 30
# beside COCO's instances there are files of other annotations of the same images
OTHER_TASKS = re.compile(r"(captions|person_keypoints|stuff|panoptic)(_\w+)?", re.IGNORECASE)
PANOPTIC = re.compile(rb'"segments_info"\s*:\s*\[\s*\{[^][]*(?:\[[^][]*\][^][]*)*\]')  # segments, each with its box
# tool -> keys of its own JSON, which is not read
OTHER_TOOLS = {
    "Datumaro": ("categories", "items"),
    "V7 Darwin": ("item", "slots", "annotations"),
    "Dataloop": ("filename", "annotations", "coordinates"),
}


def coco_files(folder: DataFolder) -> tuple[list[str], list[str]]:
    """The files of COCO's kind in a folder, and those of them without annotations, of which there are others.

    Raises:
        UserError: there is none, but JSON of another tool.
    """
    files = folder.annotations(".json")
    named = [file for file in files if stem_of(file).lower().startswith("instances")]
    of_other_tasks = {file for file in files if OTHER_TASKS.fullmatch(stem_of(file))}
    others = [file for file in files if file not in named and not (named and file in of_other_tasks)]
    looked_at = {file: _lists_of(folder, file) for file in named + [one for one in others if is_coco(folder.head(one))]}
    of_two = [file for file, lists in looked_at.items() if "images" in lists and len(lists) > 1]
    # one without categories is named, unless it is of another task, whose files have none
    kept = {file for file in of_two if "categories" in looked_at[file] or file not in of_other_tasks}
    found = [file for file in looked_at if file in named or file in kept]
    plain = [file for file in found if looked_at[file] == {"images", "categories"}]
    annotated = [file for file in found if file not in plain]
    if not found:
        annotated = of_two  # to be named
    if not annotated:
        _refuse_other_tools(folder, files)
    return sorted(annotated or plain), sorted(plain if annotated else ())


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
    without_segments = PANOPTIC.sub(b"", data)
    if len(without_segments) < len(data) and not re.search(rb'"(bbox|segmentation)"', without_segments):
        return set()
    return {name for name in LISTS if re.search(rb'"%s"\s*:\s*\[' % name.encode(), data)}


def _refuse_other_tools(folder: DataFolder, files: list[str]) -> None:
    for file in files[:5]:
        head = folder.head(file)
        for tool, keys in OTHER_TOOLS.items():
            if head.lstrip().startswith("{") and all(re.search(rf'"{key}"\s*:', head) for key in keys):
                raise UserError(f"{folder.root / file}: {tool}'s own JSON, which is not read; export as COCO")
