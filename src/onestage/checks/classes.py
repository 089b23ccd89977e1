"""Names and numbers of the classes: near names, classes without a name, rare ones, ones that a split lacks."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher

import numpy as np

from onestage.checks.findings import Example, Finding
from onestage.data.table import Table
from onestage.texts import counted

FEW_OBJECTS = 10  # of a class: too few to learn it or to measure it
IMBALANCE = 50  # times as many objects of one class as of another
LIKENESS = 0.85  # of two names, by difflib: a slip of the pen
COMPARED_NAMES = 500


def check_classes(tables: Mapping[str, Table]) -> Iterator[Finding]:
    """Findings about the classes of all splits together."""
    names = next(iter(tables.values())).categories.names
    counts = {split: np.bincount(table.labels, minlength=len(names)) for split, table in tables.items()}
    total = np.sum(list(counts.values()), axis=0)
    if groups := list(_near_names(names)):
        named = f"{counted(len(groups), 'group')} of class names that differ only in case, spelling or plural"
        lines = [
            ", ".join(f"{names[label]} ({counted(int(total[label]), 'object')})" for label in group) for group in groups
        ]
        why = "one class that is called two things is learned as two, each from a part of its objects"
        renaming = f"onestage convert --rename {_renaming(names, total, groups[0])}"
        mend = f"{renaming} makes one of two; leave them if they are two things"
        examples = [Example(line) for line in lines]
        yield Finding("near-names", "warning", len(groups), f"{named}: {lines[0]}", why, mend, examples)
    if all(re.fullmatch(r"\d+", name) for name in names) and names:
        what = f"{counted(len(names), 'class')} with numbers for names"
        why = "results and pages will say 0, 1, 2"
        mend = "add a list of their names (classes.txt, or names: in data.yaml)"
        yield Finding("classes-without-names", "notice", len(names), what, why, mend)
    yield from _rare(names, counts, total)


def _rare(names: tuple[str, ...], counts: Mapping[str, np.ndarray], total: np.ndarray) -> Iterator[Finding]:
    unused = [name for name, count in zip(names, total, strict=True) if count == 0]
    if unused and len(unused) < len(names):
        listed = f"{', '.join(unused[:5])}{', ...' if unused[5:] else ''}"
        what = f"{counted(len(unused), 'listed class')} without an object: {listed}"
        why, mend = "they can't be learned, and their AP is not defined", "delete them from the list, or label some"
        yield Finding("unused-class", "warning", len(unused), what, why, mend, [Example(name) for name in unused])
    lacking = [
        Example(f"{split} has no {name}", split)
        for split, count in counts.items()
        for label, name in enumerate(names)
        if len(counts) > 1 and total[label] and not count[label]
    ]
    if lacking:
        what = f"{counted(len(lacking), 'class')} missing in a split: {lacking[0].text}"
        why = "a class that is not trained is never found, and one that is not tested is not measured"
        mend = "make new splits (onestage convert --split), or label more"
        yield Finding("class-missing-in-split", "warning", len(lacking), what, why, mend, lacking)
    few = [(name, int(count)) for name, count in zip(names, total, strict=True) if 0 < count < FEW_OBJECTS]
    if few:
        listed = ", ".join(name for name, _ in few[:5]) + (", ..." if few[5:] else "")
        what = f"{counted(len(few), 'class')} with fewer than {FEW_OBJECTS} objects: {listed}"
        lines = [Example(f"{name}: {counted(count, 'object')}") for name, count in sorted(few, key=lambda one: one[1])]
        why = "so few can hardly be learned or measured"
        yield Finding("few-objects", "warning", len(few), what, why, "label more", lines)
    used = total[total > 0]
    if len(used) > 1 and used.max() >= IMBALANCE * used.min():
        most, least = names[int(total.argmax())], names[int(np.where(total > 0, total, total.max()).argmin())]
        what = f"{most} has {used.max():,} objects, {least} only {used.min():,}"
        why, mend = "rare classes are learned late and badly", "label more of the rare classes"
        yield Finding("imbalance", "notice", 1, what, why, mend, [Example(what)])


def _near_names(names: tuple[str, ...]) -> Iterator[list[int]]:
    """Groups of classes whose names are the same but for case, punctuation, plural, or a slip of the pen."""
    by_key: dict[str, list[int]] = defaultdict(list)
    bares = {_bare(name) for name in names}
    for label, name in enumerate(names):
        by_key[_key(name, bares)].append(label)
    yield from (group for group in by_key.values() if len(group) > 1)
    keys = [key for key in by_key if len(key) >= 5][:COMPARED_NAMES]
    for at, one in enumerate(keys):
        for other in keys[at + 1 :]:
            if abs(len(one) - len(other)) > 2 or re.sub(r"\d", "", one) == re.sub(r"\d", "", other):
                continue  # car1 and car2 are two things
            if SequenceMatcher(None, one, other).ratio() >= LIKENESS:
                yield [*by_key[one], *by_key[other]]


def _renaming(names: tuple[str, ...], total: np.ndarray, group: list[int]) -> str:
    """How `--rename` takes it: the rarer name = the commoner one."""
    rarest, *_, most = sorted(group, key=lambda label: int(total[label]))
    return shlex.quote(f"{names[rarest]}={names[most]}")


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _key(name: str, bares: set[str]) -> str:
    """A name without case and punctuation; of a plural the singular, where that is a class too."""
    bare = _bare(name)
    endings = (("s", ""), ("es", ""), ("ies", "y"))
    singulars = (bare.removesuffix(ending) + singular for ending, singular in endings if bare.endswith(ending))
    return next((one for one in singulars if one in bares), bare)
