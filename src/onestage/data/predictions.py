"""Which files of a data folder hold what a model found: those are no labels while there are others.

A run of `predict` or of another program may have written into the folder of the images. Its boxes are passed over where
the folder has annotations besides; a folder that is named itself, or joined, is read as it is.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from onestage.data.folder import DataFolder, folder_of, is_image, key_of, stem_of

LIST_NAME = ".onestage-predict.jsonl"  # in a folder that `predict` wrote: a list [path, ...] on each line
# folders that are called as those of predictions are; Ultralytics writes runs/detect/predict2/labels
PREDICTED = re.compile(
    r"(?:^|/)(?:runs/(?:detect|segment|pose|obb|track|val)|(?:predict(?:ion|ed)?s?|preds?|inference)[\W_]*\d*)/",
    re.IGNORECASE,
)


def without_predictions(folder: DataFolder) -> tuple[DataFolder, list[str]]:
    """The folder without what models found in it, and the places that are passed over.

    Of folders that are only called so, images stay that have a name of their own.
    """
    above = {parent for one in {folder_of(file) for file in folder.files} for parent in _parents(one)}
    written = tuple(f"{one}/" for one in above if (folder.root / one / LIST_NAME).is_file())
    called = tuple({f"{one}/"[: match.end()] for one in above if (match := PREDICTED.search(f"{one}/"))})
    listed = written_by_predict(folder.root)
    if not (written or called or listed):
        return folder, []
    elsewhere = {key_of(stem_of(image)) for image in folder.images if not image.startswith((*written, *called))}
    passed = {
        file
        for file in folder.files
        if file in listed
        or file.startswith(written)
        or (file.startswith(called) and (not is_image(file) or key_of(stem_of(file)) in elsewhere))
    } - {folder.only}
    if not passed:
        return folder, []
    places = {next((one for one in sorted((*written, *called)) if file.startswith(one)), file) for file in passed}
    return folder.without(passed), sorted(places)


def _parents(folder: str) -> list[str]:
    """A folder below the root, and those that it is in."""
    parts = folder.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)] if folder else []


def written_by_predict(folder: Path) -> set[str]:
    """The files that `predict` wrote into a folder, below it."""
    found = set()
    with suppress(OSError):
        for line in (folder / LIST_NAME).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, LookupError):  # a line that was torn when a run was killed
                found.add(str(json.loads(line)[0]))
    return found
