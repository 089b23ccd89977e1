"""The YAML file of a YOLO data set: classes, splits, key points. Every value is read as its text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from onestage.data.folder import DataFolder, shown
from onestage.data.reading import name_of, numbers_of
from onestage.data.split_names import is_split, split_key
from onestage.errors import UserError
from onestage.structures import repeated

MAX_YAML_BYTES = 1 << 19  # a list of 25,000 classes; four seconds of reading
_NOTHING = ("", "~", "null", "none")  # how YAML writes that there is none

Settings = Mapping[str, Any]


class _TextLoader(yaml.BaseLoader):
    """Reads every value as its text, in time and memory that grow with the file: an alias stands for a word only."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias = self.peek_event() if self.check_event(yaml.AliasEvent) else None
        node = super().compose_node(parent, index)
        if alias is not None and not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="an alias of more than a word", problem_mark=alias.start_mark)
        return node

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        text = super().construct_scalar(node)  # of JSON, with both halves of an emoji apart
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if (twice := repeated(keys)) is not None:
            raise yaml.MarkedYAMLError(problem=f"the key {twice} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


class DamagedYamlError(UserError):
    """A YAML file of a data set, as its words say, that can't be parsed."""


def read_yaml(folder: DataFolder, file: str) -> Settings:
    """The settings of a YAML file, every value as its text: `no` is a word there, not false."""
    text = folder.read_text(file, MAX_YAML_BYTES)
    try:
        settings = yaml.load(text, Loader=_TextLoader)
    except (yaml.YAMLError, RecursionError) as error:
        kind = DamagedYamlError if re.search(r"^(names|train)[ \t]*:", text, re.MULTILINE) else UserError
        raise kind(f"{folder.root / file}: not YAML ({_why(error)}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{folder.root / file}: expected names: and train:, found {shown(settings)}")
    return settings


def _why(error: Exception) -> str:
    """The line that is wrong, what is wrong with it, and the mend."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if not problem or mark is None:
        return f"{shown(str(error))}); write it again"
    if "escape" in problem:
        mend = "put a Windows path in single quotes, or write it with /"
        return f"line {mark.line + 1}: a backslash in double quotes begins a special character); {mend}"
    return f"line {mark.line + 1}: {problem}); write it again"


def split_places(settings: Settings) -> dict[str, list[str]]:
    """Split -> the folders and lists that are named for it."""
    found = {}
    for key, value in settings.items():
        places = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
        places = [place for place in places if place.lower() not in _NOTHING]
        if isinstance(key, str) and is_split(key) and not isinstance(value, dict) and places:
            found[key] = places
    return dict(sorted(found.items(), key=lambda item: ["train", "trainval", "val", "test"].index(split_key(item[0]))))


def names_of(file: str, names: object, count: object) -> list[str]:
    """The class names of a YAML file: a list, or label: name; without names, as many numbers as it has classes."""
    if names is None or names in _NOTHING:
        if not isinstance(count, str) or not re.fullmatch(r"[0-9]{1,5}", count) or int(count) == 0:
            raise UserError(f"{file}: names is {shown(names)}, expected the list of the classes")
        return [str(label) for label in range(int(count))]
    if isinstance(names, dict):
        numbers = [int(key) for key in names if isinstance(key, str) and re.fullmatch(r"[0-9]{1,9}", key.strip())]
        if len(numbers) != len(names) or sorted(numbers) != list(range(len(names))):
            raise UserError(f"{file}: names has the ids {shown(list(names))}, expected 0 to {len(names) - 1}")
        names = [name for _, name in sorted(zip(numbers, names.values(), strict=True))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file}: names is {shown(names)}, expected the list of the classes")
    wrong = [name for name in names if not isinstance(name, str) or name_of(name) is None]
    if wrong:
        raise UserError(f"{file}: names has {shown(wrong[0])}, expected words")
    if not (count is None or (isinstance(count, str) and count.strip() in (*_NOTHING, str(len(names))))):
        raise UserError(f"{file}: nc is {shown(count)}, but {len(names)} classes are named; make them agree")
    return [name_of(name) or name for name in names]


def numbers_of_key_points(shape: object) -> int:
    """How many numbers of key points follow a box; 0 for none."""
    numbers = numbers_of(shape) if isinstance(shape, list) and len(shape) == 2 else None
    return int(numbers[0] * numbers[1]) if numbers and all(0 < n < 1000 for n in numbers) else 0
