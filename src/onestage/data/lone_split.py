"""A folder called `train` among others that are called after no split: a class, a place or a vehicle, but no split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from onestage.data.reading import ALL, AnnotatedImage, Faults, Source
from onestage.data.split_names import split_key
from onestage.structures import Categories


def without_lone_split(source: Source) -> Source:
    """The source; of one split if all that its folders say is that some images are of `train`, or of that meaning."""
    keys = {split_key(split) for split in source.splits} if source.one_image_each else set[str]()
    return OneSplit(source) if keys == {ALL, "train"} else source


class OneSplit(Source):
    """All images of a source, whatever splits it says."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def about(self) -> str:
        named = ", ".join(split for split in self.source.splits if split != ALL)
        return f"{self.source.about} ({named} is taken for no split, since the other images are of none)"

    @property
    def splits(self) -> list[str]:
        return [ALL]

    def categories(self, split: str) -> Categories | None:
        lists = [self.source.categories(one) for one in self.source.splits]
        known = [one for one in lists if one is not None]
        if len(known) < len(lists):
            return None
        names = dict.fromkeys(chain.from_iterable(one.names for one in known))
        return known[0] if len(names) == len(known[0]) else Categories.from_names(names)

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        for one in self.source.splits:  # each may have ids of its own
            yield from (image._replace(image_id="") for image in self.source.images(one, faults))
