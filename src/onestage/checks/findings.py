"""A finding about a data set: what, how often, why it matters, what mends it, and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Level = Literal["error", "warning", "notice"]
MOST_IN_JSON = 10_000  # examples of a finding
LEVELS: tuple[Level, ...] = ("error", "warning", "notice")


@dataclass(frozen=True)
class Example:
    """One place where something was found."""

    text: str  # the file and what is wrong there, one line
    split: str = ""  # with `image`, where it can be shown
    image: int | None = None  # row of the split's table
    objects: tuple[int, ...] = ()  # of that image, from 0; with no box either, the whole image is marked
    box_xyxy: tuple[float, float, float, float] | None = None  # what is not labelled, pixels of the image


class Candidate(NamedTuple):
    """A label that may be wrong."""

    doubt: float  # 0 to 1
    kind: str  # missing, class, box, never-found
    split: str
    image: int  # row of the split's table
    objects: tuple[int, ...]  # of the image; none for a missing label
    box_xyxy: tuple[float, float, float, float]  # of the object, or of what is not labelled
    text: str  # the image and what is wrong, one line


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found."""

    code: str  # stable: scripts may rely on it
    level: Level
    count: int
    what: str  # one line with the count in it
    why: str  # why it matters
    mend: str  # what mends it
    examples: Sequence[Example] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with the first `MOST_IN_JSON` examples."""
        return {
            "code": self.code,
            "level": self.level,
            "count": self.count,
            "what": self.what,
            "why": self.why,
            "mend": self.mend,
            "examples": [example.text for example in self.examples[:MOST_IN_JSON]],
        }
