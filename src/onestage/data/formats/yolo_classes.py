"""The class names of a YOLO data set whose YAML gives none: from a list, Label Studio's notes or another file."""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress

from onestage.data.folder import DataFolder
from onestage.data.formats.yolo_settings import names_of, read_yaml
from onestage.data.reading import class_list
from onestage.errors import UserError

CLASS_LISTS = ("classes.txt", "obj.names", "data.names", "labels.txt", "_darknet.labels", "class_names.txt")


def names_in(folder: DataFolder) -> list[str]:
    """The names in a file that is meant for them; none if there is no such file.

    Raises:
        UserError: two such files differ, or a class is listed twice.
    """
    listed, noted = class_list(folder, *CLASS_LISTS, by_line=True), _noted_names(folder)
    if listed is not None and noted and list(listed.names) != noted:
        raise UserError(
            f"{folder.root}: notes.json names the classes {', '.join(noted[:10])}, the list of classes "
            f"{', '.join(listed.names[:10])}; which is right? Delete the other"
        )
    return noted if listed is None else list(listed.names)


def _noted_names(folder: DataFolder) -> list[str]:
    """The classes in Label Studio's `notes.json`; none where there is no such file."""
    for file in folder.annotations(".json"):
        notes = folder.read_json(file, 1 << 24) if file.lower().endswith("notes.json") else None
        records = notes.get("categories") if isinstance(notes, dict) else None
        ones = records if isinstance(records, list) else []
        named = [(one.get("id"), str(one.get("name"))) for one in ones if isinstance(one, dict)]
        if named and all(isinstance(number, int) for number, _ in named):
            return [name for _, name in sorted(named)]
    return []


def names_for(folder: DataFolder, labels: Set[int]) -> list[str]:
    """The names in the one other file that may list them, if it has one for each label; else their numbers.

    Such are Darknet's `pets.names`, LabelImg's `predefined_classes.txt`, and a YAML of names without splits.
    """
    files = {file.rpartition("/")[2].lower() for file in folder.files}
    lists = [name for name in files if name.endswith(".names") or name == "predefined_classes.txt"]
    found = {listed.names for name in lists if (listed := class_list(folder, name, by_line=True)) is not None}
    for file in folder.annotations(".yaml", ".yml"):
        with suppress(UserError):  # settings of something else
            settings = read_yaml(folder, file)
            if isinstance(settings.get("names"), list | dict):
                found.add(tuple(names_of(file, settings["names"], settings.get("nc"))))
    count = max(labels, default=0) + 1
    enough = [names for names in found if len(names) >= count]
    return list(enough[0]) if len(found) == 1 and enough else [str(label) for label in range(count)]
