"""The same image in several splits or several times, and images that look alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onestage.checks.findings import Example, Finding
from onestage.data.similar import copies, fingerprints
from onestage.data.table import Table
from onestage.texts import counted

QUICKLY = 5_000  # images that are decoded where a run waits for it


def check_copies(tables: Mapping[str, Table], *, quick: bool = False) -> Iterator[Finding]:
    """Findings about images that are there twice: across splits they make figures flatter, so those name the first.

    `quick` compares the pixels of small sets only; the names of the files in any case.
    """
    owners = [(split, index) for split, table in tables.items() for index in range(len(table))]
    paths = [tables[split].image_path(index) for split, index in owners]
    first_of: dict[object, int] = {}
    pairs = [(first_of[path], at) for at, path in enumerate(paths) if first_of.setdefault(path, at) != at]
    same_file = len(pairs)
    known = set(pairs)
    if not quick or len(owners) <= QUICKLY:
        prints = np.concatenate([fingerprints(table) for table in tables.values()])
        pairs += [pair for pair in copies(prints) if pair not in known]
    across, within = [], []
    for first, second in pairs:
        (one_split, one), (other_split, other) = owners[first], owners[second]
        names = tables[one_split].image_name(one), tables[other_split].image_name(other)
        if one_split == other_split:
            within.append(Example(f"{names[0]} and {names[1]} are the same image, or nearly", other_split, other))
        else:
            text = f"{names[0]} ({one_split}) and {names[1]} ({other_split}) are the same image, or nearly"
            across.append(Example(text, one_split, one))
    if across:
        what = f"{counted(len(across), 'image')} in two splits" + (
            f", {same_file:,} of them the same files" if same_file else ""
        )
        why = "what was trained on can't be tested on: the figures flatter"
        mend = "delete one of each pair, or make new splits: onestage convert --split"
        yield Finding("overlap", "error", len(across), what, why, mend, across)
    if within:
        what = f"{counted(len(within), 'pair')} of images in one split are the same, or nearly"
        why, mend = "they teach nothing new, and may be labelled in two ways", "delete one of each pair"
        yield Finding("copies", "notice", len(within), what, why, mend, within)
