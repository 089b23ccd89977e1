"""What the header of an exported file says, as the types that the rest of onestage has for it."""

from __future__ import annotations

from dataclasses import fields

from onestage.errors import UserError
from onestage.input_size import KeepRatio, Resize, Stretch
from onestage.postprocess import Selection
from onestage.runtime.exported_file import ExportedFile


def resize_of(file: ExportedFile) -> Resize:
    """How images are brought to an exported network's input.

    Raises:
        UserError: a header that holds another thing.
    """
    given = file.header["resize"]
    for kind in (Stretch, KeepRatio):
        if given.keys() == {field.name for field in fields(kind)} and all(type(v) is int for v in given.values()):
            return kind(**given)
    raise UserError(f"{file.name}: the input size in its header is damaged; export it again")


def selection_of(file: ExportedFile) -> Selection:
    """The selection that is part of an exported file.

    Raises:
        UserError: a header that holds another thing.
    """
    known, given = {field.name: field.default for field in fields(Selection)}, file.header["selection"]
    fits = given.keys() == known.keys() and isinstance(given["max_detections"], int)
    if not fits or any(type(given[name]) is not type(known[name]) for name in known):
        raise UserError(f"{file.name}: the selection in its header is damaged; export it again")
    return Selection(**given)
