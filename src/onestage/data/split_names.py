"""The names that people give to splits, as words in the names of folders and files."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
}
EXCLUSIVE = ("train", "val", "test")  # splits that share no image
LONGEST = 100  # letters of a name that may mean a split: the patterns below take the square of its length
# words beside a split's in the name of its folder or file: train_images, images-train, test_set, train_list
_BESIDE_SPLIT = (
    r"(images?|imgs?|pictures|photos|labels?|annotations?|anns?|annots|xmls?|bbox(es)?|set|data|split|lists?|final)"
)


def split_key(name: str) -> str:
    """One spelling for the names of a split: "train" for train2017, Training, train_images; others keep their own."""
    lower = name.lower()
    if len(lower) > LONGEST:
        return lower
    bare = re.sub(r"[\W_]*\d*$", "", lower)
    if bare not in _SPLIT_WORDS:
        bare = re.sub(rf"^{_BESIDE_SPLIT}[\W_]+|[\W_]+{_BESIDE_SPLIT}$", "", bare)
    return _SPLIT_WORDS.get(bare, lower)


def is_split(name: str) -> bool:
    """True for a name that says which split it is."""
    return split_key(name) in _SPLIT_WORDS


def split_of(path: str) -> str | None:
    """The split that the first of the folders of a path names, without what is beside it (train_images).

    `DataFolder.split_of` passes over one around all images.
    """
    found = next((folder for folder in path.split("/")[:-1] if is_split(folder)), None)
    if found is None or re.sub(r"[\W_]*\d*$", "", found.lower()) in _SPLIT_WORDS:
        return found
    return split_key(found)


def split_in_name(file: str) -> str | None:
    """The word of a file's name that names a split, as in train_labels.csv."""
    words = re.split(r"[\W_]+", PurePosixPath(file).stem)
    return next((word for word in words if is_split(word)), None)


def without_annotations(names: Sequence[str]) -> str:
    """The end of a line about a data set in which these splits, or files of splits, list images and nothing more."""
    listed = ", ".join(names[:3]) + (", ..." if names[3:] else "")
    return f"; not used, as they have no annotations: {listed}" if names else ""


def may_be_of(path: str, split: str) -> bool:
    """False for an image in the folder of another split."""
    folders = path.split("/")[:-1]
    keys = {split_key(folder) for folder in folders if is_split(folder)}
    return not keys or split_key(split) not in EXCLUSIVE or bool(keys & {split_key(split), "trainval"})
