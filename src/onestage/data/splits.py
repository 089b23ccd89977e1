"""Which images train, which choose the best weights, and which test.

A data set without a split to test on gets one: a fixed part of its images is held out, by a hash of their names, so
that it is the same tomorrow, on another machine, and after more images came. Copies of one image and neighbouring
frames of one video stay together (`similar`), and every class is on both sides where it can be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from onestage.data.reading import ALL
from onestage.data.similar import groups_of_similar
from onestage.data.split_names import split_key
from onestage.data.table import Table
from onestage.errors import UserError

HELD_OUT, KEPT = "held-out", "kept"  # the parts of a split, as in "all:held-out"


class Splits(NamedTuple):
    """Names of splits, and a line to print if the choice is unusual, else "".

    The best weights are chosen on `choose`; `test` gives the figures.
    """

    train: str
    choose: str
    test: str
    note: str = ""

    @property
    def evaluated(self) -> str:
        """What a model is measured on: `test`, but all of a split of that name where a part would be held out of it."""
        whole = base_of(self.test)
        return whole if split_key(whole) == "test" else self.test


def choose(known: Sequence[str], data: str, hold_out: bool = True) -> Splits:
    """The splits to use, by the names in a data set.

    Train, val and test where there are all three. Without a val, a part of the training images is held out to choose
    the weights; without a test, val or that part tests too. `hold_out` False is the papers' protocol: trainval trains
    as a whole, and the last weights are tested.

    Raises:
        UserError: no name says which split trains.
    """
    train, trainval = named(known, "train"), named(known, "trainval")
    val, test = named(known, "val"), named(known, "test")
    if train and val and (hold_out or (trainval and not test)):
        return Splits(train[-1], val[-1], (test or val)[-1])
    if trainval and val and not test:
        note = f"{data}: {val[-1]} is part of {trainval[-1]}, so its figures flatter"
        return Splits(trainval[-1], val[-1], val[-1], note)
    base = (trainval or train or named(known, ALL) or ([] if len(set(known)) > 1 else list(known)))[-1:]
    if not base:
        raise UserError(f"{data}: which split trains? There is {', '.join(known) or 'none'}; name one train")
    to_test = [split for split in test or val if split != base[0]]
    if not hold_out and to_test:
        return Splits(base[0], to_test[-1], to_test[-1])
    held_out = f"{base[0]}:{HELD_OUT}"
    return Splits(f"{base[0]}:{KEPT}", held_out, to_test[-1] if to_test else held_out)


def named(known: Sequence[str], name: str) -> list[str]:
    """The splits of a name: itself, else those that mean it (`train2017`, `Training` for `train`), newest last.

    Where there are no splits, `train` is all, as `onestage doctor` calls it.
    """
    if name in known:
        return [name]
    of_all = [ALL] if split_key(name) == "train" and set(known) == {ALL} else []
    return sorted({split for split in known if split_key(split) == split_key(name)}) or of_all


def read_for(known: Sequence[str], name: str) -> list[str]:
    """The splits of a folder, one of several that are joined, that are read for `name`: those of that name.

    Where there is none and `name` trains, it is what the folder has for training, whatever that is called.
    """
    if named(known, name) or split_key(name) not in ("train", "trainval", ALL):
        return named(known, name)
    alone = [split for split in known if len(set(known)) == 1 and split_key(split) not in ("val", "test")]
    return next((found[-1:] for other in ("trainval", "train", ALL) if (found := named(known, other))), alone)


def splits_of_joined(known: Sequence[Sequence[str]]) -> set[str]:
    """The splits of joined folders, given each one's, without those that are read for another that trains."""
    splits = {split for one in known for split in one}
    with suppress(UserError):
        trains = base_of(choose(sorted(splits), "").train)
        return {trains}.union(*(set(one).difference(read_for(one, trains)) for one in known))
    return splits


def base_of(split: str) -> str:
    """The split that a part is of: "all" for "all:held-out"."""
    base, _, part = split.rpartition(":")
    return base if part in (HELD_OUT, KEPT) else split


def part_of(table: Table, split: str, fraction: float) -> Table:
    """The images of a table that are held out, or the rest, as `split` says; all of them for a split without a part.

    Args:
        fraction: of the images, to hold out.

    Raises:
        UserError: there is a single image, or all look alike.
    """
    part = split.rpartition(":")[2]
    if part not in (HELD_OUT, KEPT):
        return table
    held_out = held_out_images(table, fraction)
    if held_out.all():
        raise UserError(f"{table.root}: {len(table)} image is too few to hold some out; name the splits, or add images")
    chosen = np.flatnonzero(held_out if part == HELD_OUT else ~held_out).tolist()
    return table.subset(indices=chosen).renamed(f"{table.split}:{part}")


def held_out_images(table: Table, fraction: float, start: float = 0.0) -> Bool[np.ndarray, " I"]:
    """True for the images to hold out.

    Each group of similar images goes by a number in [0, 1) that is made of its first name: it is held out from `start`
    to below `start + fraction`. A class that lies on one side only then moves one group over, if it has several.
    """
    groups = groups_of_similar(table)
    first = {int(group): index for index, group in reversed(list(enumerate(groups.tolist())))}
    order = sorted(first, key=lambda group: _number(table.image_name(first[group])))
    out = {group: start <= _number(table.image_name(first[group])) < start + fraction for group in order}
    if not any(out.values()):
        out[order[0]] = True
    elif all(out.values()):
        out[order[-1]] = False
    _spread_classes(table, groups, order, out)
    return np.array([out[int(group)] for group in groups], dtype=bool)


def _spread_classes(table: Table, groups: np.ndarray, order: list[int], out: dict[int, bool]) -> None:
    """Move groups so that each class of several groups is on both sides; the rarest class first."""
    group_of_object = np.repeat(groups, np.diff(table.first_object))
    of_class = [set(group_of_object[table.labels == label].tolist()) for label in range(len(table.categories))]
    for having in sorted((one for one in of_class if len(one) > 1), key=len):
        ordered = [group for group in order if group in having]
        if not any(out[group] for group in ordered):
            out[ordered[0]] = True
        elif all(out[group] for group in ordered):
            out[ordered[-1]] = False


def _number(name: str) -> float:
    """A number in [0, 1) made of a name, the same everywhere."""
    digest = hashlib.sha256(name.rpartition("/")[2].encode("utf-8", errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def in_order(names: Iterable[str]) -> list[str]:
    """Names of splits, train first."""
    order = ("train", "trainval", "val", "test")
    return sorted(names, key=lambda name: (*(split_key(name) != key for key in order), name))
